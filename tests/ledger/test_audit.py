"""The audit: sound ledgers are sound, the first fault is named, and no file can make it fail."""

import os
import random
import shutil
import sqlite3
import tracemalloc

import pytest
from ledger_worlds import ANN, BOB, EVE, GENESIS, GENESIS_RECORD, OTHER_GENESIS, chain, filled, following, put_aside

from coterie.errors import LedgerError
from coterie.ledger import Block, Fault, FullBlock, LedgerStore, PeerLedger, Record, audit, describe

FIRST, SECOND = sorted((ANN, BOB), key=lambda identity: identity.id)
NOTES = [Record.make(EVE, "note", {"n": number}, time=number) for number in range(3)]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "ledger.sqlite"
    blocks = filled(path, {FIRST: 6, SECOND: 4}, per_block=3, filling=50)
    with LedgerStore(path, GENESIS) as store:
        for note in NOTES:
            store.put_record(note)
    return path, blocks


@pytest.fixture
def copy(sound, tmp_path):
    return shutil.copyfile(sound[0], tmp_path / "ledger.sqlite")


def changed(path, *statements):
    """Run SQL on a ledger, as somebody with access to the file might."""
    with sqlite3.connect(path) as db:
        for statement in statements:
            sql, *values = [statement] if isinstance(statement, str) else statement
            sql = sql.replace("FIRST", f"'{FIRST.id}'").replace("SECOND", f"'{SECOND.id}'")
            db.execute(sql, *values)
    db.close()


def replaced(path, author, height, full):
    data = full if isinstance(full, bytes) else full.encode()
    changed(path, ("UPDATE blocks SET data = ? WHERE author = ? AND height = ?", (data, author, height)))


def test_a_sound_ledger(sound):
    found = audit(sound[0], GENESIS)
    assert found.fault is None
    assert (found.blocks, found.records, found.loose, found.aside) == (10, 34, 4, 0)
    assert {author: (chain.blocks, chain.records) for author, chain in found.chains.items()} == {
        FIRST.id: (6, 18),
        SECOND.id: (4, 12),
    }
    assert found.signed == {ANN.id: 1 + (18 if FIRST is ANN else 12), BOB.id: 18 if FIRST is BOB else 12, EVE.id: 3}
    assert found.chains[FIRST.id].head == Block.decode(sound[1][FIRST.id][-1].block)
    words = describe(found)
    assert "is sound" in words
    assert "10 blocks in 2 chains and 34 records, 4 of them outside chains" in words
    for text in (GENESIS.hex(), ANN.id, BOB.id, EVE.id, found.chains[SECOND.id].head.id.hex(), "1970-01-01"):
        assert text in words


def test_an_empty_ledger_with_its_genesis_record_is_sound(tmp_path):
    with LedgerStore(tmp_path / "ledger", GENESIS) as store:
        store.put_record(GENESIS_RECORD)
    assert audit(tmp_path / "ledger", GENESIS).fault is None
    assert "0 blocks in 0 chains and 1 record, 1 of them" in describe(audit(tmp_path / "ledger", GENESIS))


