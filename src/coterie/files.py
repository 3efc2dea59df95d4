"""Files that are there after a power cut: written whole or not at all, and their folders with them. Folders locked."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from coterie.errors import CoterieError, OutputError


def write_file(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file, whole or not at all, its folder made if need be: a temporary one beside it, then a rename.

    It is on disk when this returns, under its name. With ``mode`` 0o600 nobody but its owner can read it at any time.
    Raises OSError.
    """
    write_pieces(path, [content], mode)


def write_pieces(path: Path, pieces: Iterable[bytes | memoryview], mode: int = 0o644) -> None:
    """``write_file``, of what comes in pieces: none is copied, and each may be made when it is its turn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            for piece in pieces:
                stream.write(piece)
            stream.flush()
            os.fsync(descriptor)
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(temporary).unlink()
        raise
    sync_folder(path.parent)


def read_into(room: memoryview, descriptor: int, at: int) -> bool:
    """Whether ``room``, bytes, could be filled from byte ``at`` on of an open file. Raises OSError."""
    done = 0
    while done < len(room):
        count = os.preadv(descriptor, [room[done:]], at + done)
        if count == 0:
            return False
        done += count
    return True


@contextmanager
def writing(path: Path, what: str = "", remedy: str = "Make room, or check the permissions.") -> Iterator[None]:
    """An OSError becomes an OutputError: ``what``, at ``path``, cannot be written."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise OutputError(f"{what} cannot be written: {why}".lstrip(), where=str(path), remedy=remedy) from error


@contextmanager
def locked(folder: Path, busy: CoterieError) -> Iterator[None]:
    """Raise ``busy`` where another process has locked this folder; the lock ends with the process. Raises OSError."""
    descriptor, owner = os.open(folder, os.O_RDONLY), os.getpid()
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        try:
            yield
        finally:
            if os.getpid() == owner:  # a fork, such as a data loader's, shares the lock, and may outlive it
                fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Let a file that was made or renamed in ``folder`` be there under its name after a power cut. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
