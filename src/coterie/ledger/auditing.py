"""What audits share: a file from anybody is read, nothing is written to it, and what is wrong with it has words."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from coterie.errors import LedgerError
from coterie.ledger.formats import FAULTS, Damaged, translated


class Stop(Exception):
    """A fault was found."""


@contextmanager
def faults(path: Path, found: Callable[[str], None]) -> Iterator[None]:
    """Whatever is wrong inside with the file ends it and is told to ``found``.

    Raises LedgerError for what cannot be audited at all.
    """
    try:
        yield
    except Stop as stop:
        found(str(stop))
    except Damaged as damaged:
        found(damaged.what)
    except FAULTS as error:
        meaning = translated(error, path)
        if not isinstance(meaning, Damaged):
            raise meaning from error
        found(meaning.what)


def require_structure(db: sqlite3.Connection) -> None:
    """What reading rows could not see, such as rows that an index leaves out. Raises Stop."""
    ((found,),) = db.execute("PRAGMA integrity_check(1)").fetchall()
    if found != "ok":
        raise Stop(f"its structure is damaged: {found}")


def require_file(path: Path) -> None:
    remedy = "Name a ledger, such as ledger.sqlite."
    try:
        if path.exists() and not path.is_file():
            raise LedgerError("not a file", where=str(path), remedy=remedy)
        path.open("rb").close()
    except OSError as error:
        raise LedgerError(f"it cannot be read: {error.strerror or error}", where=str(path), remedy=remedy) from None


def read_mode(path: Path) -> str:
    """Without logs beside it nobody has the file open: it is read as it is, in a folder that may be read-only."""
    logs = (path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-shm"))
    return "ro" if any(log.exists() for log in logs) else "ro&immutable=1"


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def date(milliseconds: int) -> str:
    """An author may have written any time."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"{milliseconds} ms after 1970"
