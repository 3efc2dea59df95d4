"""The shared chain on disk and in memory: one interface, the same answers; catching up and proofs."""

import hashlib
import random
import sqlite3

import msgspec
import pytest
from ledger_worlds import GENESIS, GENESIS_RECORD
from shared_worlds import Writer, charter, note, written

from coterie.errors import LedgerError
from coterie.ledger import LedgerStore, merkle
from coterie.ledger.shared import (
    Batch,
    FinalProof,
    FullSharedBlock,
    SharedMemory,
    SharedStore,
    Signatures,
    audit_shared,
    tables,
)
from coterie.ledger.shared.blocks import LAST_OPEN, MOST_HEADERS

START = charter()


@pytest.fixture(params=["file", "memory"])
def ledger(request, tmp_path):
    if request.param == "memory":
        yield SharedMemory(START)
    else:
        with SharedStore(tmp_path / "shared.sqlite", START, GENESIS_RECORD) as store:
            yield store


@pytest.fixture(scope="module")
def chain():
    return written(START.checkpoint, epochs=4)


def filled(ledger, batches):
    for blocks, finality in batches:
        ledger.add(blocks, finality)
    return ledger


def test_what_was_added_is_there(ledger, chain):
    writer, batches = chain
    filled(ledger, batches)
    assert ledger.chain == writer.chain
    for blocks, _ in batches:
        for full in blocks:
            assert ledger.block(full.block.epoch, full.block.height) == full
    assert ledger.block(0, 2) is None  # a dummy was there
    assert ledger.block(9, 1) is None
    wanted = note(2)
    assert ledger.record(wanted.id) == wanted
    assert ledger.record(bytes(32)) is None


def test_checkpoints_of_all_epochs(ledger, chain):
    writer = Writer(START.checkpoint)
    states = [writer.state]
    for epoch in range(4):
        filled(ledger, [writer.write(note(epoch)), writer.close()])
        states.append(writer.state)
    assert [ledger.checkpoint(epoch) for epoch in range(6)] == [*states, None]


def test_what_does_not_follow_is_not_added(ledger, chain):
    _, batches = chain
    filled(ledger, batches[:2])
    before = ledger.chain
    for blocks, finality in (batches[3], batches[0]):
        with pytest.raises(LedgerError):
            ledger.add(blocks, finality)
    assert ledger.chain == before
    filled(ledger, batches[2:])


@pytest.mark.parametrize("limit", [1, 2, 3, 256])
def test_catching_up(ledger, chain, limit):
    """From nothing, by as many blocks at a time as asked for; what comes is bytes."""
    writer, batches = chain
    filled(ledger, batches)
    joiner, taken = SharedMemory(START), []
    while (batch := ledger.blocks(joiner.chain.state.epoch, joiner.chain.height, limit)) is not None:
        assert len(batch.blocks) <= limit
        taken += joiner.receive(Batch.decode(batch.encode()))
        assert joiner.receive(batch) == ()
    assert joiner.chain == writer.chain
    assert [checked.block for checked in taken] == [full.block for blocks, _ in batches for full in blocks]


def test_a_batch_that_overlaps_adds_what_is_new(ledger, chain):
    _, batches = chain
    filled(ledger, batches[:1])
    whole = filled(SharedMemory(START), batches).blocks(0, 0)
    new = ledger.receive(whole)
    assert [checked.block for checked in new] == [full.block for full in whole.blocks[1:]]


def test_another_block_than_the_final_one_is_refused(ledger, chain):
    _, batches = chain
    filled(ledger, batches[:2])
    other = Writer(START.checkpoint)
    blocks, finality = other.write(note(77))
    with pytest.raises(LedgerError, match="another block than the final one"):
        ledger.receive(Batch(blocks, finality))


def test_a_joiner_begins_at_a_checkpoint(chain, tmp_path):
    writer, batches = chain
    full = filled(SharedMemory(START), batches)
    start = full.checkpoint(2)
    joiner = SharedStore(tmp_path / "shared.sqlite", start)
    while (batch := full.blocks(joiner.chain.state.epoch, joiner.chain.height)) is not None:
        joiner.receive(batch)
    assert joiner.chain == writer.chain
    assert joiner.block(1, 1) is None
    assert joiner.receive(full.blocks(0, 0)) == ()  # before its start: it cannot know, and need not
    assert [joiner.checkpoint(epoch) == full.checkpoint(epoch) for epoch in range(5)] == [
        False,
        False,
        True,
        True,
        True,
    ]
    joiner.close()
    with SharedStore(tmp_path / "shared.sqlite", start) as again:
        assert again.chain == writer.chain


def test_a_batch_fits_into_a_message():
    writer = Writer(START.checkpoint)
    ledger = SharedMemory(START)
    blocks = [writer.block(*[note(10 * n + i, 60_000) for i in range(8)]) for n in range(4)]
    ledger.add(*writer.finish(*blocks))
    batch = ledger.blocks(0, 0)
    assert len(batch.blocks) == 1
    assert list(batch.finality.headers) == [full.block for full in blocks[1:]]
    assert len(batch.encode()) < 1 << 20