@pytest.mark.parametrize("height", [0, 3, 5])
@pytest.mark.parametrize("index", [0, 2])
def test_the_first_bad_record_is_named(sound, copy, height, index):
    """A bit changed in a record, the block as it was; a later one is bad too."""
    blocks = sound[1][FIRST.id]
    full = blocks[height]
    for position in (0, 40, len(full.records[index]) // 2, len(full.records[index]) - 1):
        bad = bytearray(full.records[index])
        bad[position] ^= 4
        records = [bytes(bad) if number == index else data for number, data in enumerate(full.records)]
        replaced(copy, FIRST.id, height, FullBlock(full.block, tuple(records)))
        replaced(copy, SECOND.id, 1, b"")
        found = audit(copy, GENESIS)
        assert (found.fault.author, found.fault.height, found.fault.index) == (FIRST.id, height, index)
        assert found.blocks == height
        assert f"block {height} of {FIRST.id}, record {index}" in describe(found)
        assert "NOT sound" in describe(found)


def at_block(author, height):
    return lambda fault: (fault.author, fault.height, fault.index) == (author, height, None)


def resigned(blocks, height, identity=FIRST):
    """Another block in that place, well formed and signed."""
    record = Record.make(identity, "round", {"round": "another"}, time=2000 + height)
    head = Block.decode(blocks[height - 1].block) if height else None
    return FullBlock.of(following(identity, head, [record]), [record])


def test_the_first_bad_block_is_named(sound, copy, tmp_path):
    first, second = sound[1][FIRST.id], sound[1][SECOND.id]
    bit = bytearray(first[2].block)
    bit[100] ^= 1
    tampered = {
        "a bit": (2, FullBlock(bytes(bit), first[2].records)),
        "a record less": (2, FullBlock(first[2].block, first[2].records[:2])),
        "two records swapped": (2, FullBlock(first[2].block, first[2].records[::-1])),
        "other records": (2, FullBlock(first[2].block, second[2].records)),
        "another's block": (2, second[2]),
        "another height's": (2, first[3]),
        "the author itself wrote it anew": (2, resigned(first, 2)),  # noticed one block later
        "the last one": (5, first[4]),
        "of another federation": (0, chain(FIRST, 1, genesis=OTHER_GENESIS)[0]),
        "nothing": (4, b""),
        "no bytes": (4, FullBlock(b"", ())),
    }
    for what, (height, full) in tampered.items():
        path = shutil.copyfile(sound[0], tmp_path / "tampered")
        replaced(path, FIRST.id, height, full)
        found = audit(path, GENESIS)
        late = what == "the author itself wrote it anew"
        assert at_block(FIRST.id, height + late)(found.fault), (what, found.fault)
        assert found.blocks == height + late


def test_rows_in_other_places(sound, tmp_path):
    tampering = {
        "DELETE FROM blocks WHERE author = FIRST AND height = 2": at_block(FIRST.id, 2),
        "UPDATE blocks SET height = 7 WHERE author = FIRST AND height = 5": at_block(FIRST.id, 5),
        "UPDATE blocks SET author = 'f' WHERE author = SECOND AND height = 3": at_block("f", 0),
        "UPDATE blocks SET author = x'ff' WHERE author = SECOND AND height = 3": lambda fault: fault.author,
        "UPDATE blocks SET author = CAST(x'ff' AS TEXT) WHERE author = SECOND": lambda fault: fault.what,
        "UPDATE blocks SET height = 'x' WHERE author = FIRST AND height = 5": at_block(FIRST.id, 5),
        "UPDATE blocks SET data = 'text' WHERE author = FIRST AND height = 1": at_block(FIRST.id, 1),
        "UPDATE blocks SET data = 7 WHERE author = FIRST AND height = 1": at_block(FIRST.id, 1),
        "UPDATE blocks SET data = zeroblob(3000000) WHERE author = FIRST AND height = 1": lambda fault: (
            "big" in fault.what
        ),
        "DELETE FROM blocks WHERE height = 0": at_block(FIRST.id, 0),
        "DELETE FROM loose WHERE seq = 1": lambda fault: "genesis record is missing" in fault.what,
        "UPDATE loose SET data = x'00' WHERE seq = 3": lambda fault: (fault.author, fault.index) == (None, 2),
        "UPDATE loose SET kind = 'member' WHERE seq = 3": lambda fault: (fault.author, fault.index) == (None, 2),
        "UPDATE loose SET id = x'00' WHERE seq = 2": lambda fault: (fault.author, fault.index) == (None, 1),
        "UPDATE loose SET data = 3.5 WHERE seq = 2": lambda fault: (fault.author, fault.index) == (None, 1),
        "UPDATE loose SET data = zeroblob(3000000) WHERE seq = 2": lambda fault: "big" in fault.what,
        "UPDATE loose SET seq = -5 WHERE seq = 2": lambda fault: (fault.author, fault.index) == (None, 0),
        "DELETE FROM federation": lambda fault: "federation" in fault.what,
        "UPDATE federation SET genesis = 7": lambda fault: "federation" in fault.what,
        "UPDATE federation SET genesis = zeroblob(100000000)": lambda fault: fault.what,
        "DROP TABLE blocks": lambda fault: "tables" in fault.what,
        "DROP TABLE loose": lambda fault: "tables" in fault.what,
        "CREATE TABLE more (x)": lambda fault: "tables" in fault.what,
        "CREATE TRIGGER t AFTER INSERT ON blocks BEGIN SELECT 1; END": lambda fault: "tables" in fault.what,
    }
    for statement, right in tampering.items():
        path = shutil.copyfile(sound[0], tmp_path / "tampered")
        changed(path, statement)
        found = audit(path, GENESIS)
        assert found.fault is not None, statement
        assert right(found.fault), (statement, found.fault)
        assert found.fault.where in describe(found)


def reindexed(path, order):
    """Write the index over authors and heights, which is one leaf page here, with its rows in another order."""
    with sqlite3.connect(path) as db:
        (root,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_blocks_1'").fetchone()
    db.close()
    data = bytearray(path.read_bytes())
    start = (root - 1) * 4096
    assert data[start] == 0x0A
    count = int.from_bytes(data[start + 3 : start + 5], "big")
    cells = [bytes(data[start + 8 + 2 * n : start + 10 + 2 * n]) for n in range(count)]
    chosen = b"".join(cells[n] for n in order)
    data[start + 3 : start + 5] = len(order).to_bytes(2, "big")
    data[start + 8 : start + 8 + len(chosen)] = chosen
    path.write_bytes(data)


def test_an_index_that_leads_round_in_circles(copy):
    """Rows that come again could go on for ever in a file made for it: they are a fault at once."""
    reindexed(copy, range(10))
    assert audit(copy, GENESIS).fault is None
    for order in ([*range(5), *range(6, 10), 5], [*range(10), 0], [0, 0, *range(1, 10)], [1, 0, *range(2, 10)]):
        reindexed(copy, range(10))
        content = copy.read_bytes()
        reindexed(copy, order)
        fault = audit(copy, GENESIS).fault
        assert "out of order" in fault.what or "must come first" in fault.what
        assert "order" in fault.what or fault.author == FIRST.id
        copy.write_bytes(content)


def test_an_index_that_hides_a_block(copy):
    """The rows it shows are a sound, shorter chain; the row that it does not show is found all the same."""
    reindexed(copy, range(9))
    found = audit(copy, GENESIS)
    assert found.blocks == 9
    assert "structure" in found.fault.what


def test_a_view_that_never_ends_is_not_read(copy):
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x AS seq, x AS id, x, x FROM n"
    changed(copy, "DROP TABLE loose", f"CREATE VIEW loose AS {endless}")
    assert "tables" in audit(copy, GENESIS).fault.what


def test_a_name_from_the_file_does_not_reach_the_terminal_as_it_is(copy):
    changed(
        copy,
        "PRAGMA writable_schema=ON",
        ("UPDATE sqlite_master SET name = ?, sql = 'CREATE nonsense' WHERE name = 'places'", ("\x1b[2J" * 300,)),
    )
    found = audit(copy, GENESIS)
    assert found.fault is not None
    assert "\x1b" not in describe(found)
    assert len(found.fault.what) < 1000


def test_another_genesis(sound, copy):
    with pytest.raises(LedgerError, match="of the federation"):
        audit(copy, OTHER_GENESIS)
    changed(copy, ("UPDATE federation SET genesis = ?", (OTHER_GENESIS,)))
    assert "not this federation's" in audit(copy, OTHER_GENESIS).fault.what
    with pytest.raises(LedgerError):
        audit(copy, GENESIS)
    with pytest.raises(LedgerError, match="32 bytes"):
        audit(sound[0], b"short")


def test_what_cannot_be_audited(tmp_path, copy):
    with pytest.raises(LedgerError, match="No such file"):
        audit(tmp_path / "none", GENESIS)
    with pytest.raises(LedgerError, match="not a file"):
        audit(tmp_path, GENESIS)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LedgerError, match="not a file"):
        audit(tmp_path / "pipe", GENESIS)
    changed(copy, "PRAGMA user_version=9")
    with pytest.raises(LedgerError, match="version 9"):
        audit(copy, GENESIS)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"SQLite format 3\0", b"\xff" * 5000, bytes(100000), b"SQLite format 3\0" * 999],
    ids=range(6),
)
def test_files_that_are_no_ledgers(tmp_path, content):
    path = tmp_path / "ledger"
    path.write_bytes(content)
    try:
        found = audit(path, GENESIS)
    except LedgerError as error:
        assert "not a ledger" in error.what
    else:
        assert found.fault is not None
        assert found.fault.where == "the file"
    assert path.read_bytes() == content


