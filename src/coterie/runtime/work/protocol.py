"""A peer's life in its protocol, wherever the peer lives."""

from __future__ import annotations

import inspect

from coterie.errors import PluginError
from coterie.protocols import Peer
from coterie.registry import guarded
from coterie.spec import Spec


async def live(spec: Spec, peer: Peer) -> None:
    """To the end of the protocol. Raises what goes wrong in it; PluginError for a user's own."""
    protocol = spec.protocol
    with guarded(protocol.component, f"federation.protocol at {peer.id[:12]}"):
        life = protocol(peer, spec.federation.rounds)
        if not inspect.isawaitable(life):
            raise PluginError(
                f"{protocol.component.name!r} is no coroutine",
                where="federation.protocol",
                remedy="Begin it with 'async def'.",
            )
        await life
