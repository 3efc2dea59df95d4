"""Ledger files in use: made, opened, mended and locked, and changed in transactions.

Durable: each change is one transaction, on disk when it returns (synchronous=FULL). What a kind of file holds, how it
is read and how it is salvaged is its own affair.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from coterie.errors import LedgerError
from coterie.ledger.formats import FAULTS, Damaged, Format, StoreError, connect, make, require_tables, translated

T = TypeVar("T")


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


def _refused(error: OSError, path: Path) -> StoreError:
    remedy = "Check that its folder is there, may be written by this user, and has room."
    return StoreError(f"the ledger cannot be opened: {error.strerror or error}", where=str(path), remedy=remedy)
