"""Shared chains damaged from outside, or whose writer was killed: what verifies is kept, and the rest comes back."""

import itertools
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from ledger_worlds import GENESIS_RECORD
from shared_worlds import Writer, charter, note, written
from torn_files import PAGE, change_bytes, copied, lose_end, lose_page

from coterie.errors import LedgerError
from coterie.ledger.shared import SharedChain, SharedMemory, SharedStore, Signatures
from coterie.ledger.shared.ledger import Row

START = charter()
replace = msgspec.structs.replace
WRITER = Path(__file__).with_name("shared_writer.py")
KNOWN = Signatures()


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A closed file: 8 epochs, some blocks longer than a page; and the chain in memory."""
    path = tmp_path_factory.mktemp("sound") / "shared.sqlite"
    _, batches = written(START.checkpoint, epochs=8, size=900)
    memory = SharedMemory(START, KNOWN)
    with SharedStore(path, START, GENESIS_RECORD, KNOWN) as store:
        for blocks, finality in batches:
            store.add(blocks, finality)
            memory.add(blocks, finality)
    return path, memory


def opened(path):
    return SharedStore(path, START, GENESIS_RECORD, KNOWN)


def number(chain):
    return chain.state.epoch, chain.height


def all_blocks(ledger):
    """From the start on, as another peer would be sent them."""
    found, chain = [], SharedChain.begin(START.checkpoint)
    while (batch := ledger.blocks(*number(chain))) is not None:
        chain, _ = chain.extend(batch.blocks, batch.finality, KNOWN)
        found += batch.blocks
    assert chain == ledger.chain
    return found


def check_kept(store, memory, gone):
    """A true beginning of the chain; where it ends, the next block was on a damaged page. The rest comes back."""
    held, whole = all_blocks(store), all_blocks(memory)
    assert held == whole[: len(held)]
    if len(held) < len(whole):
        data = [pieces(whole[place].encode()) for place in range(len(held), min(len(held) + 2, len(whole)))]
        assert any(piece in gone for piece in itertools.chain(*data))  # or the finality of its group, next to it
    while (batch := memory.blocks(*number(store.chain))) is not None:
        store.receive(batch)
    assert store.chain == memory.chain
    assert all_blocks(store) == whole
    for epoch in range(memory.chain.state.epoch + 1):
        assert store.checkpoint(epoch) == memory.checkpoint(epoch)
    for full in whole:
        for index, data in enumerate(full.records):
            found = store.record(full_id(full, index))
            assert found is not None
            assert found.encode() == data


def full_id(full, index):
    return full.read_records()[index].id


def pieces(data):
    return [data[start : start + 40] for start in range(0, len(data) - 40, 200)]


def test_a_sound_file_is_sound(sound, tmp_path):
    path = copied(sound[0], tmp_path / "copy")
    before = path.read_bytes()
    with opened(path) as store:
        assert store.damage is None
        check_kept(store, sound[1], b"")
    assert path.read_bytes() == before


@pytest.mark.parametrize("how", ["cut", "torn", "zeros", "noise"])
@pytest.mark.parametrize("pages", [1, 4, 13])
def test_the_last_pages_are_lost(sound, tmp_path, how, pages):
    path = copied(sound[0], tmp_path / "copy")
    data, start = lose_end(path, pages, how, random.Random(pages))
    with opened(path) as store:
        assert store.damage is not None
        assert store.damage.file.read_bytes()[:start] == data[:start]
        assert "kept" in str(store.damage)
        check_kept(store, sound[1], data[start:])
    with opened(path) as store:
        assert store.damage is None
        assert store.chain == sound[1].chain


@pytest.mark.parametrize("seed", range(11))
def test_any_page_is_lost(sound, tmp_path, seed):
    """Also the file's header, and pages that hold the tables together, checkpoints and voters."""
    path = copied(sound[0], tmp_path / "copy")
    draw = random.Random(seed)
    page = draw.randrange(path.stat().st_size // PAGE) if seed > 8 else seed
    gone = lose_page(path, page, draw)
    with opened(path) as store:
        check_kept(store, sound[1], gone)


@pytest.mark.parametrize("seed", range(6))
def test_any_bytes_are_changed(sound, tmp_path, seed):
    """Small damage in older epochs may go unseen on opening; then reading it says so, or gives what was there."""
    path = copied(sound[0], tmp_path / "copy")
    draw = random.Random(seed)
    change_bytes(path, draw)
    try:
        with opened(path) as store:
            assert store.chain == sound[1].chain or store.damage is not None
            for full in all_blocks(sound[1]):
                found = store.block(full.block.epoch, full.block.height)
                assert found is None or found.block.height == full.block.height
    except LedgerError as error:
        assert error.remedy


@pytest.mark.parametrize("table", ["checkpoints", "last checkpoint", "voters", "changed voters", "founding", "blocks"])
def test_what_belongs_to_the_present_epoch_is_remade(sound, tmp_path, table):
    path = copied(sound[0], tmp_path / "copy")
    changed = {
        "checkpoints": "UPDATE checkpoints SET data = zeroblob(40) WHERE epoch = 8",
        "last checkpoint": "DELETE FROM checkpoints WHERE epoch = 8",
        "voters": "DELETE FROM voters",
        "changed voters": ("UPDATE voters SET data = ?", (charter((9, 9, 9, 9)).voters.encode(),)),
        "founding": ("UPDATE federation SET founding = ?", (note(1).encode(),)),
        "blocks": "DELETE FROM blocks WHERE seq = (SELECT max(seq) FROM blocks)",
    }
    with sqlite3.connect(path) as db:
        db.execute(*([changed[table]] if isinstance(changed[table], str) else changed[table]))
    db.close()
    with opened(path) as store:
        assert store.damage is not None
        lost = 1 if table == "blocks" else 0
        assert len(all_blocks(store)) == len(all_blocks(sound[1])) - lost
        check_kept(store, sound[1], all_blocks(sound[1])[-1].encode())


def test_what_is_filed_as_something_else_is_damage(sound, tmp_path):
    path = copied(sound[0], tmp_path / "copy")
    with sqlite3.connect(path) as db:
        db.execute("UPDATE checkpoints SET data = (SELECT data FROM checkpoints WHERE epoch = 2) WHERE epoch = 3")
        db.execute("UPDATE places SET position = 1 - position WHERE epoch = 0 AND height = 1")
    db.close()
    with opened(path) as store:
        assert store.damage is None  # what is older than the present epoch is looked at when it is asked for
        for asked in (lambda: store.checkpoint(3), lambda: store.record(note(0, 900).id)):
            with pytest.raises(LedgerError, match=r"another epoch|not in its place"):
                asked()


@pytest.mark.parametrize("certified", ["nothing", "by too few"])
def test_a_last_block_that_nothing_makes_final_is_not_kept(tmp_path, certified):
    """As no writer leaves it: its row says that a later one makes it final, and there is none; or a quorum is not."""
    path = tmp_path / "shared.sqlite"
    writer = Writer(START.checkpoint)
    with opened(path) as store:
        store.add(*writer.write())
        before = store.chain
        store.add(*writer.write())
    with sqlite3.connect(path) as db:
        ((data,),) = db.execute("SELECT data FROM blocks ORDER BY seq DESC LIMIT 1").fetchall()
        row = Row.decode(data)
        few = replace(row.finality.certificate, votes=row.finality.certificate.votes[:2])
        finality = None if certified == "nothing" else replace(row.finality, certificate=few)
        db.execute("UPDATE blocks SET data = ? WHERE data = ?", (Row(row.full, finality).encode(), data))
    db.close()
    with opened(path) as store:
        assert store.damage is not None
        assert (store.damage.blocks, store.damage.left) == (1, 1)
        assert store.chain == before


def test_a_file_with_nothing_left_is_not_replaced(sound, tmp_path):
    path = copied(sound[0], tmp_path / "copy")
    path.write_bytes(random.Random(1).randbytes(path.stat().st_size))
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="nothing can be read") as caught:
        opened(path)
    assert "catch up" in caught.value.remedy
    assert path.read_bytes() == before


