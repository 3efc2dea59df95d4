"""The conversations: what a protocol sees (``Peer``), who may talk to whom, gossip, and the baselines."""

from coterie.protocols import baselines, gossip, swarm
from coterie.protocols.peer import Fitted, Mixed, Model, Peer, PeerId, PeerLearner, PeerMemory, Pull
from coterie.protocols.topology import Neighbourhood, Topology

__all__ = [
    "Fitted",
    "Mixed",
    "Model",
    "Neighbourhood",
    "Peer",
    "PeerId",
    "PeerLearner",
    "PeerMemory",
    "Pull",
    "Topology",
    "baselines",
    "gossip",
    "swarm",
]
