"""What is done with a damaged ledger file: keep each block and record that verifies, put the file itself aside.

A new file is made beside the damaged one from what is found in its pages, and takes its name once it is complete and on
disk; the damaged file stays as ``NAME.damaged-1`` and so on, for whoever wants to look into it. If anything goes wrong
on the way, a full disk above all, nothing has changed. A block whose predecessor is lost is kept aside: it joins the
chain when the predecessor comes back from another peer.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from coterie.errors import LedgerError
from coterie.ledger import merkle
from coterie.ledger.blocks import MOST_FULL_BYTES, Block, FullBlock
from coterie.ledger.chain import extend
from coterie.ledger.formats import FAULTS, PAGE_BYTES, Format, create, finish, replace
from coterie.ledger.pages import last_columns
from coterie.ledger.records import Record
from coterie.ledger.tables import GENESIS_KIND, LEDGER, write_aside, write_block, write_loose

_MOST_ROW = (1 << 63) - 1


@dataclass(frozen=True)
class Damage:
    """What was found when a ledger was opened, and what became of it."""

    what: str
    file: Path
    """Where the damaged file is now."""
    blocks: int
    """Kept, in their chains."""
    aside: int
    """Kept, but those before them are missing."""
    loose: int
    """Records outside chains that were kept."""

    def __str__(self) -> str:
        waiting = f"; {self.aside} blocks wait for those before them" if self.aside else ""
        kept = f"{self.blocks} blocks and {self.loose} loose records are kept{waiting}"
        return f"{self.what}: {kept}. The damaged file is now {self.file}."


def salvage(path: Path, genesis: bytes, what: str) -> Damage:
    """Put a sound ledger in the place of a damaged one that nobody has open; ``what`` is wrong with it, for the report.

    Raises LedgerError where nothing in it is of this federation, and sqlite3.Error or OSError where it cannot be done;
    the file is then as it was.
    """

    def fill(db: sqlite3.Connection) -> tuple[int, int, int]:
        _gather(db, path, genesis)
        blocks, aside = _link(db, genesis)
        return blocks, aside, _keep_loose(db)

    found, kept = mended(path, LEDGER, (genesis,), what, fill)
    return Damage(what, kept, *found)


def mended(
    path: Path,
    form: Format,
    founding: tuple[object, ...],
    what: str,
    fill: Callable[[sqlite3.Connection], tuple[int, ...]],
) -> tuple[tuple[int, ...], Path]:
    """Put a new file in the place of a damaged one; ``fill`` writes into it and counts what it could keep.

    Returns the counts and the damaged file's new name. Raises as ``salvage`` does, also where all counts are 0.
    """
    _fold(path)
    fresh = path.with_name(f"{path.name}.mending")
    with closing(create(fresh, form, founding)) as db:
        db.execute("BEGIN IMMEDIATE")
        found = fill(db)
        db.execute("COMMIT")
        finish(db)
    if not any(found):
        fresh.unlink()
        raise LedgerError(
            f"nothing can be read: {what}",
            where=str(path),
            remedy="Is it the right file? If so, move it away and catch up from the other peers before you go on.",
        )
    return found, _replace(path, fresh)


def _fold(path: Path) -> None:
    """Have SQLite copy the pages of the write-ahead log into the file, if it can read that much."""
    with suppress(*FAULTS), closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _gather(db: sqlite3.Connection, path: Path, genesis: bytes) -> None:
    """What is signed, into two tables that nobody else sees: blocks of this federation, and records outside blocks."""
    db.execute("CREATE TEMP TABLE found (author, height, id, data, PRIMARY KEY (author, height, id))")
    db.execute("CREATE TEMP TABLE unbound (row, data)")
    for row, data in last_columns(path, PAGE_BYTES, MOST_FULL_BYTES + 256):
        with suppress(LedgerError):
            full = FullBlock.decode(data)
            block = Block.decode(full.block)
            if block.federation == genesis:
                values = (block.author, block.height, block.id, data)
                db.execute("INSERT OR IGNORE INTO found VALUES (?, ?, ?, ?)", values)
            continue
        with suppress(LedgerError):
            record = Record.decode(data)
            if record.kind != GENESIS_KIND or record.id == genesis:
                db.execute("INSERT INTO unbound VALUES (?, ?)", (row & _MOST_ROW, data))


def _keep_loose(db: sqlite3.Connection) -> int:
    """Records outside blocks, in the order in which they came. Returns how many."""
    rows = db.execute("SELECT data FROM unbound ORDER BY row")
    return sum(write_loose(db, Record.decode(data)) for (data,) in rows)


def _link(db: sqlite3.Connection, genesis: bytes) -> tuple[int, int]:
    """Chains from the blocks found. Returns how many blocks are in chains, and how many are aside."""
    head: Block | None = None
    blocks = aside = 0
    for (data,) in db.execute("SELECT data FROM found ORDER BY author, height, id"):
        full = FullBlock.decode(data)
        block = Block.decode(full.block)
        if head is not None and head.author != block.author:
            head = None
        try:
            records = extend(head, block, full.records, genesis)
        except LedgerError:
            if head is None or block.height > head.height:
                sound = merkle.tree_hash(full.records) == block.root
                write_aside(db, block, full if sound else FullBlock(full.block, ()))
                aside += 1
        else:
            write_block(db, block, records, full)
            head = block
            blocks += 1
    return blocks, aside


def _replace(path: Path, fresh: Path) -> Path:
    """Put ``fresh`` in the place of ``path``; returns the damaged file's new name."""
    kept = next(name for n in count(1) if not (name := path.with_name(f"{path.name}.damaged-{n}")).exists())
    shutil.copyfile(path, kept)
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size:
        log.rename(kept.with_name(f"{kept.name}-wal"))  # it would be played into the new file
    replace(fresh, path)
    return kept
