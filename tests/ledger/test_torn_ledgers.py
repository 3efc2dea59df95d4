"""Ledger files damaged from outside: opening never fails badly, and loses no block that was not on a damaged page."""

import random
import shutil
import sqlite3

import pytest
from ledger_worlds import ANN, BOB, EVE, GENESIS, GENESIS_RECORD, MEMBERS, chain, filled, put_aside
from torn_files import PAGE, change_bytes, copied, lose_end, lose_page, overwrite

from coterie.errors import LedgerError
from coterie.ledger import Block, FullBlock, LedgerStore, PeerLedger, Record, audit
from coterie.ledger.salvage import salvage

LENGTHS = {ANN: 16, BOB: 10, EVE: 12}
NOTES = [Record.make(BOB, "note", {"n": number, "fill": b"n" * 200}, time=number) for number in range(40)]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A closed ledger: three chains in turn with notes between them, some blocks longer than a page."""
    path = tmp_path_factory.mktemp("sound") / "ledger.sqlite"
    blocks = {identity.id: chain(identity, length, filling=300) for identity, length in LENGTHS.items()}
    blocks[EVE.id] += chain(EVE, 2, filling=15000, head=Block.decode(blocks[EVE.id][-1].block))
    blocks[EVE.id] += chain(EVE, 3, filling=300, head=Block.decode(blocks[EVE.id][-1].block))
    with LedgerStore(path, GENESIS) as store:
        store.put_record(GENESIS_RECORD)
        for height in range(20):
            for full in (held[height] for held in blocks.values() if height < len(held)):
                store.append(full)
            for note in NOTES[2 * height : 2 * height + 2]:
                store.put_record(note)
    return path, blocks


def pieces(data):
    """Parts of a block's bytes that stand alone in a page."""
    return [data] if len(data) < 2000 else [data[start : start + 64] for start in range(0, len(data) - 64, 1000)]


def check_kept(store, blocks, gone, loose=(GENESIS_RECORD, *NOTES)):
    """Whatever was not ``gone``, bytes of the damaged pages as they were, is still here; chains hold together."""
    for author, held in blocks.items():
        found = [store.block(author, height) for height in range(len(held))]
        height = next((height for height, block in enumerate(found) if block is None), len(held))
        assert found == [Block.decode(full.block) for full in held[:height]] + [None] * (len(held) - height)
        aside = dict(store._db.execute("SELECT height, data FROM aside WHERE author = ?", (author,)))
        for lost, full in enumerate(held):
            if lost >= height and lost not in aside:
                assert any(piece in gone for piece in pieces(full.encode())), (author, lost)
        for kept, data in aside.items():
            whole = data == held[kept].encode()
            assert whole or data == FullBlock(held[kept].block, ()).encode()
            assert whole or any(piece in gone for piece in pieces(held[kept].encode()))
        latest = max([height - 1, *aside])
        assert store.awaited(author) == (latest if latest >= height else None)
    for record in loose:
        assert store.record(record.id) == record or record.encode() in gone
    found = store.records("note")
    assert found == [note for note in NOTES if note in found]  # in order


def test_a_sound_file_is_sound(sound, tmp_path):
    path = copied(sound[0], tmp_path / "copy")
    before = path.read_bytes()
    with LedgerStore(path, GENESIS) as store:
        assert store.damage is None
        check_kept(store, sound[1], b"")
    assert path.read_bytes() == before


@pytest.mark.parametrize("how", ["cut", "torn", "zeros", "noise"])
@pytest.mark.parametrize("pages", [1, 2, 3, 7, 13])
def test_the_last_pages_are_lost(sound, tmp_path, how, pages):
    path = copied(sound[0], tmp_path / "copy")
    data, start = lose_end(path, pages, how, random.Random(pages))
    with LedgerStore(path, GENESIS) as store:
        assert store.damage is not None
        assert store.damage.file.read_bytes()[:start] == data[:start]
        assert "damaged" in str(store.damage)
        check_kept(store, sound[1], data[start:])
        for author, held in sound[1].items():  # what is missing comes back from others
            head = store.head(author)
            store.receive(held[0 if head is None else head.height + 1 :], MEMBERS)
            assert store.awaited(author) is None
            assert store.blocks(author) == held
        for record in [GENESIS_RECORD, *NOTES]:
            store.put_record(record)
    with LedgerStore(path, GENESIS) as store:
        assert store.damage is None
        check_kept(store, sound[1], b"")
        assert audit(path, GENESIS).fault is None