@pytest.mark.parametrize("lost", [1, 3000, 30000])
def test_the_end_of_the_log_is_lost(sound, tmp_path, lost):
    """As a crash leaves it, with its log, whose end is cut off: a true beginning of the chain, and it goes on."""
    folder, kept = tmp_path / "running", tmp_path / "kept"
    folder.mkdir()
    kept.mkdir()
    whole = sound[1]
    with opened(folder / "shared.sqlite") as store:
        while (batch := whole.blocks(*number(store.chain))) is not None:
            store.receive(batch)
        for name in ("shared.sqlite", "shared.sqlite-wal"):
            shutil.copyfile(folder / name, kept / name)
    log = kept / "shared.sqlite-wal"
    log.write_bytes(log.read_bytes()[:-lost])
    with opened(kept / "shared.sqlite") as store:
        held = all_blocks(store)
        assert held == all_blocks(whole)[: len(held)]
        while (batch := whole.blocks(*number(store.chain))) is not None:
            store.receive(batch)
        assert store.chain == whole.chain


@pytest.mark.parametrize("filling", [10, 30000])
def test_sigkill_in_the_middle_of_adding(tmp_path, filling):
    path, said = tmp_path / "shared.sqlite", (0, 0)
    for enough in (1, 12, 40):
        command = [sys.executable, WRITER, path, str(filling)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                for line in itertools.islice(process.stdout, enough):
                    said = tuple(map(int, line.split()))
                os.kill(process.pid, signal.SIGKILL)
                for line in process.stdout:
                    said = tuple(map(int, line.split()))
            finally:
                process.kill()
        with SharedStore(path, charter((1,))) as store:
            assert store.damage is None
            after = {(said[0], said[1] + 1), (said[0] + 1, 0)}
            assert number(store.chain) in {said, *after}  # the last one may not have been said
            said = number(store.chain)
