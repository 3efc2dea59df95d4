"""Roles that a peer draws for itself, such as its noisers: only it knows whom it got, until it proves it.

The peer's VRF gives 64 bytes for (beacon, role), and these are the beacon of a draw among the others. There is one
output for a key, a beacon and a role, so the peer cannot try until it likes the result.

Threat model: a peer may lie about its pick (the proof shows it), or never show it. It can choose its key, but only
before the beacon: a key must be on the ledger earlier than that. Those who are picked learn by whom when they are told.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from coterie.identity import PeerId, VrfKey, vrf_output
from coterie.protocols.committees.ring import draw
from coterie.protocols.committees.stakes import Stakes


@dataclass(frozen=True)
class Pick:
    """Whom a peer drew, in the order of their seats, and the proof: 80 bytes."""

    peers: tuple[PeerId, ...]
    proof: bytes


def pick(key: VrfKey, by: PeerId, beacon: bytes, role: str, stakes: Stakes, seats: int) -> Pick:
    """Draw ``seats`` different others by stake, for the peer ``by``, whose key this is.

    Raises SpecError where fewer others than that have any stake.
    """
    alpha = _alpha(beacon, role)
    return Pick(_drawn(vrf_output(key.public, alpha, proof := key.prove(alpha)) or b"", by, role, stakes, seats), proof)


def check_pick(
    public: bytes, proof: bytes, by: PeerId, beacon: bytes, role: str, stakes: Stakes, seats: int
) -> tuple[PeerId, ...] | None:
    """Whom ``by`` drew, if ``public`` is its key; None where the proof is no good. Raises SpecError as ``pick``."""
    output = vrf_output(public, _alpha(beacon, role), proof)
    return None if output is None else _drawn(output, by, role, stakes, seats)


def _alpha(beacon: bytes, role: str) -> bytes:
    name = role.encode()
    return b"coterie pick" + struct.pack(">H", len(name)) + name + beacon


def _drawn(output: bytes, by: PeerId, role: str, stakes: Stakes, seats: int) -> tuple[PeerId, ...]:
    others = {peer: stake for peer, stake in stakes.items() if peer != by}
    return draw(output, role, others, seats, most=1)
