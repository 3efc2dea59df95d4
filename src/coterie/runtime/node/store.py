"""A real peer's store: one file a key, replaced at once and on disk before ``put`` returns."""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load, save

from coterie.errors import OutputError
from coterie.files import write_file
from coterie.runtime.work.memory import Arena
from coterie.runtime.work.packing import Packer, Unpacker

_SCHEMA = "coterie.store/1"
_KEY = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_log = logging.getLogger("coterie.store")


class _File(msgspec.Struct):
    schema: str
    layout: str
    value: Any
    tensors: bytes
    """In the format of safetensors."""
    digest: bytes
    """SHA-256 of ``tensors``."""

    def check(self, layout: str) -> None:
        """Raise ValueError unless it is whole, and of this version and layout."""
        if self.schema != _SCHEMA or self.layout != layout:
            raise ValueError("it was written by another version, or for another model")
        if hashlib.sha256(self.tensors).digest() != self.digest:
            raise ValueError("its bytes are not those that were written")


class FileStore:
    """Implements ``Store`` in a folder. Snapshots are held in ``arena``.

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
        packer = Packer(self._arena, where=f"the store, under {key!r}")
        packed = packer.pack(value, "the store")
        tensors = save({name: tensor.contiguous() for name, tensor in packer.tensors.items()})
        content = _File(_SCHEMA, self._layout, packed, tensors, hashlib.sha256(tensors).digest())
        try:
            write_file(self._path(key), msgspec.msgpack.encode(content))
        except OSError as error:
            raise OutputError(
                f"the peer's state cannot be written: {error.strerror or error}",
                where=str(self._path(key)),
                remedy="Make room, or check the permissions; the node goes on from its last state when started again.",
            ) from error
        self._values[key] = value

    def put_durably(self, key: str, value: Any) -> None:
        FileStore.put(self, key, value)

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise OutputError(
                f"{key!r} cannot name what a peer keeps", remedy="Use small letters, digits, '_' and '-'."
            )
        return self._folder / f"{key}.state"

    def _read(self, path: Path) -> Any:
        try:
            file = msgspec.msgpack.decode(path.read_bytes(), type=_File)
            file.check(self._layout)
            return Unpacker(self._arena, self._layout, load(file.tensors)).unpack(file.value)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, SafetensorError, ValueError, KeyError, TypeError) as error:
            _log.warning("%s is damaged and set aside: %s", path, error)
            path.replace(path.with_suffix(".damaged"))
            return None


class StateStore(FileStore):
    """What a protocol keeps. Where the disk takes no more, the protocol goes on.

    The value is then held in memory only, and written with the next one that there is room for; a crash meanwhile goes
    back to the last one written. ``put_durably`` raises instead.
    """

    def put(self, key: str, value: Any) -> None:
        try:
            super().put(key, value)
        except OutputError as error:
            _log.error("not on disk: %s", error)
            self._values[key] = value
