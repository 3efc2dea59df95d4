"""The audit of the shared chain: sound ones are sound, the first bad block is named, no changed byte goes unseen."""

import random
import shutil
import sqlite3
import tracemalloc
from collections import Counter

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_worlds import ANN, BOB, GENESIS, GENESIS_RECORD, OTHER_GENESIS
from shared_worlds import PEERS, VRF, Writer, certified, charter, note
from test_audit import reindexed

from coterie.errors import LedgerError
from coterie.ledger import LedgerStore, Record, audit
from coterie.ledger.kinds import ROUNDS, Privacy
from coterie.ledger.shared import (
    Accusation,
    Charter,
    Evidence,
    Finality,
    FullSharedBlock,
    Join,
    Leave,
    SharedFault,
    SharedStore,
    Signatures,
    Vote,
    audit_shared,
    changes,
    describe_shared,
    is_shared,
)
from coterie.ledger.shared.ledger import Row

START = charter()
KNOWN = Signatures()
replace = msgspec.structs.replace


def world():
    """Batches in which there is something of everything: joins, leaves, evidence, gaps, tails, groups."""
    writer = Writer(START.checkpoint)
    record = changes.record
    join = Join.make(PEERS[5], GENESIS, VRF[PEERS[5].id].public, 2, until=3)
    one = Vote.make(PEERS[1], GENESIS, 1, 1, "final", b"1" * 32)
    shown = Evidence.of(one, Vote.make(PEERS[1], GENESIS, 1, 1, "dummy"))
    spent = Privacy(budget="labels", uses=3, epsilon=0.5, delta=1e-5)
    batches = [
        writer.write(note(1), record(ANN, join, time=1)),
        writer.write(skip=2),
        writer.close(record(PEERS[2], Leave(genesis=GENESIS, until=2), time=1)),
    ]
    first, second = writer.block(ROUNDS.record(BOB, spent, time=4)), writer.block(note(3), skip=1)
    batches.append(writer.finish(first, second))
    closing = writer.block(record(ANN, Accusation(evidence=shown.encode()), time=1), closes=True)
    batches.append(writer.finish(closing, tail=(writer.block(),)))
    for number in range(4, 7):
        batches += [writer.write(note(number)), writer.close()]
    batches.append(writer.write(note(9)))
    return writer, batches


WRITER, BATCHES = world()
BLOCKS = [full for blocks, _ in BATCHES for full in blocks]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "shared.sqlite"
    with SharedStore(path, START, GENESIS_RECORD, KNOWN) as store:
        for blocks, finality in BATCHES:
            store.add(blocks, finality)
    return path


@pytest.fixture
def copy(sound, tmp_path):
    return shutil.copyfile(sound, tmp_path / "shared.sqlite")


def run(path, *statements):
    with sqlite3.connect(path) as db:
        for statement in statements:
            db.execute(*([statement] if isinstance(statement, str) else statement))
    db.close()


def row_of(path, place):
    block = BLOCKS[place].block
    with sqlite3.connect(path) as db:
        query = "SELECT data FROM blocks WHERE epoch = ? AND height = ?"
        ((data,),) = db.execute(query, (block.epoch, block.height)).fetchall()
    db.close()
    return Row.decode(data)


def put(path, place, data):
    block = BLOCKS[place].block
    values = (data if isinstance(data, bytes) else data.encode(), block.epoch, block.height)
    run(path, ("UPDATE blocks SET data = ? WHERE epoch = ? AND height = ?", values))


def at(place):
    block = BLOCKS[place].block
    return block.epoch, block.height


def test_a_sound_chain(sound):
    found = audit_shared(sound, GENESIS)
    assert found.fault is None
    assert (found.blocks, found.certificates) == (len(BLOCKS), len(BATCHES))
    assert found.records == sum(full.block.count for full in BLOCKS)
    assert found.chain == WRITER.chain
    assert found.last.block == BLOCKS[-1].block
    assert found.changes == {"voter join": 1, "voter leave": 1, "evidence": 1}
    assert found.accused == {PEERS[1].id: 1}
    assert found.proposed == Counter(full.block.proposer for full in BLOCKS)
    assert found.tally.counts == {"privacy": 1}
    words = describe_shared(found)
    spent = f"{BOB.id}, budget labels: epsilon 0.5 at delta 1e-05 in 3 uses"
    for text in ("is sound", GENESIS.hex(), START.id.hex(), BLOCKS[-1].block.id.hex(), "contradicted itself", spent):
        assert text in words
    assert found.chain.state.id.hex() in words


def test_the_voters_were_drawn_from_the_records(sound):
    """The join and the leave of epoch 0 hold from epoch 2, the evidence of epoch 1 from epoch 3."""
    state = audit_shared(sound, GENESIS).chain.state
    assert {voter.key for voter in state.voters.members} == {PEERS[n].id for n in (0, 3, 5)}


