"""A real peer's store: one file a key, replaced at once or not at all."""

from __future__ import annotations

import logging
import re
import threading
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from coterie.errors import OutputError
from coterie.files import writing
from coterie.runtime.node.state_file import read_state, write_state
from coterie.runtime.work.memory import Arena
from coterie.runtime.work.packing import Packer

_KEY = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_log = logging.getLogger("coterie.store")


def clear_leftovers(folder: Path) -> None:
    """Delete what processes that were killed in mid-write have left in a folder of stores, files as large as models.

    Before any store is opened there. Raises OSError.
    """
    for leftover in folder.rglob(".*.state.*"):
        leftover.unlink()


class FileStore:
    """Implements ``Store`` in a folder; a value is on disk when ``put`` returns. Snapshots are held in ``arena``.

    A damaged file is set aside, as ``KEY.damaged``, and counts as absent: the peer then comes back as one that has lost
    its memory, which protocols can bear; it does not stay away.
    """

    def __init__(self, folder: Path, arena: Arena, layout_hash: str) -> None:
        self._folder, self._arena, self._layout = folder, arena, layout_hash
        self._values: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        if key not in self._values:
            self._values[key] = self._read(self._path(key))
        return self._values[key]

    def put(self, key: str, value: Any) -> None:
        """Raises OutputError where it cannot be written; the value before is then still there."""
        self._write(self._path(key), *self._packed(key, value))
        self._values[key] = value

    def _packed(self, key: str, value: Any) -> tuple[Any, Packer]:
        """Raises PluginError for what cannot be kept."""
        packer = Packer(self._arena, where=f"the store, under {key!r}")
        return packer.pack(value, "the store"), packer

    def _write(self, path: Path, packed: Any, packer: Packer) -> None:
        remedy = "Make room, or check the permissions; the node goes on from its last state when started again."
        with writing(path, "the peer's state", remedy):
            write_state(path, self._layout, packed, packer)

    def put_durably(self, key: str, value: Any) -> None:
        self.put(key, value)

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise OutputError(
                f"{key!r} cannot name what a peer keeps", remedy="Use small letters, digits, '_' and '-'."
            )
        return self._folder / f"{key}.state"

    def _read(self, path: Path) -> Any:
        try:
            return read_state(path, self._arena, self._layout)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, ValueError, KeyError, TypeError) as error:
            _log.warning("%s is damaged and set aside: %s", path, error)
            path.replace(path.with_suffix(".damaged"))
            return None


class StateStore(FileStore):
    """What a protocol keeps, written by a thread beside the event loop: a large model takes a while.

    A value is in memory at once, and on disk soon after; values of one key that come faster than they can be written
    are passed over for the last one. A crash, and a disk that takes no more, go back to the last one written.
    ``settle`` waits for what is under way: jobs do so before they are done, so that a peer never shows what comes of a
    state that is not on disk yet. ``put_durably`` writes at once, beside what else is under
    way, and raises where that fails.
    """

    def __init__(self, folder: Path, arena: Arena, layout_hash: str) -> None:
        super().__init__(folder, arena, layout_hash)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="coterie-state")
        self._due: dict[str, tuple[Any, Packer]] = {}
        """By key what is to be written; the packer holds the snapshots, so that their memory is not used again."""
        self._lock = threading.Lock()
        self._writing = defaultdict[str, threading.Lock](threading.Lock)
        """One for each key."""
        self._last: Future[None] | None = None

    def put(self, key: str, value: Any) -> None:
        path, (packed, packer) = self._path(key), self._packed(key, value)
        for name, tensor in packer.tensors.items():
            if name not in packer.snapshots:
                packer.tensors[name] = tensor.clone()
        self._values[key] = value
        with self._lock:
            waits = key in self._due
            self._due[key] = packed, packer
        if not waits:
            self._last = self._writer.submit(self._write_due, key, path)

    def settle(self) -> None:
        """Return when what was put before is written, or cannot be. For another thread than the event loop's."""
        last = self._last
        if last is not None:
            last.result()

    def put_durably(self, key: str, value: Any) -> None:
        with self._writing[key]:
            with self._lock:
                self._due.pop(key, None)  # it is older
            super().put(key, value)

    def close(self) -> None:
        """Return when all is written that can be."""
        self._writer.shutdown(wait=True)

    def _write_due(self, key: str, path: Path) -> None:
        with self._writing[key]:
            with self._lock:
                due = self._due.pop(key, None)
            try:
                if due is not None:
                    self._write(path, *due)
            except OutputError as error:
                _log.error("not on disk: %s", error)
