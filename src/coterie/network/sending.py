"""A frame as it goes out: the codec's bytes, snapshots compressed or not, in pieces that fit one stream message."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import Executor

import numpy as np

from coterie.layout import Snapshot, element_bytes
from coterie.network.codec import CHUNK_BYTES, LENGTH, Frame
from coterie.network.compression import CHUNK_ELEMENTS, Elements, Encoding

PIECE_BYTES = CHUNK_BYTES + 4096
"""At most; a chunk and a short header go together."""


async def pieces(
    frame: Frame, encoding: Encoding, pool: Executor, *, first: bytes = b"", then: bytes = b""
) -> AsyncGenerator[tuple[bytes, bool], None]:
    """The frame's bytes, each piece with whether it is the last. Only one piece is in memory at a time.

    ``first`` stands before the first piece, ``then`` before each later one: a few bytes for the stream.
    """
    packer = _Packer(first, then)
    if encoding.code == 0:
        for part in frame.chunks():
            for piece in packer.add(part):
                yield piece, False
    else:
        for piece in packer.add(frame.head):
            yield piece, False
        for snapshot in frame.snapshots:
            async for part in _encoded(snapshot, encoding, pool):
                for piece in packer.add(part):
                    yield piece, False
    yield packer.rest(), True


async def _encoded(snapshot: Snapshot, encoding: Encoding, pool: Executor) -> AsyncGenerator[bytes, None]:
    """Each chunk with its length, and the hash of what was sent where that is not what was meant."""
    loop = asyncio.get_running_loop()
    elements: Elements = np.frombuffer(element_bytes(snapshot.tensor()), dtype="<f4")
    sent = hashlib.sha256()

    def encode(chunk: Elements) -> bytes:
        content = encoding.encode(chunk)
        if encoding.lossy:
            sent.update(content)
        return content

    for start in range(0, len(elements), CHUNK_ELEMENTS):
        content = await loop.run_in_executor(pool, encode, elements[start : start + CHUNK_ELEMENTS])
        yield LENGTH.pack(len(content)) + content
    if encoding.lossy:
        yield sent.digest()


class _Packer:
    """Joins parts into pieces; elements are copied once, here."""

    def __init__(self, first: bytes, then: bytes) -> None:
        self._parts: list[bytes | memoryview] = [first]
        self._then, self._size = then, 0

    def add(self, part: bytes | memoryview) -> Iterator[bytes]:
        """Take a part; the pieces that are full because of it."""
        if self._size and self._size + len(part) > PIECE_BYTES:
            yield self.rest()
        while len(part) > PIECE_BYTES:
            self._take(part[:PIECE_BYTES])
            yield self.rest()
            part = part[PIECE_BYTES:]
        self._take(part)

    def rest(self) -> bytes:
        """What is left."""
        piece = b"".join(self._parts)
        self._parts, self._size = [self._then], 0
        return piece

    def _take(self, part: bytes | memoryview) -> None:
        self._parts.append(part)
        self._size += len(part)
