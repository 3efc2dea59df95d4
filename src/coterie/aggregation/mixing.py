"""Nearest-neighbour mixing: a step before another rule."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import AfterValidator

from coterie import registry
from coterie.aggregation.byzantine import Byzantine, attackers
from coterie.aggregation.geometry import geometry
from coterie.aggregation.interface import Context, Judge, State
from coterie.aggregation.means import Result
from coterie.errors import near_miss


def _other_rule(name: str) -> str:
    known = [component.name for component in registry.rules if component.name != "nnm"]
    if name not in known:
        raise ValueError(f"there is no rule of this name to follow nnm. {near_miss(name, known)}")
    return name


@registry.rules.register("nnm")
def nnm(
    own: torch.Tensor,
    received: torch.Tensor,
    context: Context,
    state: State,
    judge: Judge | None,
    *,
    byzantine: Byzantine = 0.3,
    then: Annotated[str, AfterValidator(_other_rule)] = "trimmed_mean",
) -> Result:
    """Nearest-neighbour mixing: each row becomes the mean of the N - f rows nearest to it; another rule follows.

    N = n + 1 rows, own included; f = min(ceil(byzantine N), floor(n / 2)). A row is nearest to itself; of equally near
    rows the earlier count. ``then``: the rule by name, with its defaults, but with the same ``byzantine`` where it has
    that setting; it sees the mixed rows in place of the received ones, the mixed own one as own.
    ``byzantine``: share of the rows that may be malicious.

    Makes a matrix of the size of ``received``. Weights for the record: those of the rule, through the mixing. The state
    is that of the rule. ``own`` (d,), ``received`` (n, d), float32. Source: Allouah, Farhadkhani, Guerraoui, Gupta,
    Pinot and Stephan, "Fixing by mixing: a recipe for optimal Byzantine ML under heterogeneity", AISTATS 2023,
    algorithm 2.
    """
    count = len(received) + 1
    keep = count - attackers(byzantine, count)
    squares = geometry(own, received).squares
    np.fill_diagonal(squares, -1.0)
    nearest = np.argsort(squares, axis=1, kind="stable")[:, :keep]
    mixing = np.zeros((count, count), dtype=np.float32)
    np.put_along_axis(mixing, nearest, 1.0 / keep, axis=1)
    shares = torch.from_numpy(mixing)
    mixed = (shares[:, :1] * own).addmm_(shares[:, 1:], received)
    rule = registry.rules.resolve(then, Path(), "aggregation.then")
    settings = {"byzantine": byzantine} if "byzantine" in rule.options().model_fields else {}
    vector, weights, state = rule.function(mixed[0], mixed[1:], context, state, judge, **settings)
    return vector, shares.t() @ weights.float(), state
