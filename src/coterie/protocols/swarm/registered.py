"""Temporary: protocol swarm by its name, until it is registered with the simulation."""

from coterie.protocols.peer import Peer
from coterie.registry import protocols


@protocols.register("swarm")
async def swarm(peer: Peer, rounds: int) -> None:
    """Swarm learning."""
    raise NotImplementedError
