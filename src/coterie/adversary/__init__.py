"""What a malicious peer does: attacks of the registry ``attacks``, and who the malicious peers are."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import numpy as np
import torch

from coterie.adversary import labels, samples, vectors
from coterie.adversary.attacker import Attacker, CraftingLearner
from coterie.errors import CoterieError, PluginError
from coterie.protocols import Peer, PeerId
from coterie.registry import Component
from coterie.seeds import generator
from coterie.spec import Choice, Spec

__all__ = [
    "Attacker",
    "CraftingLearner",
    "attackers",
    "craft",
    "falsifies",
    "labels",
    "malicious_learner",
    "samples",
    "targets",
    "vectors",
]


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


Falsified = Literal["labels", "samples", "own"]
_BY_PARAMETER: Mapping[str, Falsified] = {"labels": "labels", "samples": "samples", "own": "own"}


def falsifies(attack: Component) -> Falsified:
    """What an attack changes, which is its first parameter's name: labels, samples, or the attacker's own vector.

    The same for built-in attacks and a user's. Raises PluginError for any other name.
    """
    first = next(iter(inspect.signature(attack.function).parameters), "")
    if first in _BY_PARAMETER:
        return _BY_PARAMETER[first]
    raise PluginError(
        f"the first parameter of the attack {attack.name!r} is {first!r}",
        where="attack.kind",
        remedy="Write attack(labels, classes, rng), attack(samples, labels, rng) or "
        "attack(own, base, others, attackers, rng).",
    )


def malicious_learner(
    spec: Spec, peer: Peer, learner: CraftingLearner, colluders: Collection[PeerId]
) -> CraftingLearner | Attacker:
    """What a malicious peer trains with: ``learner`` itself, unless the attack is on what it publishes."""
    attack, publishes = spec.choices.get("attack"), spec.protocol.component.traits.get("publishes", True)
    if attack is None or not publishes or falsifies(attack.component) != "own":
        return learner
    traits = attack.component.traits
    return Attacker(peer, learner, colluders, sees_others=traits.get("sees_others", not traits))


def targets(spec: Spec) -> dict[int, int] | None:
    """Which class the attack wants to see in place of which; None for one that does not aim at classes."""
    choice = spec.choices.get("attack")
    aims = choice.component.traits.get("aims") if choice else None
    return dict(aims(**choice.settings)) if choice and aims else None


def craft(
    attack: Choice,
    own: torch.Tensor,
    base: torch.Tensor,
    others: Sequence[torch.Tensor],
    attackers: int,
    rng: np.random.Generator,
) -> torch.Tensor:
    """The vector that a model attack makes of (d,) float32 vectors; see ``coterie.adversary.vectors``.

    It may hold what is not finite: an attacker sends what it likes. A user's attack gets copies. Raises PluginError
    where it fails or returns anything but such a vector.
    """
    if attack.component.file:
        own, base, others = own.clone(), base.clone(), [other.clone() for other in others]
    try:
        crafted = attack(own, base, others, attackers, rng)
    except CoterieError:
        raise
    except Exception as error:
        raise PluginError(
            f"the attack {attack.component.name!r} raised {type(error).__name__}: {error}", remedy="Mend the attack."
        ) from error
    if not isinstance(crafted, torch.Tensor) or crafted.shape != own.shape or crafted.dtype != torch.float32:
        shown = f"{tuple(crafted.shape)} {crafted.dtype}" if isinstance(crafted, torch.Tensor) else type(crafted)
        raise PluginError(
            f"the attack {attack.component.name!r} returned {shown}, not {tuple(own.shape)} torch.float32",
            remedy="Return one vector of the shape of the own one.",
        )
    return crafted