@pytest.mark.parametrize("seed", range(18))
def test_any_page_is_lost(sound, tmp_path, seed):
    """Also the file's header, and pages that hold the tables together."""
    path = copied(sound[0], tmp_path / "copy")
    draw = random.Random(seed)
    page = draw.randrange(path.stat().st_size // PAGE) if seed > 6 else seed
    gone = lose_page(path, page, draw)
    with LedgerStore(path, GENESIS) as store:
        check_kept(store, sound[1], gone)


@pytest.mark.parametrize("seed", range(16))
def test_any_bytes_are_changed(sound, tmp_path, seed):
    """Small damage may go unseen on opening, inside older blocks; the audit sees it."""
    path = copied(sound[0], tmp_path / "copy")
    draw = random.Random(seed)
    change_bytes(path, draw)
    try:
        with LedgerStore(path, GENESIS) as store:
            for author, held in sound[1].items():
                for height in range(len(held)):
                    block = store.block(author, height)
                    assert block is None or block == Block.decode(held[height].block)
            mended = store.damage is not None
    except LedgerError as error:
        assert error.remedy or "block" in str(error)
        return
    assert mended or audit(path, GENESIS).fault is None or audit(path, GENESIS).fault.what


def test_a_changed_block_at_the_end_of_a_chain_is_seen(sound, tmp_path):
    path = copied(sound[0], tmp_path / "copy")
    last = sound[1][ANN.id][-1]
    position = path.read_bytes().index(last.encode()) + last.nbytes // 2
    gone = overwrite(path, position, b"!")
    with LedgerStore(path, GENESIS) as store:
        assert store.damage is not None
        assert store.head(ANN.id).height == 14
        assert store.awaited(ANN.id) == 15  # its signature is still there, and a record in it is not
        with pytest.raises(LedgerError, match="block 15 of this peer's chain"):
            PeerLedger(ANN, store).append("round", {})
        store.append(last)
        PeerLedger(ANN, store).append("round", {})
    assert gone != b"!"


def test_a_changed_record_outside_chains_is_seen(sound, tmp_path):
    path = copied(sound[0], tmp_path / "copy")
    position = path.read_bytes().index(NOTES[7].encode()) + 120
    overwrite(path, position, b"!")
    with LedgerStore(path, GENESIS) as store:
        assert store.damage is not None
        assert store.records("note") == NOTES[:7] + NOTES[8:]
        check_kept(store, sound[1], NOTES[7].encode())


def test_a_block_lost_in_the_middle_leaves_the_later_ones_waiting(sound, tmp_path):
    path = copied(sound[0], tmp_path / "copy")
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM blocks WHERE author = ? AND height IN (5, 10)", (ANN.id,))
    db.close()
    held = sound[1][ANN.id]
    with LedgerStore(path, GENESIS) as store:
        assert "missing" in store.damage.what
        assert (store.head(ANN.id).height, store.awaited(ANN.id)) == (4, 15)
        assert (store.damage.aside, store.damage.blocks) == (9, sum(map(len, sound[1].values())) - 11)
        assert store.receive(held[5:6], MEMBERS).taken == 1
        assert (store.head(ANN.id).height, store.awaited(ANN.id)) == (9, 15)
    with LedgerStore(path, GENESIS) as store:
        assert (store.head(ANN.id).height, store.awaited(ANN.id)) == (9, 15)
        store.append(held[10])
        assert (store.head(ANN.id).height, store.awaited(ANN.id)) == (15, None)
        assert store.blocks(ANN.id) == held
        assert store.record(Record.decode(held[13].records[0]).id)


def test_an_index_that_hides_a_block_is_remade(sound, tmp_path):
    path = copied(sound[0], tmp_path / "copy")
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA writable_schema=ON")
        db.execute(
            "UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master WHERE name = "
            "'sqlite_autoindex_aside_1') WHERE name = 'sqlite_autoindex_blocks_1'"
        )
    db.close()
    with LedgerStore(path, GENESIS) as store:
        assert store.damage is not None
        check_kept(store, sound[1], b"")


def test_each_damaged_file_is_kept(sound, tmp_path):
    path = copied(sound[0], tmp_path / "copy")
    for number in (1, 2, 3):
        overwrite(path, path.stat().st_size - PAGE, b"\xff" * PAGE)
        before = path.read_bytes()
        with LedgerStore(path, GENESIS) as store:
            assert store.damage.file.name == f"ledger.sqlite.damaged-{number}"
            assert store.damage.file.read_bytes() == before
    assert not list(path.parent.glob("*.mending*"))


def test_a_file_with_nothing_left_is_not_replaced(sound, tmp_path):
    path = copied(sound[0], tmp_path / "copy")
    path.write_bytes(random.Random(1).randbytes(path.stat().st_size))
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="nothing can be read") as caught:
        LedgerStore(path, GENESIS)
    assert "catch up" in caught.value.remedy
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir() if "lock" not in file.name] == ["ledger.sqlite"]


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A ledger as a crash leaves it, with its log: the files, the blocks, and the log's length after each block."""
    folder = tmp_path_factory.mktemp("running")
    blocks, ends = chain(ANN, 40, filling=300), []
    with LedgerStore(folder / "ledger.sqlite", GENESIS) as store:
        store.put_record(GENESIS_RECORD)
        store.receive(blocks[:10], MEMBERS)
        store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        for full in blocks[10:]:
            store.append(full)
            ends.append((folder / "ledger.sqlite-wal").stat().st_size)
        kept = tmp_path_factory.mktemp("kept")
        for name in ("ledger.sqlite", "ledger.sqlite-wal"):
            shutil.copyfile(folder / name, kept / name)
    return kept, blocks, ends


