"""Large snapshots on disk: as they come in, until they are merged, and as long as others may ask for them.

A file has no name where the system offers that, as Linux does: it is gone when nobody holds the snapshot any more, and
when the process dies, however it dies. Elsewhere, what a process that died has left is deleted by the next one. Whoever
needs the elements gets them mapped: the system keeps as much of the file in memory as it has room for.

Who sees what: the models of other peers are in files of the owner's home, readable by its user alone, until they are
let go of; their bytes may stay on the disk after that, as with any file that was deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import mmap
import os
import sys
import tempfile
import weakref
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import torch

from coterie.errors import DataError
from coterie.files import read_into
from coterie.layout import Snapshot

Elements = npt.NDArray[np.float32]
_PIECE = 1 << 18
"""Elements hashed at a time."""
_log = logging.getLogger("coterie.network")


class Spool:
    """A place for snapshots in ``folder``, which it makes, and clears of what was left there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for left in self._folder.glob("*"):
            with contextlib.suppress(OSError):  # not a file: then it is none of ours
                left.unlink()

    def room(self, layout_hash: str, size: int) -> SpooledSnapshot | None:
        """Room for ``size`` elements that are still to be written; None, and a warning, where the disk has none."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 - the snapshot's
            try:
                if sys.platform == "linux":  # elsewhere a full disk shows when it is too late
                    os.posix_fallocate(file.fileno(), 0, 4 * size)
                else:
                    os.ftruncate(file.fileno(), 4 * size)
            except BaseException:
                file.close()
                raise
        except OSError as error:
            _log.warning("a model is kept in memory, as it cannot be written to %s: %s", self._folder, error)
            return None
        return SpooledSnapshot(layout_hash, size, file)


class SpooledSnapshot(Snapshot):
    """A snapshot in a file of this machine's byte order, which ends with it. ``Spool.room`` makes one."""

    def __init__(self, layout_hash: str, size: int, file: IO[bytes]) -> None:
        self.layout_hash, self.size, self._file = layout_hash, size, file
        self._digest: bytes | None = None
        self._map: weakref.ref[mmap.mmap] | None = None

    def __del__(self) -> None:
        self._file.close()

    def write(self, start: int, elements: Elements) -> None:
        """Fill it from element ``start`` on, before anybody reads it. Raises OSError."""
        data, at = elements.view(np.uint8).data, 4 * start
        while len(data):
            count = os.pwrite(self._file.fileno(), data, at)
            data, at = data[count:], at + count

    def written(self, digest: bytes) -> None:
        """All of it has been written, and has this hash."""
        self._digest = digest

    def read(self, start: int, out: Elements) -> None:
        """Fill ``out`` (k,) with the elements from ``start`` on; also by several threads. Raises DataError."""
        try:
            whole = read_into(out.view(np.uint8).data, self._file.fileno(), 4 * start)
        except OSError as error:
            raise _lost(error.strerror or str(error)) from error
        if not whole:
            raise _lost("its file has become shorter")

    def tensor(self) -> torch.Tensor:
        """The file's pages, mapped as long as somebody holds them. Raises DataError."""
        found = self._map() if self._map is not None else None
        if found is None:
            try:
                found = mmap.mmap(self._file.fileno(), 4 * self.size)
            except (OSError, ValueError) as error:
                raise _lost(str(error)) from error
            self._map = weakref.ref(found)
        return torch.frombuffer(found, dtype=torch.float32, count=self.size)

    def digest(self) -> bytes:
        """Computed at its first use, where it was not known. Raises DataError."""
        if self._digest is None:
            held, piece = hashlib.sha256(), np.empty(min(_PIECE, self.size), np.float32)
            for start in range(0, self.size, _PIECE):
                part = piece[: self.size - start]
                self.read(start, part)
                held.update(part.astype("<f4", copy=False).data)
            self._digest = held.digest()
        return self._digest


def _lost(why: str) -> DataError:
    return DataError(
        f"a model on disk cannot be read: {why}",
        where="the training's folder",
        remedy="Look after the disk. The next call begins again with the last merged model.",
    )
