"""Opening a ledger file: what is checked before anything is believed or added, and when it is mended instead."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from coterie.errors import LedgerError
from coterie.identity import PeerId
from coterie.ledger.blocks import Block, FullBlock
from coterie.ledger.chain import extend
from coterie.ledger.database import loading, open_file
from coterie.ledger.formats import Damaged
from coterie.ledger.records import Record
from coterie.ledger.salvage import Damage, salvage
from coterie.ledger.tables import LEDGER

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
    damage: Damage | None = None

    def mend(what: str) -> None:
        nonlocal damage
        damage = salvage(path, genesis, what)

    opened = open_file(path, LEDGER, (genesis,), lambda: _load(path, genesis), mend)
    opened.damage = damage
    return opened


def _load(path: Path, genesis: bytes) -> Opened:
    """Connect and check. Raises Damaged for a file that is not as it was written."""
    with loading(path, LEDGER, genesis) as db:
        heads = dict(_tails(db, path, genesis))
        _require_loose(db, path)
        highest = db.execute("SELECT author, max(height) FROM aside GROUP BY author").fetchall()
    return Opened(db, heads, dict(highest))


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
