"""Opening a ledger file: what is checked before anything is believed or added, and when it is mended instead."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from coterie.errors import LedgerError
from coterie.identity import PeerId
from coterie.ledger import tables
from coterie.ledger.blocks import Block, FullBlock
from coterie.ledger.chain import extend
from coterie.ledger.records import Record
from coterie.ledger.salvage import Damage, salvage
from coterie.ledger.tables import Damaged

_TAIL = 8
"""Blocks at the end of each chain that opening verifies."""


@dataclass
class Opened:
    """A sound ledger file."""

    db: sqlite3.Connection
    heads: dict[PeerId, Block]
    aside: dict[PeerId, int]
    """By author, the height of the last block that is known while some before it may not be."""
    damage: Damage | None = None
    """What had to be mended."""


def open_ledger(path: Path, genesis: bytes) -> Opened:
    """Open the file, or make it, or mend it. Raises LedgerError, and OSError where the disk says no."""
    try:
        if not path.exists():
            _make(path, genesis)
        elif not path.stat().st_size:
            raise LedgerError(
                "the file is empty, which a ledger never is",
                where=str(path),
                remedy="Move it away and, if there was a ledger, catch up from the other peers before you go on.",
            )
        try:
            return _load(path, genesis)
        except Damaged as fault:
            damage = salvage(path, genesis, fault.what)
        opened = _load(path, genesis)
    except tables.FAULTS as error:
        raise tables.translated(error, path) from error
    opened.damage = damage
    return opened


def _make(path: Path, genesis: bytes) -> None:
    log = path.with_name(f"{path.name}-wal")
    if log.exists():
        raise LedgerError(
            "the ledger's file is gone, but what was written last is still in its log",
            where=str(log),
            remedy=f"Put {path.name} back beside it, or move the log away too.",
        )
    tables.make(path, genesis)


def _load(path: Path, genesis: bytes) -> Opened:
    """Connect and check. Raises Damaged for a file that is not as it was written."""
    db: sqlite3.Connection | None = None
    try:
        db = tables.connect(path)
        tables.require_tables(db, path, genesis)
        db.execute("PRAGMA journal_mode=WAL")  # as it was made; a copy may have lost it
        _require_structure(db, path)
        heads = dict(_tails(db, path, genesis))
        _require_loose(db, path)
        highest = db.execute("SELECT author, max(height) FROM aside GROUP BY author").fetchall()
    except BaseException as error:
        if db is not None:
            with suppress(*tables.FAULTS):
                db.close()
        if isinstance(error, tables.FAULTS):
            raise tables.translated(error, path) from error
        raise
    return Opened(db, heads, dict(highest))


def _require_structure(db: sqlite3.Connection, path: Path) -> None:
    ((found,),) = db.execute("PRAGMA integrity_check(1)").fetchall()
    if found != "ok":
        reason = " ".join(str(found).replace("*** in database main ***", "").split())
        raise Damaged(f"the ledger's file is damaged ({reason})", where=str(path))


def _tails(db: sqlite3.Connection, path: Path, genesis: bytes) -> Iterator[tuple[PeerId, Block]]:
    """The last block of each chain, once the last few of it are verified."""
    chains = db.execute("SELECT author, min(height), max(height), count(*) FROM blocks GROUP BY author").fetchall()
    for author, first, last, number in chains:
        if (first, last) != (0, number - 1):
            raise Damaged(f"a block of {author!r:.14} is missing", where=str(path))
        query = "SELECT data FROM blocks WHERE author = ? AND height >= ? ORDER BY height"
        head: Block | None = None
        try:
            for (data,) in db.execute(query, (author, max(0, last - _TAIL))):
                full = FullBlock.decode(data)
                block = Block.decode(full.block)
                if head is not None or block.height == 0:
                    extend(head, block, full.records, genesis)
                head = block
        except (LedgerError, TypeError) as fault:
            raise Damaged(str(fault), where=str(path)) from None
        if head is None or (head.author, head.height, head.federation) != (author, last, genesis):
            raise Damaged(f"the last block of {author!r:.14} is not in its place", where=str(path))
        yield author, head


def _require_loose(db: sqlite3.Connection, path: Path) -> None:
    for name, kind, data in db.execute("SELECT id, kind, data FROM loose"):
        try:
            record = Record.decode(data)
        except (LedgerError, TypeError) as fault:
            raise Damaged(str(fault), where=str(path)) from None
        if (record.id, record.kind) != (name, kind):
            raise Damaged("a record is not in its place", where=str(path))
