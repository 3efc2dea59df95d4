"""A frame as it comes in: header first, then each snapshot straight into its own memory, hashed on the way.

The bytes are those of ``Frame.chunks`` (see ``codec``), in pieces of any length. Where snapshots are compressed, a
chunk holds the encoded elements, and after the last chunk of a lossily compressed snapshot comes SHA-256 of its chunks'
content. Everything is hostile until checked: nothing is allocated for what the header announces before the limits have
been asked, and pages are only taken from the system as bytes come.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from functools import partial

import numpy as np
import torch

from coterie.errors import MessageError
from coterie.layout import Snapshot
from coterie.network.codec import CHUNK_BYTES, LENGTH, PREFIX, Codec, Frame, MemorySnapshot, Reference, header_length
from coterie.network.compression import CHUNK_ELEMENTS, Elements, Encoding
from coterie.network.limits import Limits
from coterie.network.spool import Spool, SpooledSnapshot

_DIGEST = 32
_INLINE = 1 << 16
"""Bytes that are hashed faster than another thread would wake up."""


class Backlog:
    """Work that is done in order, off the event loop where it is much."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self._jobs: list[Callable[[], None]] = []
        self._running: asyncio.Future[None] | None = None
        self._size = 0
        self.pending = 0
        """Bytes whose turn has not come."""

    def add(self, nbytes: int, job: Callable[[], None]) -> None:
        self._jobs.append(job)
        self._size += nbytes
        self.pending += nbytes
        if self._running is None and self._size > _INLINE:
            self._start()

    async def done(self) -> None:
        """Wait until all is done. Raises what a job has raised."""
        while self._running is not None:
            await asyncio.wait([self._running])
            self._collect()
        for job in self._jobs:
            job()
        self._jobs, self._size, self.pending = [], 0, 0

    async def below(self, nbytes: int) -> None:
        """Wait until at most so many bytes are pending. Raises what a job has raised."""
        while self._running is not None and self.pending > nbytes:
            await asyncio.wait([self._running])
            self._collect()

    def _start(self) -> None:
        jobs, size = self._jobs, self._size
        self._jobs, self._size = [], 0
        self._running = asyncio.get_running_loop().run_in_executor(self._pool, _run, jobs)
        self._running.add_done_callback(lambda _: self._ended(size))

    def _ended(self, size: int) -> None:
        self.pending -= size
        running = self._running
        failed = running is not None and (running.cancelled() or running.exception() is not None)
        if self._jobs and not failed:
            self._start()

    def _collect(self) -> None:
        if self._running is not None and self._running.done():
            ended, self._running = self._running, None
            ended.result()


def _run(jobs: list[Callable[[], None]]) -> None:
    for job in jobs:
        job()


