"""Processes killed in the middle of an append, and full disks: what was said to be written is there."""

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from ledger_worlds import ANN, GENESIS, GENESIS_RECORD, MEMBERS, chain, filled

from coterie.errors import LedgerError
from coterie.ledger import LedgerStore, PeerLedger, audit

WRITER = Path(__file__).with_name("ledger_writer.py")


def writer(path, limit=0, filling=10):
    return subprocess.Popen([sys.executable, WRITER, path, str(limit), str(filling)], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("filling", [10, 60000])
def test_sigkill_in_the_middle_of_appends(tmp_path, filling):
    """With long records the log is played into the file every few appends, so that falls into some of the kills."""
    path, written = tmp_path / "ledger.sqlite", -1
    with LedgerStore(path, GENESIS) as store:
        store.put_record(GENESIS_RECORD)
    for enough in (1, 7, 30, 64):
        with writer(path, filling=filling) as process:
            try:
                for line in itertools.islice(process.stdout, enough):
                    assert int(line) == written + 1
                    written = int(line)
                os.kill(process.pid, signal.SIGKILL)
                for line in process.stdout:  # what was said before the kill came
                    written = int(line)
            finally:
                process.kill()
        with LedgerStore(path, GENESIS) as store:
            assert store.damage is None
            assert store.head(ANN.id).height in (written, written + 1)  # the last one may not have been said
            written = store.head(ANN.id).height
        found = audit(path, GENESIS)
        assert found.fault is None
        assert found.blocks == written + 1


@pytest.mark.parametrize("limit", [200_000, 1_500_000])
def test_a_file_that_may_not_grow(tmp_path, limit):
    """The operating system refuses to write on, as a quota or a full disk does; then there is room again."""
    path = tmp_path / "ledger.sqlite"
    with LedgerStore(path, GENESIS) as store:
        store.put_record(GENESIS_RECORD)
    with writer(path, limit, 3000) as process:
        try:
            output = process.communicate(timeout=60)[0].splitlines()
        finally:
            process.kill()
    heights = [int(line) for line in output if line.isdigit()]
    assert heights == list(range(len(heights)))
    assert len(heights) > 3
    error, *still, end = output[len(heights) :]
    assert "space" in error
    assert still == ["still full"] * 3
    assert end == f"{len(heights) - 1} {len(heights) + 4}"
    with LedgerStore(path, GENESIS) as store:
        assert store.head(ANN.id).height == len(heights) + 4
    assert audit(path, GENESIS).fault is None


def test_a_full_database(tmp_path):
    path = tmp_path / "ledger.sqlite"
    filled(path, {ANN: 3})
    with LedgerStore(path, GENESIS) as store:
        ledger = PeerLedger(ANN, store)
        (pages,) = store._db.execute("PRAGMA page_count").fetchone()
        store._db.execute(f"PRAGMA max_page_count={pages + 3}")
        with pytest.raises(LedgerError, match="no room") as caught:
            for _ in range(1000):
                ledger.append("round", {"fill": "x" * 1000})
        assert "Free some space" in caught.value.remedy
        height = ledger.head.height
        assert height > 3
        with pytest.raises(LedgerError, match="no room"):
            store.receive(chain(ANN, 20, filling=1000, head=ledger.head), MEMBERS)
        assert ledger.head.height == height
        store._db.execute("PRAGMA max_page_count=1000000")
        ledger.append("round", {"fill": "x" * 1000})
        assert ledger.head.height == height + 1
    assert audit(path, GENESIS).fault is None


def test_a_disk_that_is_full_while_a_damaged_ledger_is_mended_changes_nothing(tmp_path):
    path = tmp_path / "ledger.sqlite"
    filled(path, {ANN: 100}, filling=2000)
    data = path.read_bytes()
    path.write_bytes(data[:-4096])
    script = f"""
import resource, sys
from pathlib import Path
sys.path.insert(0, {str(WRITER.parent)!r})
from ledger_worlds import GENESIS
from coterie.errors import LedgerError
from coterie.ledger import LedgerStore
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    LedgerStore(Path({str(path)!r}), GENESIS)
except LedgerError as error:
    sys.exit(str(error))
"""
    full = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert "space" in full.stderr
    assert "Traceback" not in full.stderr
    assert path.read_bytes() == data[:-4096]
    with LedgerStore(path, GENESIS) as store:
        assert store.damage is not None
        assert store.head(ANN.id).height >= 97


def test_another_program_that_writes_is_named(tmp_path):
    path = tmp_path / "ledger.sqlite"
    filled(path, {ANN: 1})
    with LedgerStore(path, GENESIS) as store:
        store._db.execute("PRAGMA busy_timeout=10")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match="another program"):
            PeerLedger(ANN, store).append("round", {})
        other.execute("ROLLBACK")
        other.close()
        PeerLedger(ANN, store).append("round", {})
        assert store.head(ANN.id).height == 1
