"""Poisoned data: attacks that falsify a malicious peer's labels before it trains.

Such an attack has the trait ``poisons="data"`` and is ``attack(labels (n,) int64, classes, rng, **settings) ->
labels``; it returns a new array and draws from ``rng`` only. The trait ``aims`` is a function of the settings that says
which class is to be taken for which.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator

from coterie import registry
from coterie.errors import SpecError

Labels = NDArray[np.int64]
_ONE_SEVEN = {"1": 7}


def _text_keys(value: Any) -> Any:
    """TOML's keys are strings; a spec written in Python may have numbers."""
    return {str(key): item for key, item in value.items()} if isinstance(value, Mapping) else value


@registry.attacks.register("shuffled_labels", poisons="data")
def shuffled_labels(
    labels: Labels,
    classes: int,
    rng: np.random.Generator,
    *,
    form: Literal["random", "permutation"] = "random",
) -> Labels:
    """Labels that say nothing, or consistently something else, about the peer's samples.

    ``form = "random"``: the peer's own labels are shuffled among its samples, so their counts stay.
    ``form = "permutation"``: each class k becomes pi(k), with one permutation pi drawn uniformly from those without a
    fixed point; every label is wrong. Needs two classes, else SpecError. Source: the two forms of shuffled labels in
    DFL's malicious nodes ("DFL: high-performance blockchain-based federated learning", arXiv 2110.15457, 2021).
    """
    if form == "random":
        return rng.permutation(labels)
    if classes < 2:
        raise SpecError("a single class cannot be relabelled", where="attack.form", remedy='Use form = "random".')
    identity = np.arange(classes)
    relabelling = rng.permutation(classes)
    while np.any(relabelling == identity):  # e draws on average
        relabelling = rng.permutation(classes)
    return relabelling[labels]


def _flips(map: Mapping[str, int] | None) -> dict[int, int]:
    """From class to class as numbers; what stays as it is, and keys that are no class, left out."""
    pairs = (_ONE_SEVEN if map is None else map).items()
    return {int(key): target for key, target in pairs if key.isdecimal() and int(key) != target}


@registry.attacks.register("label_flip", poisons="data", aims=_flips)
def label_flip(
    labels: Labels,
    classes: int,
    rng: np.random.Generator,
    *,
    map: Annotated[dict[str, int] | None, BeforeValidator(_text_keys)] = None,
) -> Labels:
    """Samples of some classes get the label of another: label k becomes map[k], others stay.

    ``map`` goes from class to class, in TOML ``map = { 1 = 7 }``, which is also what it is when left out. Raises
    SpecError for a class that the data do not have. Source: the 1-7 attack of Fung, Yoon and Beschastnikh, "Mitigating
    sybils in federated learning poisoning", 2018.
    """
    relabelling = np.arange(classes)
    for key, target in (_ONE_SEVEN if map is None else map).items():
        source = int(key) if key.isdecimal() else -1
        if not (0 <= source < classes and 0 <= target < classes):
            raise SpecError(
                f"{key} = {target} does not go from a class to a class: there are 0 to {classes - 1}",
                where="attack.map",
                remedy="Set map, such as { 0 = 1 }.",
            )
        relabelling[source] = target
    return relabelling[labels]