def crashed(running, folder):
    shutil.copytree(running[0], folder)
    return folder / "ledger.sqlite", folder / "ledger.sqlite-wal"


def test_a_crash_loses_nothing(running, tmp_path):
    path, log = crashed(running, tmp_path / "copy")
    assert log.stat().st_size == running[2][-1]
    with LedgerStore(path, GENESIS) as store:
        assert store.damage is None
        assert store.blocks(ANN.id) == running[1]


def test_what_is_in_the_log_is_salvaged(running, tmp_path):
    path, _ = crashed(running, tmp_path / "copy")
    damage = salvage(path, GENESIS, "a test")
    assert (damage.blocks, damage.loose, damage.aside) == (40, 1, 0)
    assert str(damage.file) in str(damage)
    with LedgerStore(path, GENESIS) as store:
        assert store.blocks(ANN.id) == running[1]


def test_loose_records_keep_their_order_where_pages_were_used_before(tmp_path):
    """Pages of blocks that no longer wait are used again for records, in whatever order they are free."""
    path, held = tmp_path / "ledger.sqlite", chain(EVE, 80)
    with LedgerStore(path, GENESIS) as store:
        store.put_record(GENESIS_RECORD)
    put_aside(path, *held)
    with LedgerStore(path, GENESIS) as store:
        store.receive(held, MEMBERS)
        assert store.awaited(EVE.id) is None
        for note in NOTES:
            store.put_record(note)
    damage = salvage(path, GENESIS, "a test")
    assert (damage.blocks, damage.loose, damage.aside) == (80, 41, 0)
    with LedgerStore(path, GENESIS) as store:
        assert store.records("note") == NOTES


@pytest.mark.parametrize("how", ["cut", "zeros", "noise"])
@pytest.mark.parametrize("frames", [0.1, 1, 2.5, 7, 20.9])
def test_the_end_of_the_log_is_lost(running, tmp_path, how, frames):
    """Blocks whose part of the log ends before the damage are all there, and the chain goes on after them."""
    path, log = crashed(running, tmp_path / "copy")
    size = log.stat().st_size
    start = size - int(frames * (PAGE + 24))
    if how == "cut":
        log.write_bytes(log.read_bytes()[:start])
    else:
        overwrite(log, start, bytes(size - start) if how == "zeros" else random.Random(1).randbytes(size - start))
    written = 10 + sum(end <= start for end in running[2])
    with LedgerStore(path, GENESIS) as store:
        assert store.head(ANN.id).height + 1 >= written
        assert store.blocks(ANN.id) == running[1][: store.head(ANN.id).height + 1]
        PeerLedger(ANN, store).append("round", {"after": "the crash"})
    assert audit(path, GENESIS).fault is None


