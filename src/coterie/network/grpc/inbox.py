"""The frames that come from one peer on one stream: checked, received whole, and handed on, or dropped and counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from coterie.errors import MessageError
from coterie.identity import PeerId
from coterie.network.compression import by_code
from coterie.network.grpc.station import Station
from coterie.network.grpc.stream import Watch
from coterie.network.limits import Progress, TokenBucket
from coterie.network.reading import PENDING_BYTES, FrameReader

_SKIPPED_A_SECOND = _SKIPPED_AT_ONCE = 64 << 20
"""Bytes of dropped frames, beyond one frame of the longest allowed; who sends more is cut off."""
_ASKED_A_SECOND, _ASKED_AT_ONCE = 50.0, 200


class Account:
    """What one peer uses, over all its streams."""

    def __init__(self, station: Station) -> None:
        limits = station.limits
        self.frames = TokenBucket(limits.frames_a_second, limits.frames_at_once)
        self.skipped = TokenBucket(_SKIPPED_A_SECOND, limits.receiving_bytes + _SKIPPED_AT_ONCE)
        self.asked = TokenBucket(_ASKED_A_SECOND, _ASKED_AT_ONCE)
        """Questions about routes, and relayed sessions opened: each costs some work."""
        self.streams = TokenBucket(limits.streams_a_minute_of_a_peer / 60, limits.streams_a_minute_of_a_peer)
        """That it opens."""
        self.answering = 0
        """Answers on their way to the peer."""
        self.receiving = 0
        """Bytes of snapshots that are coming in."""
        self.moved = float("-inf")
        """When some of these last came, by the loop's clock."""


class Inbox:
    """One at a time: messages ``first`` and ``next`` of a stream. ``cut`` ends the stream."""

    def __init__(self, peer: PeerId, station: Station, account: Account, cut: Callable[[str], None]) -> None:
        self._peer, self._station, self._account, self._cut = peer, station, account, cut
        self._reader: FrameReader | None = None
        self._taken = self._in_memory = 0
        self._progress: Progress | None = None
        self._watch = Watch(self._too_slow)

    async def first(self, content: memoryview) -> None:
        """A frame begins."""
        if self._reader is not None:
            self._drop("truncated frame")
        if not self._account.frames.take():
            self._drop("too many frames", "the limit is frames_a_second")
            return
        encoding = by_code(content[0]) if len(content) else None
        if encoding is None:
            self._drop("malformed frame", "its encoding is not known here")
            return
        station = self._station
        self._reader = FrameReader(encoding, station.limits, station.codec, station.pool, station.spools)
        self._progress = Progress(station.limits, asyncio.get_running_loop().time())
        await self._feed(content[1:])

    async def next(self, content: memoryview) -> None:
        """A frame goes on; if it was dropped, what is left of it goes the same way."""
        if self._reader is not None:
            await self._feed(content)
        elif not self._account.skipped.take(len(content)):
            self._cut("bytes that belong to no frame")
            self._station.drop(self._peer, "bytes that belong to no frame")

    def missing(self) -> None:
        """Something did not come: a frame that has begun cannot be whole any more."""
        if self._reader is not None:
            self._drop("truncated frame")

    def close(self) -> None:
        """The stream is over."""
        self.missing()
        self._watch.close()

    async def _feed(self, content: memoryview) -> None:
        reader = self._reader
        if reader is None or self._progress is None:
            return
        self._watch.clear()  # what this process takes its time for is not the sender's fault
        try:
            rest = reader.feed(content)
            if reader.waits:
                await self._admit(reader)
                rest = reader.feed(rest)
            await reader.backlog.below(PENDING_BYTES)
            now = asyncio.get_running_loop().time()
            if reader.announced:
                self._account.moved = now
            if not reader.whole:
                self._progress.moved(len(content), now)
                self._watch.set(self._progress.deadline)
                return
            frame = await reader.frame()
        except MessageError as error:
            self._drop("malformed frame", str(error))
            return
        except OSError as error:
            self._drop("no room for a frame", str(error))
            return
        self._release()
        self._station.deliver(self._peer, frame)

    async def _admit(self, reader: FrameReader) -> None:
        """Wait until there is room for the frame's snapshots. Raises MessageError if there never will be."""
        station = self._station
        most, wanted = station.limits.receiving_bytes, reader.announced
        if self._account.receiving + wanted > most:
            raise MessageError(f"snapshots of {wanted} bytes: the limit receiving_bytes is {most}")
        self._account.receiving += wanted
        try:
            loop = asyncio.get_running_loop()
            in_memory = await loop.run_in_executor(station.pool, reader.make_room) if station.spools else wanted
            await station.budget.take(in_memory)
        except BaseException:
            self._account.receiving -= wanted
            raise
        self._taken, self._in_memory = wanted, in_memory
        reader.admit()
        self._progress = Progress(station.limits, asyncio.get_running_loop().time())

    def _too_slow(self) -> None:
        self._drop("too slow", "the limit is minimum_bytes_a_second")
        self._cut("too slow")

    def _drop(self, kind: str, detail: str = "") -> None:
        if self._reader is not None:
            self._reader.let_go()
        self._release()
        self._station.drop(self._peer, kind, detail)

    def _release(self) -> None:
        """Whatever the frame held is free again."""
        self._reader = self._progress = None
        self._watch.clear()
        if self._taken:
            self._account.receiving -= self._taken
            self._station.budget.give(self._in_memory)
            self._taken = self._in_memory = 0
