"""A real peer's life in its protocol: the same coroutine as in a simulation, on a real clock."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from coterie.adversary import malicious_learner
from coterie.identity import PeerId
from coterie.protocols import Neighbourhood, Peer, Topology
from coterie.runtime.node.metrics import NodeMetrics
from coterie.runtime.node.site import Site
from coterie.runtime.results import PeerMetrics
from coterie.runtime.work.protocol import live
from coterie.seeds import stdlib_random
from coterie.spec import Spec


@dataclass
class Life:
    """One peer from its first round to its last: ``enter``, then ``run``.

    ``ids``: all members, by their numbers in the spec. Of choices that replay, a peer makes the same as its number in a
    simulation does, if nothing fails: there and here they begin anew at each barrier of ``run.checkpoint_every``; here
    nobody waits at it.
    """

    spec: Spec
    site: Site
    ids: Sequence[PeerId]
    number: int
    topology: Topology
    attackers: frozenset[PeerId]
    on_record: Callable[[PeerMetrics], None]
    peer: Peer = field(init=False)
    metrics: NodeMetrics = field(init=False)

    def enter(self, peer: Peer, *, returned: bool) -> None:
        """Give ``peer``, which has its transport, ledger and secrets, all that the protocol needs.

        ``returned``: others are at work already, or it was at work before its process ended.
        """
        spec, index = self.spec, self.number
        own, learner = self.ids[index], self.site.learner
        begun = peer.clock.time()
        self.peer, self.metrics = (
            peer,
            NodeMetrics(
                spec,
                own,
                index,
                own in self.attackers,
                learner,
                lambda: peer.clock.time() - begun,
                lambda: peer.transport.bytes_sent,
                self.on_record,
                peer.metrics,
            ),
        )
        self.take_in(self.ids)
        peer.learner, peer.store, peer.metrics = learner, self.site.store, self.metrics
        peer.random, peer.returned, peer.meet = self._random(0), returned, self._meet
        if own in self.attackers:
            peer.learner = malicious_learner(spec, peer, learner, self.attackers)

    def take_in(self, ids: Sequence[PeerId]) -> None:
        """Other members have some of the numbers now: a successor goes on where its predecessor was."""
        self.ids = self.peer.members = ids
        self.peer.neighbours = Neighbourhood(ids, self.topology.adjacency[self.number])

    async def run(self) -> None:
        """To the end of the protocol. Raises what went wrong in it; PluginError for a user's own."""
        await self.site.learner.reset()
        await live(self.spec, self.peer)

    async def _meet(self, round: int) -> None:
        every = self.spec.run.checkpoint_every
        if every and round and round % every == 0:
            self.peer.random = self._random(round // every)

    def _random(self, segment: int) -> random.Random:
        return stdlib_random(self.spec.seed, "peer", self.number, segment + 1)