@pytest.mark.parametrize("how", ["cut", "zeros"])
@pytest.mark.parametrize("pages", [1, 2, 4])
def test_the_end_of_the_file_is_lost_and_the_log_is_not(running, tmp_path, pages, how):
    """What is in the log is kept, whatever has become of the file below it."""
    path, _ = crashed(running, tmp_path / "copy")
    data = path.read_bytes()
    start = len(data) - pages * PAGE
    path.write_bytes(data[:start] + (b"" if how == "cut" else bytes(len(data) - start)))
    with LedgerStore(path, GENESIS) as store:
        check_kept(store, {ANN.id: running[1]}, data[start:], [GENESIS_RECORD])
    with LedgerStore(path, GENESIS) as store:
        assert store.damage is None


def test_a_log_that_sqlite_cannot_read_is_kept_and_not_played_into_the_new_file(running, tmp_path):
    """The file's first page is lost; the log, which belongs to it, is put aside with it."""
    path, log = crashed(running, tmp_path / "copy")
    data = log.read_bytes()
    without_header = data[:32] + b"".join(
        frame for frame in frames(data) if int.from_bytes(frame[:4], "big") != 1
    )  # so that the header cannot be had from the log either
    log.write_bytes(without_header)
    overwrite(path, 0, b"\xff" * PAGE)
    with LedgerStore(path, GENESIS) as store:
        assert store.blocks(ANN.id) == running[1][:10]
        assert store.damage.file.with_name("ledger.sqlite.damaged-1-wal").read_bytes() == without_header
        PeerLedger(ANN, store).append("round", {})
    with LedgerStore(path, GENESIS) as store:
        assert store.damage is None
        assert store.head(ANN.id).height == 10


def frames(log):
    """A log's frames (https://www.sqlite.org/fileformat2.html, section 4.1)."""
    return [log[start : start + PAGE + 24] for start in range(32, len(log), PAGE + 24)]


@pytest.mark.parametrize("seed", range(8))
def test_file_and_log_are_both_damaged(running, tmp_path, seed):
    """As much as is in sound pages of either; the blocks before the checkpoint are in both or in the file."""
    path, log = crashed(running, tmp_path / "copy")
    draw = random.Random(seed)
    for file in (path, log):
        size = file.stat().st_size
        cut = draw.choice([1, 2, 3]) * PAGE
        overwrite(file, size - cut, draw.choice([bytes(cut), draw.randbytes(cut)]))
    try:
        with LedgerStore(path, GENESIS) as store:
            held = store.blocks(ANN.id)
            assert held == running[1][: len(held)]
            assert audit(path, GENESIS).fault is None or store.damage is not None
    except LedgerError as error:
        assert "nothing can be read" in str(error)


def test_a_half_made_new_file_is_begun_again(sound, tmp_path):
    """Killed while a damaged ledger was being mended, or while one was made."""
    path = copied(sound[0], tmp_path / "copy")
    overwrite(path, path.stat().st_size - PAGE, bytes(PAGE))
    for name in ("ledger.sqlite.mending", "ledger.sqlite.mending-wal", "ledger.sqlite.new", "ledger.sqlite.new-wal"):
        path.with_name(name).write_bytes(b"half")
    with LedgerStore(path, GENESIS) as store:
        assert store.damage is not None
        check_kept(store, sound[1], (sound[0].read_bytes())[-PAGE:])
    filled(path.with_name("another"), {ANN: 2})


def test_blocks_of_another_federation_are_not_salvaged(tmp_path):
    path = tmp_path / "ledger.sqlite"
    filled(path, {ANN: 5})
    other = chain(BOB, 3, genesis=bytes(32))
    with sqlite3.connect(path) as db:
        for height, full in enumerate(other):
            db.execute("INSERT INTO blocks (author, height, data) VALUES (?, ?, ?)", (BOB.id, height, full.encode()))
    db.close()
    with LedgerStore(path, GENESIS) as store:
        assert store.damage is not None
        assert list(store.heads()) == [ANN.id]
        assert (store.awaited(BOB.id), store.damage.aside) == (None, 0)
        assert isinstance(store.blocks(ANN.id)[0], FullBlock)