def test_an_empty_chain_is_sound(tmp_path):
    SharedStore(tmp_path / "s", START, GENESIS_RECORD).close()
    assert audit_shared(tmp_path / "s", GENESIS).fault is None
    assert "0 final blocks" in describe_shared(audit_shared(tmp_path / "s", GENESIS))


def test_who_vouches_for_the_start(tmp_path, sound):
    """The founder's charter, an id that was asked for, or nobody."""
    assert audit_shared(sound, GENESIS, START.id).pinned
    with pytest.raises(LedgerError, match="starts from"):
        audit_shared(sound, GENESIS, bytes(32))
    SharedStore(tmp_path / "nameless", START).close()
    with pytest.raises(LedgerError, match="does not hold the genesis record") as caught:
        audit_shared(tmp_path / "nameless", GENESIS)
    assert START.id.hex() in caught.value.remedy
    assert audit_shared(tmp_path / "nameless", GENESIS, START.id).fault is None
    SharedStore(tmp_path / "usurped", charter(founder=BOB), GENESIS_RECORD).close()
    assert "founder" in audit_shared(tmp_path / "usurped", GENESIS).fault.what
    own = Record.make(BOB, "genesis", {"name": "digits"}, time=1)  # Bob is the founder of something else
    usurped = (charter(founder=BOB).encode(), own.encode())
    moved = (Charter.make(ANN, OTHER_GENESIS, START.voters, START.beacon).encode(), GENESIS_RECORD.encode())
    for start, founding in (usurped, moved):
        path = shutil.copyfile(sound, tmp_path / "another")
        run(path, ("UPDATE federation SET start = ?, founding = ?", (start, founding)))
        assert "not this federation's" in audit_shared(path, GENESIS).fault.what
    SharedStore(tmp_path / "joined", START.checkpoint, GENESIS_RECORD).close()
    with pytest.raises(LedgerError, match="bears no signature"):
        audit_shared(tmp_path / "joined", GENESIS)
    assert audit_shared(tmp_path / "joined", GENESIS, START.checkpoint.id).fault is None
    with pytest.raises(LedgerError, match="of the federation"):
        audit_shared(sound, OTHER_GENESIS)


def forged():
    """What a block's row is replaced by, at which place, and where the fault is then found."""
    rows = [Row(full, finality if full is blocks[-1] else None) for blocks, finality in BATCHES for full in blocks]
    last = len(rows) - 1
    few = replace(rows[0].finality.certificate, votes=rows[0].finality.certificate.votes[:2])
    writer = Writer(START.checkpoint)
    records = rows[0].full.records
    another = FullSharedBlock(writer.block(records=records, time=5).block, records)
    certificate = certified(START.checkpoint, 1, "final", another.block.id)
    swapped = FullSharedBlock(rows[0].full.block, rows[0].full.records[::-1])
    unsigned = replace(rows[0].full.block, signature=bytes(64))
    liar = Writer(START.checkpoint)
    usurper = next(peer for peer in PEERS if peer.id != START.checkpoint.leader(1))
    stolen = liar.block(proposer=usurper)
    return {
        "less than a quorum": (0, Row(rows[0].full, Finality((), few)), 0),
        "nothing makes it final": (last, Row(rows[last].full, None), last),
        "closing, nothing makes it final": (2, Row(rows[2].full, None), 2),
        "another final block, and what follows does not": (0, Row(another, Finality((), certificate)), 1),
        "records in another order": (0, Row(swapped, rows[0].finality), 0),
        "not signed by its proposer": (0, Row(FullSharedBlock(unsigned, rows[0].full.records), rows[0].finality), 0),
        "a certificate of another block": (1, Row(rows[1].full, rows[0].finality), 1),
        "another block's place": (1, rows[0], 1),
        "not the leader": (0, Row(stolen, liar.finality(stolen)), 0),
        "nothing": (3, b"", 3),
    }


@pytest.mark.parametrize("what", forged())
def test_the_first_bad_block_is_named(copy, what):
    place, row, bad = forged()[what]
    if bad < len(BLOCKS) - 2:
        put(copy, len(BLOCKS) - 2, b"later")  # also bad, but not the first
    put(copy, place, row)
    fault = audit_shared(copy, GENESIS).fault
    assert (fault.epoch, fault.height) == at(bad), fault
    assert f"block {fault.epoch}.{fault.height}" in describe_shared(audit_shared(copy, GENESIS))


