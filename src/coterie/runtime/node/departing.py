"""Leaving a federation where no node runs: one is started for it, that takes no part in the protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from coterie.identity import PeerId
from coterie.network.grpc.transport import GrpcTransport
from coterie.protocols import Peer
from coterie.runtime.node.chains import Chains
from coterie.runtime.node.daemon import Node
from coterie.runtime.node.home import Home
from coterie.runtime.node.leaving import leave
from coterie.runtime.node.messages import Standing, StandingAsk
from coterie.runtime.node.roster import Roster, now_ms


async def leave_without_node(path: Path) -> dict[str, Any]:
    """``leave`` where no node runs in this home. Also raises what keeps a node from starting."""
    node = DepartingNode(Home(path), _Departing)
    running = asyncio.create_task(node.run())
    ready = asyncio.create_task(node.ready.wait())
    try:
        await asyncio.wait([running, ready], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        return await leave(node)
    finally:
        ready.cancel()
        node.stop()
        await asyncio.wait([running])


class DepartingNode(Node):
    """A node that may run although its peer has left: the others may not know."""

    def _require_in(self) -> None:
        """Nothing is required."""


class _Departing:
    """Implements ``TakesPart`` for one that takes none any more."""

    spec = chain = metrics = None
    state, why = "waiting", "this peer is leaving"

    def __init__(
        self,
        home: Home,
        roster: Roster,
        peer: Peer,
        chains: Chains,
        transport: GrpcTransport,
        at_door: Callable[[Sequence[PeerId]], Any],
    ) -> None:
        self.jobs: dict[str, tuple[int, float]] = {}
        peer.handle(StandingAsk, lambda sender, question: self.standing())

    def fail(self, why: str) -> None:
        self.state, self.why = "failed", why

    def standing(self) -> Standing:
        return Standing(self.state, -1, now_ms())

    async def run(self) -> None:
        """There is nothing to do."""

    def members_changed(self) -> None:
        """It is one of those who go."""

    def close(self) -> None:
        """Nothing is held."""
