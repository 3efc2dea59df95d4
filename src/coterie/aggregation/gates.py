"""Rules that measure each row against something the peer holds itself: its own vector, or a root sample."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from coterie import registry
from coterie.aggregation.interface import Context, Judge, State
from coterie.aggregation.means import Result
from coterie.aggregation.root import require_root, root_gradient
from coterie.aggregation.rows import combine, distances, own_alone, products_with, recorded

_LENGTHENED = 10.0
"""Moves that are made longer than so many times are taken by subtraction: a sum of vectors would lose their digits."""


@registry.rules.register("balance")
def balance(
    own: torch.Tensor,
    received: torch.Tensor,
    context: Context,
    state: State,
    judge: Judge | None,
    *,
    gamma: Annotated[float, Field(gt=0)] = 0.3,
    kappa: Annotated[float, Field(ge=0)] = 1.0,
    own_share: Annotated[float, Field(ge=0, le=1)] = 0.5,
) -> Result:
    """BALANCE: the mean of the vectors near the own one, in a gate that narrows with the rounds.

    Row j is accepted if |own - M_j| <= gamma exp(-kappa t / T) |own|, t = ``context.round`` from 0, T =
    ``context.rounds``. With the accepted rows S:  vector = own_share own + (1 - own_share) mean_{j in S} M_j,  or own
    if S is empty. ``gamma``: half-width of the gate at first, as a share of the own norm. ``kappa``: how fast it
    narrows; 0 keeps it. ``own_share``: weight of the own vector, the paper's alpha.

    ``own`` (d,), ``received`` (n, d), float32; distances by subtraction. The state passes through. Source: Fang et al.,
    "Byzantine-robust decentralized federated learning", CCS 2024, section 4.
    """
    length = float(torch.linalg.vector_norm(own, dtype=torch.float64))
    limit = gamma * math.exp(-kappa * context.round / context.rounds) * length
    accepted = distances(received, own) <= limit
    weights = np.append(own_share, np.zeros(len(received)))
    if accepted.any():
        weights[1:] = (1.0 - own_share) * accepted / accepted.sum()
    else:
        weights[0] = 1.0
    return combine(own, received, weights), recorded(weights), state


@registry.rules.register("fltrust")
def fltrust(
    own: torch.Tensor,
    received: torch.Tensor,
    context: Context,
    state: State,
    judge: Judge | None,
) -> Result:
    """FLTrust: moves scaled to one length and weighed by how they agree with the gradient on the root sample.

    x = ``context.base``, U_j = M_j - x the moves, own included, g the gradient of the root sample's loss at x:

        t_j = max(0, cos(U_j, -g)),   vector = x + sum_j t_j (|U_0| / |U_j|) U_j / sum_j t_j;  own where all t_j are 0

    The paper's server scales to the length of its own update on the root sample; one gradient has no such length, so
    here it is that of the peer's own move U_0. The own move is weighed like the others.

    ``own`` (d,), ``received`` (n, d), float32; products in float64. Weights for the record: t_j / sum t. State:
    {"trust": {peer id: t_j}}. Raises SpecError without a root sample, TrainingDiverged when its gradient is not finite.
    Source: Cao, Fang, Liu and Gong, "FLTrust: Byzantine-robust federated learning via trust bootstrapping", NDSS 2021,
    section 4.
    """
    gradient, length = root_gradient(require_root(judge, "fltrust"), context)
    norms = distances((own, *received), context.base)
    along = -products_with(gradient, context.base, received)
    along[0] = -float(torch.dot(own.double() - context.base, gradient.double()))
    trust = np.zeros_like(norms)
    np.divide(along, norms * length, out=trust, where=norms * length > 0)
    trust = np.clip(trust, 0.0, 1.0)
    known: dict[str, float] = (state or {}).get("trust", {})
    state = {"trust": {**known, **dict(zip(context.peer_ids, trust[1:].tolist(), strict=True))}}
    total = trust.sum()
    if not total > 0:
        return own, own_alone(len(trust)), state
    scale = np.zeros_like(norms)
    np.divide(norms[0], norms, out=scale, where=norms > 0)
    weights, short = trust / total * scale, scale > _LENGTHENED
    vector = combine(own, received, np.where(short, 0.0, weights), context.base)
    for j in np.flatnonzero(short):
        vector.add_((received[j - 1].double() - context.base).mul_(weights[j]))
    return vector, recorded(trust / total), state
