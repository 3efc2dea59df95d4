"""A malicious peer: it runs the protocol of all others, with a learner that shows them crafted vectors.

What it knows: everything honest peers publish, whether or not they are its neighbours, and who its colluders are. What
it does not know: other peers' data, and what they have not published. Honest peers answer its pulls, so their bytes
count them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import torch

from coterie.layout import Layout, Snapshot
from coterie.protocols import Fitted, Mixed, Model, Peer, PeerId
from coterie.protocols.swarm import Judged, MergingLearner, Part

_KEY = "attack"
_WAIT, _FITS = 1.0, 2.0
"""Seconds, and times its own fit took, that an attacker waits for others' models."""
_KEPT = 2
"""A peer may crash between a fit and the end of its round: then the vector before the last one comes back."""


class CraftingLearner(MergingLearner, Protocol):
    """A learner that can craft a vector by the spec's attack."""

    async def craft(self, others: Mapping[PeerId, Model], round: int, attackers: int) -> Snapshot:
        """What the attack makes of the present vector, of the one before the last fit, and of others' models.

        ``attackers``: how many collude. The learner's own vector stays as it is.
        """
        ...


class Attacker:
    """Implements ``PeerLearner``: trains honestly, publishes what the attack crafts.

    Its own model stays honest, so that it knows the honest direction: it mixes without its colluders' models, and takes
    up its own vector again where the protocol hands back a crafted one after a crash. Where the attack needs the models
    of others, it waits for those of this round by ``Peer.pull``, but not long, as nobody waits long for it; it goes on
    with those it has, and with none of them it publishes its own.
    """

    def __init__(
        self, peer: Peer, learner: CraftingLearner, colluders: Collection[PeerId], *, sees_others: bool
    ) -> None:
        self._peer, self._learner, self._colluders = peer, learner, frozenset(colluders)
        self._watched = [member for member in peer.members if sees_others and member not in self._colluders]
        self._sees_others = sees_others

    @property
    def samples(self) -> int:
        return self._learner.samples

    @property
    def layout(self) -> Layout:
        return self._learner.layout

    async def fit(self, round: int, steps: int | None = None) -> Fitted:
        began = self._peer.clock.time()
        fitted = await self._learner.fit(round, steps)
        patience = _WAIT + _FITS * (self._peer.clock.time() - began)
        others = await self._peer.pull(self._watched, round, timeout=patience)
        if self._sees_others and not others:
            return fitted
        crafted = await self._learner.craft(others, round, len(self._colluders))
        shown = self._peer.store.get(_KEY) or []
        self._peer.store.put(_KEY, [*shown, [crafted, fitted.snapshot]][-_KEPT:])
        return Fitted(crafted, fitted.loss)

    async def aggregate(
        self,
        received: Mapping[PeerId, Model],
        round: int,
        *,
        degree: int,
        state: Any = None,
        rule: str | None = None,
    ) -> Mixed:
        honest = {peer: model for peer, model in received.items() if peer not in self._colluders}
        return await self._learner.aggregate(honest, round, degree=degree, state=state, rule=rule)

    async def adopt(self, snapshot: Snapshot) -> None:
        for crafted, own in self._peer.store.get(_KEY) or []:
            if crafted is snapshot or torch.equal(crafted.tensor(), snapshot.tensor()):
                snapshot = own
                break
        await self._learner.adopt(snapshot)

    async def merge(self, parts: Sequence[Part], last: Snapshot | None, round: int, method: str) -> Snapshot:
        """An attack on models is that of the sites: where it leads a merge, it merges honestly."""
        return await self._learner.merge(parts, last, round, method)

    async def digest(self, snapshot: Snapshot) -> bytes:
        return await self._learner.digest(snapshot)

    async def judge(self) -> Judged | None:
        return await self._learner.judge()

    async def snapshot(self) -> Snapshot:
        return await self._learner.snapshot()
