"""Models by their hash: what this peer lets others have, and what it gets from them.

A model is published on a channel named by its hash, and believed only where it has that hash: it does not matter whom
it comes from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from coterie.errors import MessageError
from coterie.layout import Snapshot
from coterie.protocols.peer import Peer, PeerId
from coterie.protocols.swarm.site import SwarmSite

_DIGITS = 31
_PREFIX = "w"
_BYTES = 4
_SLOWEST = 1e6
"""Bytes a second: who is slower than that is taken for gone."""
_ANSWER = 3.0
"""Seconds that an answer may take beside its bytes."""


class Models:
    """The models of one peer in one training."""

    def __init__(self, peer: Peer, site: SwarmSite) -> None:
        self._peer, self._site = peer, site
        self._pulls = asyncio.Semaphore(max(1, site.room // self._nbytes))
        """Of what is to be merged: so many at a time, as what comes in is in memory."""
        self._got: dict[bytes, Snapshot] = {}

    def publish(self, digest: bytes, snapshot: Snapshot, epoch: int) -> None:
        """Let others pull it from now on."""
        if channel_of(digest) not in self._peer.memory.published:
            self._peer.publish(snapshot, epoch, channel=channel_of(digest))

    def keep(self, digests: Iterable[bytes]) -> None:
        """Let go of all others."""
        self._got = {}
        channels = [channel_of(digest) for digest in digests]
        published = self._peer.memory.published
        for channel in [name for name in published if name.startswith(_PREFIX) and name not in channels]:
            if len(channel) == _DIGITS + 1:
                del published[channel]

    @property
    def _nbytes(self) -> int:
        """Of one model."""
        return _BYTES * max(self._site.layout.size, 1)

    async def get(self, digest: bytes, whom: Sequence[PeerId]) -> Snapshot | None:
        """The model with this hash, from the first of ``whom`` that gives it; None where nobody does."""
        if (found := self._here(digest)) is None and (found := await self._fetch(digest, whom)) is not None:
            self._got[digest] = found
        return found

    async def part(self, digest: bytes, whom: Sequence[PeerId], parts: int) -> Snapshot | None:
        """As ``get``, a model that is merged with others, ``parts`` in all: kept by the site where these are much."""
        async with self._pulls:
            if (found := self._here(digest)) is None and (found := await self._fetch(digest, whom)) is not None:
                if parts * self._nbytes > self._site.room:
                    found = await self._site.keep(found)
                self._got[digest] = found
        return found

    def _here(self, digest: bytes) -> Snapshot | None:
        model = self._peer.memory.published.get(channel_of(digest))
        return self._got.get(digest) if model is None else model.vector

    async def _fetch(self, digest: bytes, whom: Sequence[PeerId]) -> Snapshot | None:
        seconds = _ANSWER + self._nbytes / _SLOWEST
        for peer in whom:
            model = (await self._peer.pull([peer], 0, channel_of(digest), seconds)).get(peer)
            if model is None:
                continue
            if (model.vector.layout_hash, model.vector.size) != (self._site.layout.hash, self._site.layout.size):
                self._peer.metrics.dropped(peer, MessageError("a model of another layout", where=peer))
            elif await self._site.digest(model.vector) != digest:
                self._peer.metrics.dropped(peer, MessageError("a model with another hash than it has", where=peer))
            else:
                return model.vector
        return None


def channel_of(digest: bytes) -> str:
    """The channel on which a model is published."""
    return _PREFIX + digest.hex()[:_DIGITS]
