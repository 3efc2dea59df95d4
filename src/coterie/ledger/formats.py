"""An SQLite file (3.31 or later) in WAL mode that holds what was signed: how one is made, and told from others.

Two kinds of file are made of this: a peer's ledger of many chains (``tables``) and the shared chain
(``shared.tables``). What differs is the ``Format``. Nothing in a file is believed because it is there.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from coterie.errors import LedgerError
from coterie.files import sync_folder

PAGE_BYTES = 4096
OPEN_AGAIN = "Open the ledger again: what verifies is kept, and the damaged file is put aside."

FAULTS = (sqlite3.Error, UnicodeDecodeError)
"""What the module sqlite3 raises. The second one for a message that quotes a damaged file."""


class StoreError(LedgerError):
    """The file here cannot be read or written: this peer's own trouble, whoever sent what it was to keep."""


class Damaged(StoreError):
    """The file is not as it was written."""


@dataclass(frozen=True)
class Format:
    """A kind of file."""

    application: int
    """SQLite's application id."""
    version: int
    """Of the tables. A file with a later one is refused."""
    tables: tuple[str, ...]
    """Their definitions. One of them is ``federation``; its first column is the genesis hash."""
    found: str
    """Adds the one row of ``federation``."""
    most_row_bytes: int


def make(path: Path, form: Format, founding: tuple[object, ...]) -> None:
    """A new, empty file, complete and on disk before it has its name; ``founding`` is the row of ``federation``.

    Raises sqlite3.Error and OSError.
    """
    fresh = path.with_name(f"{path.name}.new")
    with closing(create(fresh, form, founding)) as db:
        finish(db)
    replace(fresh, path)


def create(path: Path, form: Format, founding: tuple[object, ...]) -> sqlite3.Connection:
    """A new, empty file in the place of any of that name. Raises sqlite3.Error and OSError."""
    remove_logs(path)
    path.unlink(missing_ok=True)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(f"PRAGMA page_size={PAGE_BYTES}")
    _configure(db, form)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("BEGIN IMMEDIATE")
    for table in form.tables:
        db.execute(table)
    db.execute(form.found, founding)
    db.execute(f"PRAGMA application_id={form.application}")
    db.execute(f"PRAGMA user_version={form.version}")
    db.execute("COMMIT")
    return db


def finish(db: sqlite3.Connection) -> None:
    """Have all that was written in the file itself, on disk, before it is renamed. Raises sqlite3.Error."""
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def connect(path: Path, form: Format, mode: str = "rw") -> sqlite3.Connection:
    """Open a file; ``mode`` is ``rw``, ``ro`` or ``ro&immutable=1``. Raises sqlite3.Error."""
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None)
    _configure(db, form)
    return db


def require_tables(db: sqlite3.Connection, path: Path, form: Format, genesis: bytes) -> None:
    """Raise LedgerError unless this is a ledger of this version and federation; Damaged where it was one.

    The tables' definitions must be ours to the letter: a view or a virtual table in a file from elsewhere could run
    for ever.
    """
    (application,), (version,) = (
        db.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
    )
    if application != form.application:
        raise LedgerError("not a ledger, but another program's database", where=str(path), remedy="Name another file.")
    if version > form.version:
        raise LedgerError(
            f"a ledger of version {version}; this program knows versions to {form.version}",
            where=str(path),
            remedy="Upgrade: pip install --upgrade coterie. The file was not touched.",
        )
    if _definitions(db) != _expected(form):
        raise Damaged("the tables are not those of a ledger", where=str(path))
    rows = db.execute("SELECT * FROM federation LIMIT 2").fetchall()
    if len(rows) != 1 or type(rows[0][0]) is not bytes or len(rows[0][0]) != 32:
        raise Damaged("the federation is not named", where=str(path))
    if rows[0][0] != genesis:
        raise LedgerError(
            f"a ledger of the federation {rows[0][0].hex()[:16]}, not of {genesis.hex()[:16]}",
            where=str(path),
            remedy="Each federation has a ledger file of its own.",
        )


def translated(error: Exception, path: Path) -> StoreError:
    """What SQLite's error means for a ledger, and what to do about it."""
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    where = str(path)
    if primary == sqlite3.SQLITE_FULL:
        remedy = "Free some space and go on. What was written before is kept; this last record was not."
        return StoreError("no room is left for the ledger", where=where, remedy=remedy)
    if primary == sqlite3.SQLITE_IOERR:
        remedy = "Look at free space, quota, limits and the disk's health, then go on. What was written before is kept."
        return StoreError(f"the ledger cannot be read or written: {error}", where=where, remedy=remedy)
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreError("another program uses the ledger", where=where, remedy="Stop it, or wait for it.")
    if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        remedy = "Check that the file and its folder are there and may be written by this user."
        return StoreError(f"the ledger cannot be opened: {error}", where=where, remedy=remedy)
    return Damaged(f"the ledger's file is damaged ({error})", where=where, remedy=OPEN_AGAIN)


def replace(fresh: Path, path: Path) -> None:
    """Give a closed, complete file the name ``path``, durably."""
    fresh.replace(path)
    sync_folder(path.absolute().parent)


def remove_logs(path: Path) -> None:
    """Delete what SQLite keeps beside a database; it would be played into another file of the same name."""
    for name in (f"{path.name}-wal", f"{path.name}-shm"):
        path.with_name(name).unlink(missing_ok=True)


def _configure(db: sqlite3.Connection, form: Format) -> None:
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(form.most_row_bytes + PAGE_BYTES, 1 << 20))
    for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "synchronous=FULL"):
        db.execute(f"PRAGMA {pragma}")


def _definitions(db: sqlite3.Connection) -> list[tuple[object, ...]]:
    return db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name LIMIT 20").fetchall()


def _expected(form: Format) -> list[tuple[object, ...]]:
    db = sqlite3.connect(":memory:")
    try:
        for table in form.tables:
            db.execute(table)
        return _definitions(db)
    finally:
        db.close()