STATEMENTS = {
    "DELETE FROM blocks WHERE epoch = 1 AND height = 1": at(4),
    "UPDATE blocks SET height = 9 WHERE epoch = 0 AND height = 1": at(1),
    "UPDATE blocks SET epoch = 'x' WHERE epoch = 0 AND height = 1": at(1),
    "UPDATE blocks SET data = 'text' WHERE epoch = 0 AND height = 1": at(0),
    "UPDATE blocks SET data = zeroblob(3000000) WHERE epoch = 0 AND height = 1": None,
    "UPDATE checkpoints SET data = zeroblob(10) WHERE epoch = 2": at(5),
    "DELETE FROM checkpoints WHERE epoch = 3": at(7),
    "INSERT INTO checkpoints VALUES (77, x'00')": None,
    "DELETE FROM voters": at(2),
    "INSERT INTO voters VALUES (x'00', x'00')": None,
    "DELETE FROM places WHERE epoch = 0 AND height = 1": at(0),
    "INSERT INTO places VALUES (x'00', 1, 1, 1)": None,
    "UPDATE places SET position = 5 WHERE epoch = 1": at(3),
    "UPDATE federation SET start = x'00'": None,
    "UPDATE federation SET start = 'x'": None,
    "UPDATE federation SET founding = x'01'": None,
    "UPDATE federation SET genesis = 7": None,
    "DELETE FROM federation": None,
    "DROP TABLE blocks": None,
    "CREATE TABLE more (x)": None,
    "CREATE TRIGGER t AFTER INSERT ON blocks BEGIN SELECT 1; END": None,
}


@pytest.mark.parametrize("statement", STATEMENTS)
def test_changed_tables_are_found(copy, statement):
    run(copy, statement)
    fault = audit_shared(copy, GENESIS).fault
    assert fault is not None
    wanted = STATEMENTS[statement]
    if wanted is not None:
        assert (fault.epoch, fault.height) == wanted, fault
    assert fault.where in describe_shared(audit_shared(copy, GENESIS))


TABLES = ("blocks", "checkpoints", "voters", "federation", "places")


def content(path):
    """All rows of all tables."""
    with sqlite3.connect(path) as db:
        found = {table: db.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES}  # noqa: S608
    db.close()
    return found