@pytest.mark.parametrize("seed", range(24))
def test_changed_bytes_anywhere(sound, copy, seed):
    """Whatever is still called sound holds the very same blocks and records."""
    draw, data = random.Random(seed), bytearray(copy.read_bytes())
    for _ in range(draw.choice([1, 2, 10, 100])):
        at = draw.randrange(len(data))
        data[at : at + 1] = draw.randbytes(1)
    copy.write_bytes(data[: draw.choice([len(data), draw.randrange(len(data))])])
    try:
        found = audit(copy, GENESIS)
    except LedgerError as error:
        assert error.what
        return
    describe(found)
    if found.fault is None:
        whole = audit(sound[0], GENESIS)
        assert (found.chains, found.signed, found.loose) == (whole.chains, whole.signed, whole.loose)


def test_every_byte_of_a_block_counts(sound, copy):
    full = sound[1][FIRST.id][3]
    content = copy.read_bytes()
    start = content.index(full.encode())
    for position in range(0, full.nbytes, 7):
        data = bytearray(content)
        data[start + position] ^= 16
        copy.write_bytes(data)
        fault = audit(copy, GENESIS).fault
        assert (fault.author, fault.height) == (FIRST.id, 3)


def test_a_shortened_chain_is_a_shorter_chain(sound, copy):
    """What an audit cannot see, and says so."""
    changed(
        copy,
        "DELETE FROM places WHERE block IN (SELECT seq FROM blocks WHERE author = FIRST AND height > 3)",
        "DELETE FROM blocks WHERE author = FIRST AND height > 3",
    )
    found = audit(copy, GENESIS)
    assert found.fault is None
    assert found.chains[FIRST.id].blocks == 4
    assert "cut short" in describe(found)


