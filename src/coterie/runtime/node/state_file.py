"""The file of one value in a store: its plain part, then its tensors as they lie in memory. Neither way copies them.

    8 bytes   the format and its version
    8 bytes   length of the header, big-endian
    header    msgpack: the layout's hash, the packed value, and name, dtype and shape of each tensor
    elements  of these tensors, one after the other, in this machine's byte order
    32 bytes  SHA-256 of all of this

The hash finds what a torn write or a failing disk has damaged. It does not protect from whoever may write the file:
that is the owner of the node, whose state it is.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
import sys
from collections.abc import Iterator
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch

from coterie.files import write_pieces
from coterie.runtime.work.memory import Arena, SharedSnapshot
from coterie.runtime.work.packing import Packer, Unpacker

_FORMAT = b"coterie\x02" if sys.byteorder == "little" else b"coterie\x82"
_PREFIX = struct.Struct(">8sQ")
_DIGEST = 32
_PIECE = 1 << 20
"""Bytes hashed and written, or read, at a time."""

_Length = Annotated[int, msgspec.Meta(ge=0)]


class _Tensor(msgspec.Struct, array_like=True):
    name: str
    dtype: str
    """As in ``torch``, such as "float32"."""
    shape: list[_Length]
    is_snapshot: bool

    @property
    def kind(self) -> torch.dtype:
        """Raises TypeError for a dtype that this version of torch does not have."""
        found = getattr(torch, self.dtype, None)
        if not isinstance(found, torch.dtype):
            raise TypeError(f"there is no dtype {self.dtype!r}")
        return found

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.kind.itemsize


class _Header(msgspec.Struct, array_like=True):
    layout: str
    value: Any
    tensors: list[_Tensor]


def write_state(path: Path, layout: str, packed: Any, packer: Packer) -> None:
    """Write what ``packer`` has made, whole or not at all; it is on disk when this returns. Raises OSError.

    The tensors must not change meanwhile. One that is not contiguous is copied, while its turn lasts.
    """
    rows = [
        _Tensor(name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape), name in packer.snapshots)
        for name, tensor in packer.tensors.items()
    ]
    header = msgspec.msgpack.encode(_Header(layout, packed, rows))
    write_pieces(path, _pieces(header, list(packer.tensors.values())))


def read_state(path: Path, arena: Arena, layout: str) -> Any:
    """The value in a file; its snapshots are read into ``arena``.

    Nothing is taken from a file that is not whole, and no more memory than its length says. Raises OSError, and
    ValueError, KeyError, TypeError or MsgspecError for a file that is damaged, or of another version or layout.
    """
    with path.open("rb", buffering=0) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size < _PREFIX.size + _DIGEST:
            raise ValueError("it is cut short")
        written_as, length = _PREFIX.unpack(_read(stream, bytearray(_PREFIX.size)))
        if written_as != _FORMAT:
            raise ValueError("it was written by another version, or it is no state")
        if length > size - _PREFIX.size - _DIGEST:
            raise ValueError("it is cut short")
        _require_whole(stream, size)
        stream.seek(_PREFIX.size)
        header = msgspec.msgpack.decode(_read(stream, bytearray(length)), type=_Header)
        if header.layout != layout:
            raise ValueError("it was written for another model")
        if _PREFIX.size + length + sum(row.nbytes for row in header.tensors) + _DIGEST != size:
            raise ValueError("its length is not the one its header says")
        unpacker = Unpacker(arena, layout)
        for row in header.tensors:
            _read(stream, _bytes(_room(row, unpacker)))
    return unpacker.unpack(header.value)


def _room(row: _Tensor, unpacker: Unpacker) -> torch.Tensor:
    """Where the elements go. Raises ValueError for a snapshot of another size."""
    if not row.is_snapshot:
        unpacker.tensors[row.name] = made = torch.empty(row.shape, dtype=row.kind)
        return made
    if row.shape != [unpacker.arena.size] or row.kind != torch.float32:
        raise ValueError(f"a snapshot has shape {row.shape}, not [{unpacker.arena.size}]")
    snapshot = unpacker.snapshots[row.name] = SharedSnapshot(unpacker.arena, unpacker.layout_hash)
    return snapshot.tensor()


def _pieces(header: bytes, tensors: list[torch.Tensor]) -> Iterator[bytes | memoryview]:
    """The file, its hash taken as it goes by."""
    held = hashlib.sha256()
    head = memoryview(_PREFIX.pack(_FORMAT, len(header)) + header)
    for content in chain([head], map(_bytes, tensors)):
        for start in range(0, len(content), _PIECE):
            piece = content[start : start + _PIECE]
            held.update(piece)
            yield piece
    yield held.digest()


def _require_whole(stream: FileIO, size: int) -> None:
    """Raise ValueError unless its bytes are those that were written."""
    held, buffer = hashlib.sha256(), memoryview(bytearray(min(_PIECE, size)))
    stream.seek(0)
    left = size - _DIGEST
    while left:
        piece = _read(stream, buffer[:left])
        held.update(piece)
        left -= len(piece)
    if bytes(_read(stream, bytearray(_DIGEST))) != held.digest():
        raise ValueError("its bytes are not those that were written")


def _read(stream: FileIO, room: bytearray | memoryview) -> bytearray | memoryview:
    """``room``, filled. Raises ValueError at the file's end."""
    rest = memoryview(room)
    while len(rest):
        count = stream.readinto(rest)
        if not count:
            raise ValueError("it became shorter while it was read")
        rest = rest[count:]
    return room


def _bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of its elements: the tensor's own memory, where they lie there one after the other."""
    found: memoryview = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    return found
