"""Memory that the simulation and its worker processes share: arrays, and blocks of one vector each.

On Linux the memory is anonymous (memfd) and opened by workers through the parent's file descriptor; elsewhere it is a
temporary file. Pages are taken from the system when they are first written.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from coterie.errors import RunError
from coterie.layout import Snapshot, digest_of

_ALIGN = 16
"""Elements: each block begins on a cache line."""


class Segment(NamedTuple):
    """A piece of shared memory, by the path another process opens it under."""

    path: str
    nbytes: int


Block: TypeAlias = tuple[int, int]
"""One vector's place: the number of an arena's segment, and the row in it."""


@dataclass(frozen=True)
class SharedArray:
    """An array in shared memory, for sending to workers."""

    segment: Segment
    dtype: str
    shape: tuple[int, ...]

    def open(self) -> npt.NDArray[np.generic]:
        """The array, mapped into this process."""
        flat = np.frombuffer(_map(self.segment), dtype=self.dtype, count=int(np.prod(self.shape)))
        return flat.reshape(self.shape)


class SharedMemory:
    """Owns segments; they vanish when it is closed."""

    def __init__(self) -> None:
        self._descriptors: list[int] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def segment(self, nbytes: int) -> Segment:
        """New zeroed memory of at least one byte. Raises RunError where the system gives none."""
        nbytes = max(nbytes, 1)
        if sys.platform == "linux":
            descriptor = os.memfd_create("coterie")
            path = f"/proc/{os.getpid()}/fd/{descriptor}"
        else:
            self._folder = self._folder or tempfile.TemporaryDirectory(prefix="coterie-")
            descriptor, path = tempfile.mkstemp(dir=self._folder.name)
        self._descriptors.append(descriptor)
        try:
            os.ftruncate(descriptor, nbytes)
        except OSError as error:
            raise _no_memory(nbytes, error) from error
        return Segment(path, nbytes)

    def share(self, array: npt.NDArray[np.generic]) -> SharedArray:
        """A copy of ``array`` that workers can open."""
        shared = SharedArray(self.segment(array.nbytes), array.dtype.str, array.shape)
        if array.size:
            shared.open()[...] = array
        return shared

    def close(self) -> None:
        """Give the memory back once nobody maps it any more."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


class Vectors:
    """Blocks of an arena as tensors: what workers and the parent both use. ``size``: float32 elements a block."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.stride = -(-size // _ALIGN) * _ALIGN
        self.segments: list[Segment] = []
        self._rows_of: list[tuple[torch.Tensor, ...]] = []
        self._maps: list[mmap.mmap] = []

    def extend(self, segments: Sequence[Segment]) -> None:
        """Map further segments."""
        for segment in segments:
            self.segments.append(segment)
            self._maps.append(_map(segment))
            table = torch.frombuffer(self._maps[-1], dtype=torch.float32, count=segment.nbytes // 4)
            self._rows_of.append(table.view(-1, self.stride)[:, : self.size].unbind(0))

    def __getitem__(self, block: Block) -> torch.Tensor:
        """The block's elements, shape (size,), float32, shared."""
        segment, row = block
        return self._rows_of[segment][row]


class Arena(Vectors):
    """Hands out blocks and takes them back. ``travels``: whether vectors leave this machine, with their hashes."""

    def __init__(self, memory: SharedMemory, size: int, rows: int, *, travels: bool = False) -> None:
        super().__init__(size)
        self._memory, self._rows, self.travels = memory, max(rows, 1), travels
        self._free: list[Block] = []

    def take(self) -> Block:
        """A block with arbitrary content."""
        if not self._free:
            segment = self._memory.segment(self._rows * self.stride * 4)
            self.extend([segment])
            number = len(self.segments) - 1
            self._free.extend((number, row) for row in reversed(range(self._rows)))  # another thread may give one back
        return self._free.pop()

    def give(self, block: Block) -> None:
        """Take a block back; its pages go back to the system where a large one may not be needed again for long."""
        if self.travels and hasattr(mmap, "MADV_REMOVE"):
            self._let_go(block)
        self._free.append(block)

    def _let_go(self, block: Block) -> None:
        """Punch a hole into the segment, of the block's whole pages."""
        segment, row = block
        start, end = (4 * self.stride * at for at in (row, row + 1))
        start, end = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
        if start < end:
            self._maps[segment].madvise(mmap.MADV_REMOVE, start, end - start)


class SharedSnapshot(Snapshot):
    """A snapshot in the arena; its block goes back when nobody holds the snapshot any more."""

    def __init__(self, arena: Arena, layout_hash: str) -> None:
        self.layout_hash, self.size = layout_hash, arena.size
        self._arena = arena
        self._digest: bytes | None = None if arena.travels else bytes(32)
        self.block = arena.take()

    def __del__(self) -> None:
        self._arena.give(self.block)

    def tensor(self) -> torch.Tensor:
        return self._arena[self.block]

    def digest(self) -> bytes:
        """Zeros in a simulation: the bytes stay where they are, so there is nothing to compare."""
        if self._digest is None:
            self._digest = digest_of(self.tensor())
        return self._digest


def _map(segment: Segment) -> mmap.mmap:
    descriptor = os.open(Path(segment.path), os.O_RDWR)
    try:
        return mmap.mmap(descriptor, segment.nbytes)
    except OSError as error:
        raise _no_memory(segment.nbytes, error) from error
    finally:
        os.close(descriptor)


def _no_memory(nbytes: int, error: OSError) -> RunError:
    return RunError(
        f"{nbytes:,} bytes of shared memory cannot be had: {error.strerror or error}",
        where="this machine",
        remedy="Take fewer peers, less data or a smaller model, or make room.",
    )
