"""The shared chain's file: its tables.

federation   the genesis hash, what the chain starts from, and the genesis record (empty where there is none)
blocks       a row a final block: ``data`` is a Row's bytes, and all the rest follows from it
checkpoints  the state at the beginning of each epoch, as its summary
voters       those that checkpoints name by their hashes, each list once
places       where a record is
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from coterie.errors import LedgerError
from coterie.ledger.formats import Format
from coterie.ledger.shared.chain import CheckedBlock
from coterie.ledger.shared.charter import Checkpoint
from coterie.ledger.shared.ledger import MOST_ROW_BYTES, Row
from coterie.ledger.shared.voters import Voters

_TABLES = (
    "CREATE TABLE blocks (seq INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, height INTEGER NOT NULL, "
    "data BLOB NOT NULL, UNIQUE (epoch, height))",
    "CREATE TABLE checkpoints (epoch INTEGER PRIMARY KEY, data BLOB NOT NULL)",
    "CREATE TABLE voters (hash BLOB NOT NULL UNIQUE, data BLOB NOT NULL)",
    "CREATE TABLE federation (genesis BLOB NOT NULL, start BLOB NOT NULL, founding BLOB NOT NULL)",
    "CREATE TABLE places (id BLOB NOT NULL, epoch INTEGER NOT NULL, height INTEGER NOT NULL, "
    "position INTEGER NOT NULL, PRIMARY KEY (id, epoch, height, position)) WITHOUT ROWID",
)
SHARED = Format(0x43545343, 1, _TABLES, "INSERT INTO federation VALUES (?, ?, ?)", MOST_ROW_BYTES)
"""Application id "CTSC"."""


def write_rows(db: sqlite3.Connection, rows: Iterable[tuple[Row, CheckedBlock]]) -> None:
    """Add final blocks, within a transaction that is open. Raises sqlite3.Error."""
    for row, checked in rows:
        epoch, height = checked.block.epoch, checked.block.height
        db.execute("INSERT INTO blocks (epoch, height, data) VALUES (?, ?, ?)", (epoch, height, row.encode()))
        places = [(record.id, epoch, height, position) for position, record in enumerate(checked.records)]
        db.executemany("INSERT INTO places VALUES (?, ?, ?, ?)", places)


def write_checkpoint(db: sqlite3.Connection, state: Checkpoint) -> None:
    """Add the state of an epoch, within a transaction that is open. Raises sqlite3.Error."""
    for voters in (state.voters, state.following):
        db.execute("INSERT OR IGNORE INTO voters VALUES (?, ?)", (voters.hash, voters.encode()))
    db.execute("INSERT INTO checkpoints VALUES (?, ?)", (state.epoch, state.summary))


def read_checkpoint(db: sqlite3.Connection, epoch: int) -> Checkpoint | None:
    """The state of an epoch. Raises LedgerError where it is not as it was written, and sqlite3.Error."""
    row = db.execute("SELECT data FROM checkpoints WHERE epoch = ?", (epoch,)).fetchone()
    if row is None:
        return None
    state = Checkpoint.restore(row[0], _Voters(db))
    if state.epoch != epoch:
        raise LedgerError("a checkpoint is filed under another epoch")
    return state


class _Voters(dict[bytes, Voters]):
    """Lists of voters in the file, read when they are asked for."""

    def __init__(self, db: sqlite3.Connection) -> None:
        super().__init__()
        self._db = db

    def __contains__(self, name: object) -> bool:
        if not super().__contains__(name):
            row = self._db.execute("SELECT data FROM voters WHERE hash = ?", (name,)).fetchone()
            voters = Voters.decode(row[0]) if row else None
            if voters is None or voters.hash != name:
                return False
            self[voters.hash] = voters
        return True