def flipped(value, draw):
    """A value with one bit changed; of a number, one of its lowest 40."""
    if isinstance(value, int):
        return value ^ 1 << draw(st.integers(0, 40))
    bit = draw(st.integers(0, 8 * len(value) - 1))
    bad = bytearray(value)
    bad[bit // 8] ^= 1 << bit % 8
    return bytes(bad)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_every_byte_of_the_content_counts(sound, tmp_path, data):
    """Any bit of any value in any row: blocks with their records and certificates, checkpoints, voters, the charter."""
    path = shutil.copyfile(sound, tmp_path / "changed.sqlite")
    table = data.draw(st.sampled_from(["blocks", *TABLES]))
    with sqlite3.connect(path) as db:
        rows = db.execute(f"SELECT * FROM {table}")  # noqa: S608 - of the tables above
        columns = [column for column, *_ in rows.description]
        row = data.draw(st.sampled_from(rows.fetchall()))
        place = data.draw(st.sampled_from([n for n, value in enumerate(row) if value != b""]))
        row_is = " AND ".join(f"{column} = ?" for column in columns)
        change = f"UPDATE OR REPLACE {table} SET {columns[place]} = ? WHERE {row_is}"  # noqa: S608
        assert db.execute(change, (flipped(row[place], data.draw), *row)).rowcount == 1
    db.close()
    try:
        assert audit_shared(path, GENESIS).fault is not None
    except LedgerError as error:
        assert (table, columns[place]) == ("federation", "genesis"), error


@pytest.mark.parametrize("place", [0, 4])
def test_bytes_of_one_block_count(sound, copy, place):
    """A byte in nine of a block with its records, certificate, proof and tail; it is named."""
    row = row_of(sound, place)
    data = row.encode()
    assert row.finality is not None
    for position in range(place, len(data), 9):
        bad = bytearray(data)
        bad[position] ^= 1 << position % 8
        put(copy, place, bytes(bad))
        fault = audit_shared(copy, GENESIS).fault
        assert (fault.epoch, fault.height) == at(place), position


@pytest.mark.parametrize("seed", range(30))
def test_changed_bytes_anywhere_in_the_file(sound, copy, seed):
    """Whatever is still called sound holds the very same content: only unused room and SQLite's counters changed."""
    draw, data = random.Random(seed), bytearray(copy.read_bytes())
    for _ in range(draw.choice([1, 1, 2, 10])):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    copy.write_bytes(data)
    try:
        found = audit_shared(copy, GENESIS)
    except LedgerError as error:
        assert error.what
        return
    describe_shared(found)
    if found.fault is None:
        assert content(copy) == content(sound)


@pytest.mark.parametrize("junk", [b"", b"x", b"SQLite format 3\0", b"\xff" * 5000, bytes(100000)], ids=range(5))
def test_files_that_are_no_ledgers(tmp_path, junk):
    path = tmp_path / "ledger"
    path.write_bytes(junk)
    assert not is_shared(path)
    try:
        assert audit_shared(path, GENESIS).fault.where == "the file"
    except LedgerError as error:
        assert "not a ledger" in error.what
    assert path.read_bytes() == junk


def test_the_two_kinds_of_ledgers_are_told_apart(sound, tmp_path):
    with LedgerStore(tmp_path / "ledger.sqlite", GENESIS) as store:
        store.put_record(GENESIS_RECORD)
    assert is_shared(sound)
    assert not is_shared(tmp_path / "ledger.sqlite")
    assert not is_shared(tmp_path / "none")
    assert not is_shared(tmp_path)
    with pytest.raises(LedgerError, match="another program's"):
        audit(sound, GENESIS)


def test_a_chain_in_use_is_audited_with_its_log(tmp_path):
    path = tmp_path / "shared.sqlite"
    with SharedStore(path, START, GENESIS_RECORD, KNOWN) as store:
        for number, (blocks, finality) in enumerate(BATCHES, 1):
            store.add(blocks, finality)
            assert audit_shared(path, GENESIS).certificates == number


def test_an_index_that_hides_an_empty_block(tmp_path):
    """No other table says anything of that block."""
    writer, path = Writer(START.checkpoint), tmp_path / "shared.sqlite"
    with SharedStore(path, START, GENESIS_RECORD) as store:
        for _ in range(3):
            store.add(*writer.write())
    reindexed(path, range(2))
    found = audit_shared(path, GENESIS)
    assert found.blocks == 2
    assert "structure" in found.fault.what


def test_a_joiners_chain_is_audited_from_its_checkpoint(tmp_path, sound):
    with SharedStore(sound, START, GENESIS_RECORD, KNOWN) as whole:
        start = whole.checkpoint(2)
        with SharedStore(tmp_path / "shared.sqlite", start, known=KNOWN) as store:
            while (batch := whole.blocks(store.chain.state.epoch, store.chain.height)) is not None:
                store.receive(batch)
    found = audit_shared(tmp_path / "shared.sqlite", GENESIS, start.id)
    assert found.fault is None
    assert found.chain == WRITER.chain


def test_a_shortened_chain_is_a_shorter_chain(copy):
    """What an audit cannot see, and says so."""
    epoch, height = at(len(BLOCKS) - 1)
    run(
        copy,
        ("DELETE FROM blocks WHERE epoch = ? AND height = ?", (epoch, height)),
        ("DELETE FROM places WHERE epoch = ? AND height = ?", (epoch, height)),
    )
    found = audit_shared(copy, GENESIS)
    assert (found.fault, found.blocks) == (None, len(BLOCKS) - 1)
    assert "cut short" in describe_shared(found)


def test_a_chain_written_anew_with_old_keys_is_sound_from_a_charter_only(tmp_path):
    """Voters of epoch 0 whose keys were stolen later: another history, without a fault; the checkpoint tells."""
    thief = Writer(START.checkpoint)
    with SharedStore(tmp_path / "forged", START, GENESIS_RECORD) as store:
        for _ in range(3):
            store.add(*thief.close(note(66)))
    found = audit_shared(tmp_path / "forged", GENESIS)
    assert found.fault is None
    assert found.chain.state.id != WRITER.chain.state.id


def test_memory_does_not_grow_with_the_number_of_blocks(tmp_path):
    peaks, start = [], charter((1,))
    for length in (100, 300):
        path, writer = tmp_path / f"{length}.sqlite", Writer(start.checkpoint)
        with SharedStore(path, start, GENESIS_RECORD) as store:
            for number in range(length):
                store.add(*writer.write(note(number, 1000), closes=number % 10 == 9))
        audit_shared(path, GENESIS)
        tracemalloc.start()
        assert audit_shared(path, GENESIS).blocks == length
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (
        peaks[1] < peaks[0] + 150_000
    )  # 200 blocks more have 200 kB of records; what is remembered is 40 bytes a signature


def test_a_fault_says_where():
    assert SharedFault("x").where == "the file"
    assert SharedFault("x", 3, 4).where == "block 3.4"


def test_a_name_from_the_file_does_not_reach_the_terminal_as_it_is(copy):
    record = Record.make(ANN, "note", {"x": "\x1b[2J"}, time=1)
    block = Writer(START.checkpoint).block(record)
    put(copy, 0, Row(block, None))
    found = audit_shared(copy, GENESIS)
    assert found.fault is not None
    assert "\x1b" not in describe_shared(found)
