"""Consensus on the shared chain: Simplex, driven over a ``Peer``."""

from coterie.protocols.consensus.application import Application, Payload, View
from coterie.protocols.consensus.consensus import Consensus
from coterie.protocols.consensus.log import create
from coterie.protocols.consensus.place import ChainTerms, PeerChain
from coterie.protocols.consensus.simplex import AHEAD, Simplex

__all__ = ["AHEAD", "Application", "ChainTerms", "Consensus", "Payload", "PeerChain", "Simplex", "View", "create"]
