"""Models by their hash: what this peer lets others have, and what it gets from them.

A model is published on a channel named by its hash, and believed only where it has that hash: it does not matter whom
it comes from.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence

from coterie.errors import MessageError
from coterie.layout import Snapshot
from coterie.protocols.peer import Model, Peer, PeerId
from coterie.protocols.swarm.site import SwarmSite

_DIGITS = 31
_PREFIX = "w"
_BYTES = 4
_SLOWEST = 1e6
"""Bytes a second: who is slower than that is taken for gone."""
_ANSWER = 3.0
"""Seconds that an answer may take beside its bytes."""


class Models:
    """The models of one peer in one training. ``silence``: seconds without a byte after which none is on its way."""

    def __init__(self, peer: Peer, site: SwarmSite, silence: float, is_heard: Callable[[PeerId], bool]) -> None:
        self._peer, self._site, self._silence, self._is_heard = peer, site, silence, is_heard
        self._got: dict[bytes, Snapshot] = {}
        self._getting: dict[bytes, asyncio.Lock] = {}
        """One pulls a model; who wants the same one waits for that."""

    def publish(self, digest: bytes, snapshot: Snapshot, epoch: int) -> None:
        """Let others pull it from now on."""
        if channel_of(digest) not in self._peer.memory.published:
            self._peer.publish(snapshot, epoch, channel=channel_of(digest))

    def keep(self, digests: Iterable[bytes]) -> None:
        """Let go of all others."""
        self._got = {}
        self._getting = {digest: lock for digest, lock in self._getting.items() if lock.locked()}
        channels = [channel_of(digest) for digest in digests]
        published = self._peer.memory.published
        for channel in [name for name in published if name.startswith(_PREFIX) and name not in channels]:
            if len(channel) == _DIGITS + 1:
                del published[channel]

    @property
    def seconds(self) -> float:
        """What one model may take, where nothing else is on the line; and how long none of its bytes may come."""
        return _ANSWER + _BYTES * self._site.layout.size / _SLOWEST

    async def get(self, digest: bytes, whom: Sequence[PeerId], at_once: int = 1) -> Snapshot | None:
        """The model with this hash, from the first of ``whom`` that gives it; None where nobody does.

        ``at_once``: how many models share the line, and its time. Who is gone is not waited for.
        """
        async with self._getting.setdefault(digest, asyncio.Lock()):
            if (found := self._here(digest)) is None and (
                found := await self._fetch(digest, whom, at_once)
            ) is not None:
                self._got[digest] = found
            return found

    def _here(self, digest: bytes) -> Snapshot | None:
        model = self._peer.memory.published.get(channel_of(digest))
        return self._got.get(digest) if model is None else model.vector

    async def _fetch(self, digest: bytes, whom: Sequence[PeerId], at_once: int) -> Snapshot | None:
        for peer in whom:
            model = await self._pull(peer, digest, at_once * self.seconds)
            if model is None:
                continue
            if (model.vector.layout_hash, model.vector.size) != (self._site.layout.hash, self._site.layout.size):
                self._peer.metrics.dropped(peer, MessageError("a model of another layout", where=peer))
            elif await self._site.digest(model.vector) != digest:
                self._peer.metrics.dropped(peer, MessageError("a model with another hash than it has", where=peer))
            else:
                return model.vector
        return None

    def sends(self, peer: PeerId) -> bool:
        """Whether a model of that peer is on its way here."""
        return self._peer.transport.since_bytes(peer) < self._silence

    async def _pull(self, peer: PeerId, digest: bytes, most: float) -> Model | None:
        pull = asyncio.ensure_future(self._peer.pull([peer], 0, channel_of(digest), most))
        heard = came = self._peer.clock.time()
        try:
            while not pull.done():
                now, sends = self._peer.clock.time(), self.sends(peer)
                came = now if sends else came
                heard = now if sends or self._is_heard(peer) else heard
                if now >= heard + _ANSWER or now >= came + self.seconds:
                    return None
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._silence):
                        await asyncio.shield(pull)
            return pull.result().get(peer)
        finally:
            pull.cancel()


def channel_of(digest: bytes) -> str:
    """The channel on which a model is published."""
    return _PREFIX + digest.hex()[:_DIGITS]
