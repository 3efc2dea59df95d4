"""The store: what is put in is there after a restart, and nothing else."""

import os
import sqlite3
import subprocess
import sys

import msgspec
import pytest
from ledger_worlds import ANN, BOB, EVE, GENESIS, GENESIS_RECORD, MEMBERS, OTHER_GENESIS, chain, filled, put_aside

from coterie.errors import LedgerError
from coterie.ledger import Block, FullBlock, Head, LedgerStore, Record, tables
from coterie.ledger.catchup import MOST_BATCH_BLOCKS, MOST_BATCH_BYTES

ANNS, BOBS = chain(ANN, 8, per_block=3), chain(BOB, 5)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def store(path):
    with LedgerStore(path, GENESIS) as store:
        yield store


def everything(store):
    chains = {author: store.blocks(author) for author in store.heads()}
    return chains, [record.id for kind in ("genesis", "member", "note") for record in store.records(kind)]


def test_chains_are_there_after_a_restart(path):
    with LedgerStore(path, GENESIS) as store:
        assert store.head(ANN.id) is None
        assert store.heads() == {}
        for one, other in zip(ANNS, BOBS, strict=False):
            store.append(one)
            store.append(other)
        for full in ANNS[5:]:
            assert store.append(full) == store.head(ANN.id)
        before = everything(store)
        assert before[0] == {ANN.id: ANNS, BOB.id: BOBS}
    with LedgerStore(path, GENESIS) as store:
        assert store.damage is None
        assert everything(store) == before
        assert store.heads() == {
            ANN.id: Head(7, Block.decode(ANNS[7].block).id),
            BOB.id: Head(4, Block.decode(BOBS[4].block).id),
        }
        assert list(store.heads()) == sorted([ANN.id, BOB.id])
        assert store.block(ANN.id, 3) == Block.decode(ANNS[3].block)
        assert store.block(ANN.id, 8) is None
        assert store.block(EVE.id, 0) is None


def test_blocks_by_height_and_number(store):
    store.receive(ANNS, MEMBERS)
    assert store.blocks(ANN.id, 2, 3) == ANNS[2:5]
    assert store.blocks(ANN.id, 6, 100) == ANNS[6:]
    assert store.blocks(ANN.id, 8) == store.blocks(ANN.id, 0, 0) == store.blocks(ANN.id, 0, -1) == []
    assert store.blocks(EVE.id) == []


def test_an_answer_fits_into_a_message(store):
    heavy = chain(ANN, 5, per_block=5, filling=60000)
    for full in heavy:
        store.append(full)
    found = store.blocks(ANN.id)
    assert 0 < len(found) < 5
    assert sum(full.nbytes for full in found) <= MOST_BATCH_BYTES
    store.receive(chain(BOB, MOST_BATCH_BLOCKS), MEMBERS)
    store.append(chain(BOB, 1, head=store.head(BOB.id))[0])
    assert len(store.blocks(BOB.id)) == MOST_BATCH_BLOCKS


def test_a_block_that_does_not_fit_leaves_no_trace(store):
    store.append(ANNS[0])
    for bad in (ANNS[0], ANNS[2], FullBlock(ANNS[1].block, ANNS[2].records), chain(BOB, 1, genesis=OTHER_GENESIS)[0]):
        with pytest.raises(LedgerError):
            store.append(bad)
    assert store.blocks(ANN.id) == ANNS[:1]
    assert store.record(Record.decode(ANNS[2].records[0]).id) is None
    store.append(ANNS[1])


