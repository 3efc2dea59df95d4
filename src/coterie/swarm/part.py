"""What a node does that lives in a training script's process: it takes part in the trainings of the script's callbacks.

Unlike a node of its own, it has no data and no model but what the callbacks bring.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from coterie.errors import CoterieError, NodeError
from coterie.identity import PeerId
from coterie.network.grpc.transport import GrpcTransport
from coterie.protocols import Peer
from coterie.protocols.swarm.gathering import Gatherings
from coterie.runtime.node.chains import Chains
from coterie.runtime.node.home import Home
from coterie.runtime.node.messages import Standing, StandingAsk
from coterie.runtime.node.roster import Roster, now_ms
from coterie.runtime.node.spec_source import SpecSource
from coterie.runtime.node.waits import Waits
from coterie.spec import Spec
from coterie.swarm.training import Training

_log = logging.getLogger("coterie.swarm")


class ScriptPart:
    """Implements ``TakesPart``. ``spec_checked`` is done once scripts may begin; it raises why they may not."""

    def __init__(
        self,
        home: Home,
        roster: Roster,
        peer: Peer,
        chains: Chains,
        transport: GrpcTransport,
        at_door: Callable[[Sequence[PeerId]], Awaitable[list[PeerId]]],
    ) -> None:
        self._home, self._roster, self._peer, self._chains = home, roster, peer, chains
        self.waits = Waits(roster, at_door)
        self._source = SpecSource(home, roster, peer, self.waits)
        self.gatherings = Gatherings(peer, roster.store.genesis, lambda: roster.peers, self.waits.called)
        self.trainings: dict[str, Training] = {}
        """By contract."""
        self.names: set[str] = set()
        """Contracts of those, and of those about to begin."""
        self.spec_checked: asyncio.Future[Spec] = asyncio.get_running_loop().create_future()
        self._failed = ""
        self.chain = self.metrics = None
        """Each training has a chain of its own, and each script measures for itself."""
        self.jobs: dict[str, tuple[int, float]] = {}
        peer.handle(StandingAsk, lambda sender, question: self.standing())

    @property
    def spec(self) -> Spec | None:
        return self._source.spec

    @property
    def state(self) -> str:
        return "failed" if self._failed else "training" if self.trainings else "waiting"

    @property
    def why(self) -> str:
        return self._failed or self.waits.why

    def fail(self, why: str) -> None:
        self._failed = why

    def standing(self) -> Standing:
        return Standing(self.state, max((t.merges for t in self.trainings.values()), default=0) - 1, now_ms())

    async def run(self) -> None:
        """Get the spec, and what this peer's chain has lost; then the trainings have their own tasks, until cancelled.

        Cancelled, it says for all of them that this site leaves, while there is still a way to say it.
        """
        try:
            spec = await self._source.get()
            _check(spec, self._home)
            await self._until_member()
            await self._chains.recover(self._roster.others(self._peer.id))
        except CoterieError as error:
            self.spec_checked.set_exception(error)
            raise
        self.waits.why = ""
        if not self.spec_checked.cancelled():
            self.spec_checked.set_result(spec)
        try:
            await asyncio.Event().wait()
        finally:
            for training in self.trainings.values():
                training.leave()

    async def _until_member(self) -> None:
        while not self._roster.membership_has(self._peer.id):
            await self.waits.say("waits to be a member: others must sign its admission (coterie federation status)")
            await asyncio.sleep(1.0)

    def members_changed(self) -> None:
        for training in self.trainings.values():
            training.members_changed(self._roster.peers)

    def close(self) -> None:
        trainings, self.trainings = self.trainings, {}
        for training in trainings.values():
            training.close_now()


def _check(spec: Spec, home: Home) -> None:
    """Raise NodeError unless the federation is one for scripts."""
    if not spec.is_for_scripts:
        raise NodeError(
            f"this federation trains by itself, with protocol {spec.federation.protocol!r}: model and data are its "
            "spec's, not a script's",
            where=str(home.path),
            remedy="Start its node: coterie node. Scripts need another one: coterie federation init --swarm NAME.",
        )
