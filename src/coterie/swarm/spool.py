"""Models that wait for a merge, on disk: a leader has those of all sites, and room for a few.

A file has no name where the system offers that, as Linux does: it is gone when nobody holds the model any more, and
when the process dies, however it dies. Elsewhere, what a process that died has left is deleted by the next one.

Who sees what: the models of other sites are in files of the owner's home, readable by its user alone, until they are
merged; their bytes may stay on the disk after that, as with any file that was deleted.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from pathlib import Path
from typing import IO

import numpy as np
import torch

from coterie.aggregation.merging.models import Piece, filled
from coterie.errors import DataError
from coterie.layout import Snapshot

_FOLDER = "models"
_log = logging.getLogger("coterie.swarm")


class Spool:
    """A place for models in ``folder``, which it makes, and clears of what was left there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / _FOLDER
        for left in self._folder.glob("*"):
            with contextlib.suppress(OSError):  # not a file: then it is none of ours
                left.unlink()

    def put(self, snapshot: Snapshot) -> Snapshot:
        """A copy on disk; the snapshot itself where there is no room. For another thread than the event loop's."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 - the snapshot's
            with contextlib.ExitStack() as undo:
                undo.callback(file.close)
                data = snapshot.tensor().numpy().data.cast("B")
                while len(data):
                    data = data[file.write(data) :]
                undo.pop_all()
        except OSError as error:
            _log.warning("a model is kept in memory, as it cannot be written to %s: %s", self._folder, error)
            return snapshot
        return SpooledSnapshot(snapshot.layout_hash, snapshot.size, snapshot.digest(), file)


class SpooledSnapshot(Snapshot):
    """A snapshot in a file of this machine's byte order, which ends with it."""

    def __init__(self, layout_hash: str, size: int, digest: bytes, file: IO[bytes]) -> None:
        self.layout_hash, self.size, self._digest, self._file = layout_hash, size, digest, file

    def __del__(self) -> None:
        self._file.close()

    def read(self, start: int, out: Piece) -> None:
        """Fill ``out`` (k,) with the elements from ``start`` on; also by several threads. Raises DataError."""
        try:
            whole = filled(out, self._file.fileno(), 4 * start)
        except OSError as error:
            raise _lost(error.strerror or str(error)) from error
        if not whole:
            raise _lost("its file has become shorter")

    def tensor(self) -> torch.Tensor:
        """All of it, read anew at each call."""
        found = np.empty(self.size, np.float32)
        self.read(0, found)
        return torch.from_numpy(found)

    def digest(self) -> bytes:
        return self._digest


def _lost(why: str) -> DataError:
    return DataError(
        f"a model that waits for its merge cannot be read: {why}",
        where="the training's folder",
        remedy="Look after the disk. The next call begins again with the last merged model.",
    )