class FrameReader:
    """One frame. After a MessageError it is to be thrown away.

    ``feed`` stops after the header, until ``admit`` says that there is room for what it announces.
    """

    def __init__(
        self, encoding: Encoding, limits: Limits, codec: Codec, pool: Executor, spools: Mapping[str, Spool]
    ) -> None:
        self._encoding, self._limits, self._codec, self._spools = encoding, limits, codec, spools
        self.backlog = Backlog(pool)
        self._held, self._need = bytearray(), PREFIX.size
        self._into: memoryview | None = None
        """Where the bytes of an uncompressed chunk go."""
        self._step: Callable[[bytes], None] = self._on_prefix
        self.header = b""
        self._references: list[Reference] = []
        self._snapshots: list[_Snapshot] = []
        self._rooms: list[SpooledSnapshot | None] = []
        """Of each snapshot, where it is not to be in memory; empty where none is."""
        self._admitted = self.whole = False

    @property
    def announced(self) -> int:
        """Bytes of the frame's snapshots; 0 until the header has come."""
        return sum(4 * reference.size for reference in self._references)

    def make_room(self) -> int:
        """Room on disk for those snapshots whose layout has a spool; the bytes of memory that the others need."""
        spools = [self._spools.get(reference.layout.hex()) for reference in self._references]
        self._rooms = [
            spool.room(reference.layout.hex(), reference.size) if spool is not None else None
            for spool, reference in zip(spools, self._references, strict=True)
        ]
        rooms = zip(self._rooms, self._references, strict=True)
        return sum(4 * reference.size for room, reference in rooms if room is None)

    @property
    def waits(self) -> bool:
        """Whether it must be admitted before it takes more."""
        return bool(self._references) and not self._admitted

    def admit(self) -> None:
        """There is room, as ``make_room`` has said."""
        self._admitted = True
        self._next_snapshot()

    def let_go(self) -> None:
        """Of what has come: it is not wanted any more."""
        self._snapshots, self._rooms, self._into = [], [], None

    def feed(self, data: memoryview) -> memoryview:
        """Take bytes; what is left of them when it waits to be admitted. Raises MessageError."""
        while len(data) and not self.waits:
            if self.whole:
                raise MessageError(f"{len(data)} bytes follow the frame")
            if self._into is not None:
                taken = min(len(data), len(self._into))
                self._into[:taken] = data[:taken]
                self._into = self._into[taken:]
                if not len(self._into):
                    self._into = None
                    self._on_elements()
            else:
                taken = min(len(data), self._need - len(self._held))
                self._held += data[:taken]
                if len(self._held) == self._need:
                    content = bytes(self._held)
                    self._held.clear()
                    self._step(content)
            data = data[taken:]
        return data

    async def frame(self) -> Frame:
        """The whole frame, hashes checked. Raises MessageError."""
        await self.backlog.done()
        for snapshot, reference in zip(self._snapshots, self._references, strict=True):
            sent = snapshot.sent.digest()
            if sent != (snapshot.trailer if self._encoding.lossy else reference.digest):
                raise MessageError("a snapshot's bytes are not those that were sent")
        # This reader is in a cycle, with ``_step``: what it holds would stay with it.
        read, self._snapshots, self._rooms = self._snapshots, [], []
        digests = [snapshot.held.digest() for snapshot in read]
        header = self._codec.with_digests(self.header, digests) if self._encoding.lossy else self.header
        return Frame(header, tuple(s.snapshot(d) for s, d in zip(read, digests, strict=True)))

    def _expect(self, nbytes: int, step: Callable[[bytes], None]) -> None:
        self._need, self._step = nbytes, step

    def _on_prefix(self, prefix: bytes) -> None:
        length = header_length(prefix)
        if not 0 < length <= self._limits.header_bytes:
            raise MessageError(f"a header of {length} bytes: the limit header_bytes is {self._limits.header_bytes}")
        self._expect(length, self._on_header)

    def _on_header(self, header: bytes) -> None:
        references = self._codec.references(header)
        if len(references) > self._limits.snapshots:
            raise MessageError(f"{len(references)} snapshots: the limit snapshots is {self._limits.snapshots}")
        for reference in references:
            most = self._limits.snapshot_elements.get(reference.layout.hex())
            if most is None:
                raise MessageError(f"a snapshot of the layout {reference.layout.hex()[:12]}, which is not in use here")
            if reference.size > most:
                raise MessageError(f"a snapshot of {reference.size} elements: the limit snapshot_elements is {most}")
        self.header, self._references = header, references
        self.whole = not references

    def _next_snapshot(self) -> None:
        if len(self._snapshots) == len(self._references):
            self.whole = True
            return
        number = len(self._snapshots)
        room = self._rooms[number] if self._rooms else None
        self._snapshots.append(_Snapshot(self._references[number], self._encoding.lossy, room))
        self._expect(LENGTH.size, self._on_length)

    def _on_length(self, content: bytes) -> None:
        (length,) = LENGTH.unpack(content)
        snapshot = self._snapshots[-1]
        chunk = snapshot.next_chunk()
        if not self._encoding.admits(length, len(chunk)):
            raise MessageError(f"a chunk of {length} bytes is not of the right length")
        if self._encoding.code == 0:
            self._into = chunk.view(np.uint8).data
        else:
            self._expect(length, self._on_encoded)

    def _on_elements(self) -> None:
        snapshot = self._snapshots[-1]
        start, chunk = snapshot.take_chunk()
        self.backlog.add(4 * len(chunk), partial(snapshot.take_in, start, chunk))
        self._after_chunk(snapshot)

    def _on_encoded(self, content: bytes) -> None:
        snapshot = self._snapshots[-1]
        start, chunk = snapshot.take_chunk()
        self.backlog.add(4 * len(chunk), partial(snapshot.decode, self._encoding, content, start, chunk))
        self._after_chunk(snapshot)

    def _after_chunk(self, snapshot: _Snapshot) -> None:
        if snapshot.left:
            self._expect(LENGTH.size, self._on_length)
        elif self._encoding.lossy:
            self._expect(_DIGEST, self._on_trailer)
        else:
            self._next_snapshot()

    def _on_trailer(self, content: bytes) -> None:
        self._snapshots[-1].trailer = content
        self._next_snapshot()


class _Snapshot:
    """One that is coming in. ``held`` hashes its elements, ``sent`` what was sent for them.

    Those that go to ``room`` are in memory for a chunk's length.
    """

    def __init__(self, reference: Reference, lossy: bool, room: SpooledSnapshot | None) -> None:
        self._layout, self._size, self._room = reference.layout.hex(), reference.size, room
        # Not np.empty: it asks for huge pages, which cost more here than they save, as each snapshot is new memory.
        self._elements: Elements = torch.empty(reference.size if room is None else 0, dtype=torch.float32).numpy()
        self._chunk = self._elements
        """The next one, once its memory has been asked for."""
        self._at = 0
        self.held = hashlib.sha256()
        self.sent = hashlib.sha256() if lossy else self.held
        self.trailer = b""

    @property
    def left(self) -> int:
        """Elements that have not come."""
        return self._size - self._at

    def next_chunk(self) -> Elements:
        if self._room is None:
            self._chunk = self._elements[self._at : self._at + CHUNK_ELEMENTS]
        else:
            self._chunk = np.empty(min(CHUNK_ELEMENTS, self.left), np.float32)
        return self._chunk

    def take_chunk(self) -> tuple[int, Elements]:
        """The next chunk is there, or its encoding: its first element's number, and its memory."""
        start, self._at = self._at, self._at + len(self._chunk)
        return start, self._chunk

    def decode(self, encoding: Encoding, content: bytes, start: int, chunk: Elements) -> None:
        encoding.decode(content, chunk)
        if self.sent is not self.held:
            self.sent.update(content)
        self.take_in(start, chunk)

    def take_in(self, start: int, chunk: Elements) -> None:
        """Raises OSError where it cannot be written."""
        self.held.update(chunk.view(np.uint8).data)
        if self._room is not None:
            self._room.write(start, chunk)

    def snapshot(self, digest: bytes) -> Snapshot:
        if self._room is None:
            return MemorySnapshot(self._layout, torch.from_numpy(self._elements), digest)
        self._room.written(digest)
        return self._room


PENDING_BYTES = 4 * CHUNK_BYTES
"""Decoded bytes that may wait for their turn; more are not taken from the network."""