def test_the_longest_epoch_that_one_certificate_makes_final(tmp_path):
    """As many blocks as an epoch may have, none final by itself, and a longer tail: everybody can come to know it."""
    start = charter((1,))
    writer = Writer(start.checkpoint)
    first = writer.block(note(1), note(2))
    blocks = [first, *(writer.block() for _ in range(LAST_OPEN - 1)), writer.block(closes=True)]
    batch = writer.finish(*blocks, tail=[writer.block() for _ in range(MOST_HEADERS + 1)])
    with SharedStore(tmp_path / "one.sqlite", start, known=writer.known) as store:
        store.add(*batch)
    with SharedStore(tmp_path / "one.sqlite", start) as store:  # it is read as it was written
        assert store.damage is None
        assert store.chain.state == writer.state
        proof = FinalProof.decode(store.proof(note(1).id).encode())
        assert len(proof.finality.headers) == MOST_HEADERS
        assert proof.proves(note(1), start.checkpoint)
        other = SharedMemory(start)
        for limit in (1, 100, 256):
            found = store.blocks(other.chain.state.epoch, other.chain.height, limit)
            other.receive(Batch.decode(found.encode()))
        assert other.chain == store.chain
    result = audit_shared(tmp_path / "one.sqlite", GENESIS, start.id)
    assert (result.fault, result.blocks) == (None, LAST_OPEN + 1)


def test_proofs_of_records(ledger, chain):
    """Anybody who knows the epoch's checkpoint can check one; the path is that of an independent tree."""
    _, batches = chain
    filled(ledger, batches)
    for number in range(20):
        wanted = note(number)
        proof = FinalProof.decode(ledger.proof(wanted.id).encode())
        state = ledger.checkpoint(proof.block.epoch)
        assert proof.proves(wanted, state)
        assert not proof.proves(note(number + 1), state)
        assert not proof.proves(wanted, ledger.checkpoint(proof.block.epoch + 1))
        full = ledger.block(proof.block.epoch, proof.block.height)
        assert merkle.tree_hash(full.records) == proof.block.root
        if len(full.records) == 2:
            other = full.records[1 - proof.index]
            assert proof.path == (hashlib.sha256(b"\0" + other).digest(),)
        bare = msgspec.structs.replace(proof.finality.certificate, votes=proof.finality.certificate.votes[:1])
        forged = msgspec.structs.replace(proof, finality=msgspec.structs.replace(proof.finality, certificate=bare))
        assert not forged.proves(wanted, state)
        unsigned = msgspec.structs.replace(proof, block=msgspec.structs.replace(proof.block, signature=bytes(64)))
        assert not unsigned.proves(wanted, state)
    with pytest.raises(LedgerError, match="no final block"):
        ledger.proof(bytes(32))


def test_nothing_is_checked_twice(chain, monkeypatch):
    """A second peer in the same process adds the whole chain without one signature check."""
    _, batches = chain
    known = Signatures()
    filled(SharedMemory(START, known), batches[:4])
    monkeypatch.delattr("coterie.ledger.shared.signatures.verify")
    monkeypatch.delattr("coterie.ledger.records.verify")
    filled(SharedMemory(START, known), batches[:4])


def test_a_store_opens_again(tmp_path, chain):
    writer, batches = chain
    path = tmp_path / "shared.sqlite"
    for number, (blocks, finality) in enumerate(batches):
        with SharedStore(path, START, GENESIS_RECORD) as store:
            assert store.damage is None
            store.add(blocks, finality)
            assert store.block(0, 1) == batches[0][0][0], number
    with SharedStore(path, START, GENESIS_RECORD) as store:
        assert store.chain == writer.chain


def test_a_file_of_another_start_is_refused(tmp_path, chain):
    path = tmp_path / "shared.sqlite"
    with SharedStore(path, START) as store:
        filled(store, chain[1])
    before = path.read_bytes()
    for start in (charter((1, 1, 1, 2)), charter(lock_epochs=4), START.checkpoint):
        with pytest.raises(LedgerError, match="starts from") as caught:
            SharedStore(path, start)
        assert caught.value.remedy
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2  # and its lock


def test_a_ledger_of_the_other_kind_is_refused(tmp_path):
    path = tmp_path / "shared.sqlite"
    SharedStore(path, START).close()
    with pytest.raises(LedgerError, match="another program's"):
        LedgerStore(path, START.genesis)


def test_a_full_database_leaves_what_was_there(tmp_path):
    writer = Writer(START.checkpoint)
    with SharedStore(tmp_path / "shared.sqlite", START) as store:
        (pages,) = store._db.execute("PRAGMA page_count").fetchone()
        store._db.execute(f"PRAGMA max_page_count={pages + 20}")
        with pytest.raises(LedgerError, match="no room"):
            for number in range(100):
                batch = writer.write(note(number, 2000))
                store.add(*batch)
        height = store.chain.height
        assert height > 3
        store._db.execute("PRAGMA max_page_count=100000")
        store.add(*batch)
        assert store.chain.height == height + 1


def test_a_write_cut_short_adds_nothing(tmp_path, chain, monkeypatch):
    """A closing block and the next epoch's checkpoint come together or not at all."""
    _, batches = chain
    path = tmp_path / "shared.sqlite"
    with SharedStore(path, START) as store:
        filled(store, batches[:3])
        before = store.chain

        def interrupted(db, state):
            raise sqlite3.OperationalError("cut short")

        with monkeypatch.context() as patch:
            patch.setattr(tables, "write_checkpoint", interrupted)
            with pytest.raises(LedgerError):
                store.add(*batches[3])
        assert store.chain == before
        assert store.block(0, batches[3][0][0].block.height) is None
        store.add(*batches[3])
    with SharedStore(path, START) as store:
        assert store.chain.state.epoch == 1


def test_garbage_from_others_is_refused(chain):
    """Bytes changed anywhere in a batch: never another error, and never another chain."""
    _, batches = chain
    good = filled(SharedMemory(START), batches).blocks(0, 0)
    data, draw = good.encode(), random.Random(3)
    for _ in range(200):
        bad = bytearray(data)
        bad[draw.randrange(len(bad))] ^= 1 << draw.randrange(8)
        joiner = SharedMemory(START)
        with pytest.raises(LedgerError):
            joiner.receive(Batch.decode(bytes(bad)))
        assert joiner.chain.height == 0
    assert isinstance(good.blocks[0], FullSharedBlock)
