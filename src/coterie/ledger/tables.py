"""The ledger's file: its tables.

    federation  the genesis hash
    blocks      a row a block, with its records: ``data`` is a FullBlock's bytes, and all the rest follows from it
    loose       records that are in no block, in order of arrival
    places      where in a block a record is
    aside       blocks that are known, but not those before them

Nothing in the file is believed because it is there: blocks and records are signed, and read through their decoders.
"""

from __future__ import annotations

import sqlite3

from coterie.ledger.blocks import MOST_FULL_BYTES, Block, FullBlock
from coterie.ledger.formats import Format
from coterie.ledger.records import Record

GENESIS_KIND = "genesis"
_TABLES = (
    "CREATE TABLE blocks (seq INTEGER PRIMARY KEY, author TEXT NOT NULL, height INTEGER NOT NULL, "
    "data BLOB NOT NULL, UNIQUE (author, height))",
    "CREATE TABLE loose (seq INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, kind TEXT NOT NULL, data BLOB NOT NULL)",
    "CREATE TABLE aside (seq INTEGER PRIMARY KEY, author TEXT NOT NULL, height INTEGER NOT NULL, "
    "data BLOB NOT NULL, UNIQUE (author, height))",
    "CREATE TABLE federation (genesis BLOB NOT NULL)",
    "CREATE TABLE places (id BLOB NOT NULL, block INTEGER NOT NULL, position INTEGER NOT NULL, "
    "PRIMARY KEY (id, block, position)) WITHOUT ROWID",
)
"""Tables with data first: what is lost with a file's last pages is then, in a small file, only what can be remade."""

LEDGER = Format(0x43544C47, 1, _TABLES, "INSERT INTO federation VALUES (?)", MOST_FULL_BYTES)
"""Application id "CTLG"."""


def write_block(db: sqlite3.Connection, block: Block, records: tuple[Record, ...], full: FullBlock) -> None:
    """Add a checked block, within a transaction that is open. Raises sqlite3.Error."""
    values = (block.author, block.height, full.encode())
    row = db.execute("INSERT INTO blocks (author, height, data) VALUES (?, ?, ?)", values).lastrowid
    places = [(record.id, row, position) for position, record in enumerate(records)]
    db.executemany("INSERT INTO places VALUES (?, ?, ?)", places)


def write_aside(db: sqlite3.Connection, block: Block, full: FullBlock) -> None:
    """Keep a block whose predecessors are missing. Raises sqlite3.Error."""
    values = (block.author, block.height, full.encode())
    db.execute("INSERT OR IGNORE INTO aside (author, height, data) VALUES (?, ?, ?)", values)


def write_loose(db: sqlite3.Connection, record: Record) -> bool:
    """Add a checked record outside chains; False if it is there already. Raises sqlite3.Error."""
    values = (record.id, record.kind, record.encode())
    return bool(db.execute("INSERT OR IGNORE INTO loose (id, kind, data) VALUES (?, ?, ?)", values).rowcount)