def test_a_ledger_in_use_is_audited_with_its_log(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with LedgerStore(path, GENESIS) as store:
        store.put_record(GENESIS_RECORD)
        for number in range(5):
            PeerLedger(ANN, store).append("round", {"round": number})
            assert audit(path, GENESIS).blocks == number + 1
        PeerLedger(ANN, store).append("round", {})
        assert store.head(ANN.id).height == 5


def test_a_ledger_that_may_only_be_read_is_not_touched(copy):
    before, folder = copy.read_bytes(), copy.parent
    copy.chmod(0o400)
    folder.chmod(0o500)
    try:
        assert audit(copy, GENESIS).fault is None
        assert [file.name for file in folder.iterdir()] == ["ledger.sqlite"]
    finally:
        folder.chmod(0o700)
    assert copy.read_bytes() == before


def test_blocks_that_wait_are_counted(sound, copy):
    put_aside(copy, chain(EVE, 3)[2])
    found = audit(copy, GENESIS)
    assert (found.fault, found.aside) == (None, 1)
    assert "1 block could not be joined" in describe(found)


def test_any_time_can_be_shown(tmp_path):
    record = Record.make(ANN, "round", {}, time=5)
    block = following(ANN, None, [record], time=(1 << 53) - 1)
    with LedgerStore(tmp_path / "l", GENESIS) as store:
        store.put_record(GENESIS_RECORD)
        store.append(FullBlock.of(block, [record]))
    assert f"{(1 << 53) - 1} ms" in describe(audit(tmp_path / "l", GENESIS))


def test_memory_does_not_grow_with_the_number_of_blocks(tmp_path):
    peaks = []
    for length in (100, 500):
        path = tmp_path / f"{length}.sqlite"
        filled(path, {ANN: length}, filling=400)
        audit(path, GENESIS)
        tracemalloc.start()
        assert audit(path, GENESIS).blocks == length
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 50_000  # four hundred blocks more have 400 kB


def test_a_fault_says_where():
    assert Fault("x").where == "the file"
    assert Fault("x", index=3).where == "loose record 3"
    assert Fault("x", ANN.id, 4).where == f"block 4 of {ANN.id}"
    assert Fault("x", ANN.id, 4, 1).where == f"block 4 of {ANN.id}, record 1"
