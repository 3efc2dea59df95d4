"""What a malicious peer does: attacks of the registry ``attacks``, and who the malicious peers are."""

from __future__ import annotations

from coterie.adversary import labels
from coterie.seeds import generator
from coterie.spec import Spec

__all__ = ["attackers", "labels"]


def attackers(spec: Spec) -> tuple[int, ...]:
    """The indices of the malicious peers, ascending; none without ``[attack]``.

    Their number is round(fraction x peers), at least 1 for a fraction above 0, and at least one peer stays honest. They
    are drawn from the seed alone, so every rule meets the same attackers.
    """
    if spec.attack is None or spec.attack.fraction == 0:
        return ()
    peers = spec.federation.peers
    count = min(max(1, round(spec.attack.fraction * peers)), peers - 1)
    drawn = generator(spec.seed, "attackers").choice(peers, size=count, replace=False)
    return tuple(sorted(drawn.tolist()))
