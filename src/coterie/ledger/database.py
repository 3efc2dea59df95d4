"""An SQLite file (3.31 or later) in WAL mode that holds what was signed: making, opening and mending it.

Two kinds of file are made of this: a peer's ledger of many chains (``tables``) and the shared chain
(``shared.tables``). What differs is the ``Format``: their tables, how they are read, and how they are salvaged.

Durable: each change is one transaction, on disk when it returns (synchronous=FULL). Nothing in a file is believed
because it is there.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from coterie.errors import LedgerError

PAGE_BYTES = 4096
OPEN_AGAIN = "Open the ledger again: what verifies is kept, and the damaged file is put aside."

FAULTS = (sqlite3.Error, UnicodeDecodeError)
"""What the module sqlite3 raises. The second one for a message that quotes a damaged file."""

T = TypeVar("T")


class Damaged(LedgerError):
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


def open_file(
    path: Path, form: Format, founding: tuple[object, ...], load: Callable[[], T], mend: Callable[[str], None]
) -> T:
    """What ``load`` makes of the file, once it is made or mended. Raises LedgerError, and OSError.

    Where ``load`` raises Damaged, ``mend`` is told what is wrong, puts a sound file there, and ``load`` comes again.
    """
    try:
        if not path.exists():
            _require_no_log(path)
            make(path, form, founding)
        elif not path.stat().st_size:
            raise LedgerError(
                "the file is empty, which a ledger never is",
                where=str(path),
                remedy="Move it away and, if there was a ledger, catch up from the other peers before you go on.",
            )
        try:
            return load()
        except Damaged as fault:
            mend(fault.what)
        return load()
    except FAULTS as error:
        raise translated(error, path) from error


@contextmanager
def loading(path: Path, form: Format, genesis: bytes) -> Iterator[sqlite3.Connection]:
    """A connection to a file whose structure is sound; closed again where what follows raises.

    Raises LedgerError, and Damaged for a file that is not as it was written.
    """
    db: sqlite3.Connection | None = None
    try:
        db = connect(path, form)
        require_tables(db, path, form, genesis)
        db.execute("PRAGMA journal_mode=WAL")  # as it was made; a copy may have lost it
        _require_structure(db, path)
        yield db
    except BaseException as error:
        if db is not None:
            with suppress(*FAULTS):
                db.close()
        if isinstance(error, FAULTS):
            raise translated(error, path) from error
        raise


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


def translated(error: Exception, path: Path) -> LedgerError:
    """What SQLite's error means for a ledger, and what to do about it."""
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    where = str(path)
    if primary == sqlite3.SQLITE_FULL:
        remedy = "Free some space and go on. What was written before is kept; this last record was not."
        return LedgerError("no room is left for the ledger", where=where, remedy=remedy)
    if primary == sqlite3.SQLITE_IOERR:
        remedy = "Look at free space, quota, limits and the disk's health, then go on. What was written before is kept."
        return LedgerError(f"the ledger cannot be read or written: {error}", where=where, remedy=remedy)
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return LedgerError("another program uses the ledger", where=where, remedy="Stop it, or wait for it.")
    if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        remedy = "Check that the file and its folder are there and may be written by this user."
        return LedgerError(f"the ledger cannot be opened: {error}", where=where, remedy=remedy)
    return Damaged(f"the ledger's file is damaged ({error})", where=where, remedy=OPEN_AGAIN)


def replace(fresh: Path, path: Path) -> None:
    """Give a closed, complete file the name ``path``, durably."""
    fresh.replace(path)
    folder = os.open(path.absolute().parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_logs(path: Path) -> None:
    """Delete what SQLite keeps beside a database; it would be played into another file of the same name."""
    for name in (f"{path.name}-wal", f"{path.name}-shm"):
        path.with_name(name).unlink(missing_ok=True)


class Database:
    """A file, open. One process at a time, and one thread; a context manager."""

    _db: sqlite3.Connection

    def __init__(self, path: Path, genesis: bytes) -> None:
        """Take the file's lock; ``_opened`` opens the file. Raises LedgerError where another process has it."""
        if len(genesis) != 32:
            raise LedgerError(f"a genesis hash has 32 bytes, not {len(genesis)}")
        self.path, self.genesis = path, genesis
        self._lock = _locked(path)

    def close(self) -> None:
        """Let the file go. Calling it again does nothing."""
        if self._lock >= 0:
            self._db.close()
            self._unlock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _opened(self, opening: Callable[[], T]) -> T:
        """What ``opening`` gives; the lock is let go where it raises."""
        try:
            with self._translating():
                return opening()
        except BaseException:
            self._unlock()
            raise

    def _unlock(self) -> None:
        fcntl.flock(self._lock, fcntl.LOCK_UN)  # closing would not do where a forked process has it too
        os.close(self._lock)
        self._lock = -1

    def _read(self, query: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        with self._translating():
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._translating():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(*FAULTS):  # some errors have ended the transaction already
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except FAULTS as error:
            raise translated(error, self.path) from error
        except OSError as error:
            raise _refused(error, self.path) from None


def _require_no_log(path: Path) -> None:
    log = path.with_name(f"{path.name}-wal")
    if log.exists():
        raise LedgerError(
            "the ledger's file is gone, but what was written last is still in its log",
            where=str(log),
            remedy=f"Put {path.name} back beside it, or move the log away too.",
        )


def _require_structure(db: sqlite3.Connection, path: Path) -> None:
    ((found,),) = db.execute("PRAGMA integrity_check(1)").fetchall()
    if found != "ok":
        reason = " ".join(str(found).replace("*** in database main ***", "").split())
        raise Damaged(f"the ledger's file is damaged ({reason})", where=str(path))


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


def _locked(path: Path) -> int:
    """A lock on the ledger for this process: two nodes with one key would sign two chains."""
    try:
        lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _refused(error, path) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        remedy = "Stop it: one key must not run twice."
        raise LedgerError("another process has the ledger open", where=str(path), remedy=remedy) from None
    return lock


def _refused(error: OSError, path: Path) -> LedgerError:
    remedy = "Check that its folder is there, may be written by this user, and has room."
    return LedgerError(f"the ledger cannot be opened: {error.strerror or error}", where=str(path), remedy=remedy)
