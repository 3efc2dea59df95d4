"""A simulated peer's key: the same whenever the seed is, through crashes too, and nobody else's."""

from __future__ import annotations

from typing import Any

from small_federation import simulate, small

from coterie.protocols import Peer
from coterie.runtime.simulation.federation import Federation


def keys(monkeypatch: Any, seed: int, **faults: Any) -> tuple[dict[str, set[str]], int]:
    """The keys that each peer has had, by its id, and how many lives were lived."""
    seen: dict[str, set[str]] = {}
    lives = []
    make = Federation._peer

    def remember(self: Federation, member: Any, returned: bool) -> Peer:
        peer = make(self, member, returned)
        seen.setdefault(peer.id, set()).add(peer.identity.id)
        lives.append(peer.id)
        return peer

    monkeypatch.setattr(Federation, "_peer", remember)
    simulate(small(federation__seed=seed, federation__rounds=4, **faults))
    monkeypatch.setattr(Federation, "_peer", make)
    return seen, len(lives)


def test_keys_replay_and_differ(monkeypatch: Any) -> None:
    one, _ = keys(monkeypatch, 1)
    again, lives = keys(monkeypatch, 1, faults__crashes_per_minute=60.0, faults__restart_seconds=0.2)
    other, _ = keys(monkeypatch, 2)
    assert lives > len(again) == 6
    assert one == again
    assert len(set.union(*one.values(), *other.values())) == 12