def test_an_interrupted_append_leaves_no_trace(path, monkeypatch):
    def interrupted(*arguments):
        write_block(*arguments)
        raise KeyboardInterrupt

    write_block = tables.write_block
    with LedgerStore(path, GENESIS) as store:
        store.append(ANNS[0])
        monkeypatch.setattr(tables, "write_block", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.append(ANNS[1])
        monkeypatch.undo()
        assert store.blocks(ANN.id) == ANNS[:1]
        assert store.append(ANNS[1]) == store.head(ANN.id)
    with LedgerStore(path, GENESIS) as store:
        assert store.blocks(ANN.id) == ANNS[:2]


def test_records_are_found_by_their_id_with_proof(store):
    store.receive(ANNS + BOBS, MEMBERS)
    for full in (ANNS[0], ANNS[5], BOBS[4]):
        for data in full.records:
            record = Record.decode(data)
            assert store.record(record.id) == record
            proof = store.proof(record.id)
            assert proof.proves(record, GENESIS)
            assert proof.block == Block.decode(full.block)
    assert store.record(bytes(32)) is None
    with pytest.raises(LedgerError, match="in no block"):
        store.proof(bytes(32))


def test_a_record_that_is_not_in_its_place_is_not_given_out(store):
    store.receive(ANNS, MEMBERS)
    record = Record.decode(ANNS[3].records[1])
    for place in ("position = 0", "position = 7", "position = -1", "position = 'x'", "block = 1"):
        store._db.execute("BEGIN")
        store._db.execute(f"UPDATE places SET {place} WHERE id = ?", (record.id,))  # noqa: S608
        for question in (store.record, store.proof):
            with pytest.raises(LedgerError, match="not in its place") as caught:
                question(record.id)
            assert "again" in caught.value.remedy
        store._db.execute("ROLLBACK")
    assert store.record(record.id) == record


def test_a_record_that_is_in_two_blocks_is_proved_by_the_first(store):
    record = Record.make(BOB, "receipt", {}, time=5)
    from ledger_worlds import following

    first = following(ANN, None, [record], time=10)
    for block in (first, following(ANN, first, [record], time=11)):
        store.append(FullBlock.of(block, [record]))
    assert store.proof(record.id).block == first


def test_records_outside_chains(path):
    notes = [Record.make(who, "note", {"n": n}, time=100 - n) for n, who in enumerate([ANN, BOB, EVE] * 4)]
    member = Record.make(ANN, "member", {"peer": BOB.id}, parents=[GENESIS], time=4)
    with LedgerStore(path, GENESIS) as store:
        assert store.put_record(GENESIS_RECORD)
        for note in notes:
            assert store.put_record(note)
        assert store.put_record(member)
        assert not store.put_record(notes[3])
    with LedgerStore(path, GENESIS) as store:
        assert store.records("note") == notes
        assert store.records("member") == [member]
        assert store.records("genesis") == [GENESIS_RECORD]
        assert store.records("no such kind") == []
        assert store.record(member.id) == member
        with pytest.raises(LedgerError, match="in no block"):
            store.proof(member.id)


def test_a_loose_record_is_checked(store):
    note = Record.make(ANN, "note", {}, time=5)
    for bad in ({"time": 6}, {"author": BOB.id}, {"kind": "NOTE"}, {"signature": bytes(64)}):
        with pytest.raises(LedgerError):
            store.put_record(msgspec.structs.replace(note, **bad))
    with pytest.raises(LedgerError, match="another federation"):
        store.put_record(Record.make(EVE, "genesis", {}, time=1))
    assert everything(store) == ({}, [])


def test_writing_is_durable_before_it_returns(store):
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_one_process_at_a_time(path, store):
    with pytest.raises(LedgerError, match="another process"):
        LedgerStore(path, GENESIS)
    script = f"""
import sys
from pathlib import Path
from coterie.errors import LedgerError
from coterie.ledger import LedgerStore
try:
    LedgerStore(Path({str(path)!r}), bytes.fromhex({GENESIS.hex()!r}))
except LedgerError as error:
    sys.exit(str(error))
"""
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert "must not run twice" in other.stderr
    assert "Traceback" not in other.stderr
    store.close()
    store.close()
    LedgerStore(path, GENESIS).close()


def test_a_closed_ledger_is_free_although_a_forked_process_lives_on(path):
    with LedgerStore(path, GENESIS):
        waits, ends = os.pipe()
        child = os.fork()
        if not child:
            os.close(ends)
            os.read(waits, 1)
            os._exit(0)
    try:
        LedgerStore(path, GENESIS).close()
    finally:
        os.close(ends)
        os.waitpid(child, 0)
        os.close(waits)


def test_a_newer_version_is_refused_and_not_touched(path):
    filled(path, {ANN: 3})
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=2")
    db.close()
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="version 2") as caught:
        LedgerStore(path, GENESIS)
    assert "pip install --upgrade" in caught.value.remedy
    assert path.read_bytes() == before


def test_other_files_are_refused_and_not_touched(path):
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE photographs (name)")
    db.close()
    with pytest.raises(LedgerError, match="another program's database"):
        LedgerStore(path, GENESIS)
    with pytest.raises(LedgerError, match="the file is empty"):
        path.with_name("empty").touch()
        LedgerStore(path.with_name("empty"), GENESIS)
    for content in (path.read_bytes(), b"", b"x", b"a poem of no great length\n" * 999, bytes(8192)):
        path.write_bytes(content)
        with pytest.raises(LedgerError) as caught:
            LedgerStore(path, GENESIS)
        assert caught.value.remedy
        assert path.read_bytes() == content
    assert not list(path.parent.glob("*.damaged*"))


def test_a_ledger_of_another_federation_is_refused(path):
    filled(path, {ANN: 3})
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="of the federation"):
        LedgerStore(path, OTHER_GENESIS)
    assert path.read_bytes() == before
    with pytest.raises(LedgerError, match="32 bytes"):
        LedgerStore(path, b"short")


def test_a_log_without_its_file_is_not_thrown_away(path):
    path.with_name("ledger.sqlite-wal").write_bytes(b"something")
    with pytest.raises(LedgerError, match="still in its log"):
        LedgerStore(path, GENESIS)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(LedgerError, match="cannot be opened"):
        LedgerStore(tmp_path / "no" / "ledger.sqlite", GENESIS)
    (tmp_path / "folder").mkdir()
    with pytest.raises(LedgerError):
        LedgerStore(tmp_path / "folder", GENESIS)


def test_a_name_with_odd_characters(tmp_path):
    path = tmp_path / "a ledger?mode=memory#100%.sqlite"
    filled(path, {ANN: 2})
    with LedgerStore(path, GENESIS) as store:
        assert store.head(ANN.id).height == 1
    assert path.exists()


def test_a_block_set_aside_joins_its_chain_when_those_before_have_come(path):
    with LedgerStore(path, GENESIS) as store:
        store.receive(ANNS[:3], MEMBERS)
    put_aside(path, ANNS[5])
    with LedgerStore(path, GENESIS) as store:
        assert store.awaited(ANN.id) == 5
        store.append(ANNS[3])
        assert store.awaited(ANN.id) == 5
        store.receive(ANNS[4:6], MEMBERS)
        assert store.awaited(ANN.id) is None
        assert store.blocks(ANN.id) == ANNS[:6]
    with LedgerStore(path, GENESIS) as store:
        assert store.awaited(ANN.id) is None


def test_a_crash_before_blocks_are_joined_is_made_good_on_opening(path):
    filled(path, {ANN: 2})
    more = chain(ANN, 4)[2:]
    put_aside(path, *more)
    with sqlite3.connect(path) as db:
        db.execute("INSERT INTO aside (author, height, data) VALUES (?, 1, x'00')", (ANN.id,))
    db.close()
    with LedgerStore(path, GENESIS) as store:
        assert store.awaited(ANN.id) is None
        assert store.blocks(ANN.id, 2) == more
        assert store._db.execute("SELECT count(*) FROM aside").fetchone() == (0,)
