"""Rules that seek a centre to which far rows are no more than a bounded pull."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from coterie import registry
from coterie.aggregation.geometry import geometry
from coterie.aggregation.interface import Context, Judge, State
from coterie.aggregation.means import Result
from coterie.aggregation.rows import Floats, combine, distances, recorded

Radius = Annotated[float, Field(gt=0)]
_SMOOTHING = 1e-6
"""Distances are taken as at least this share of the median distance to the medoid, so that no weight is infinite."""


@registry.rules.register("geometric_median")
def geometric_median(
    own: torch.Tensor,
    received: torch.Tensor,
    context: Context,
    state: State,
    judge: Judge | None,
    *,
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-6,
    iterations: Annotated[int, Field(ge=1)] = 1000,
) -> Result:
    """The vector z with the least sum of distances to own and the n received rows, by Weiszfeld's algorithm.

        z = sum_j w_j M_j,   w_j ~ 1 / max(|M_j - z|, 1e-6 r),   sum w = 1

    repeated until the weights change by at most ``tolerance`` in sum, but not in the first step, or ``iterations``
    times; r is the median distance of the rows to their medoid. It starts at the mean of the nearest half of the rows
    to the medoid, so that rows at any finite distance lose no digits. z stays within the affine hull of the rows, so an
    iteration needs only their Gram matrix: O(n^2), whatever d. Holds against fewer than half of the rows. With one
    other row the mean.

    ``tolerance``: largest change of the weights at which the search ends. ``iterations``: most steps of the search.

    ``own`` (d,), ``received`` (n, d), float32; Gram matrix about the medoid, weights in float64. The state passes
    through. Source: Weiszfeld, "Sur le point pour lequel la somme des distances de n points donnés est minimum", 1937;
    Pillutla, Kakade and Harchaoui, "Robust aggregation for federated learning", 2022, algorithm 2 (the smoothing).
    """
    shape = geometry(own, received)
    count, products = len(received) + 1, shape.products
    norms = np.diag(products)
    order = np.argsort(shape.squares[shape.centre], kind="stable")
    weights = np.zeros(count)
    weights[order[: count // 2 + 1]] = 1.0 / (count // 2 + 1)
    least = _SMOOTHING * float(np.sqrt(np.median(shape.squares[shape.centre])))
    for step in range(iterations if least > 0 else 0):
        towards = products @ weights
        away = np.sqrt(np.maximum(norms - 2.0 * towards + weights @ towards, 0.0))
        new = 1.0 / np.maximum(away, least)
        new /= new.sum()
        change = np.abs(new - weights).sum()
        weights = new
        if change <= tolerance and step > 0:  # the first step lets the far half in: small weights, but whole pulls
            break
    return combine(own, received, weights), recorded(weights), state


@registry.rules.register("centred_clipping")
def centred_clipping(
    own: torch.Tensor,
    received: torch.Tensor,
    context: Context,
    state: State,
    judge: Judge | None,
    *,
    radius: Radius | None = None,
    iterations: Annotated[int, Field(ge=1)] = 1,
) -> Result:
    """Centred clipping: v <- v + mean_j (M_j - v) min(1, tau / |M_j - v|), starting at the vector before the steps.

    j runs over own and the n received rows; v starts at ``context.base``, the paper's previous aggregate.
    ``radius``: tau; where it is left out, the median of the distances |M_j - v| at each step, since the size of moves
    falls during training (Coterie's choice; the paper keeps tau fixed). ``iterations``: how often v is moved.

    ``own`` (d,), ``received`` (n, d), float32; distances by subtraction. Weights for the record: c_j / (n + 1) of the
    last step, c_j the clips; they sum to less than 1 where rows are clipped, the rest being v. The state passes
    through. Source: Karimireddy, He and Jaggi, "Learning from history for Byzantine robust optimization", ICML 2021,
    section 4.
    """
    centre, weights = context.base, np.zeros(len(received) + 1)
    for _ in range(iterations):
        norms = distances((own, *received), centre)
        weights = _clips(norms, float(np.median(norms)) if radius is None else radius) / len(norms)
        centre = combine(own, received, weights, centre)
    return centre, recorded(weights), state


@registry.rules.register("self_centred_clipping")
def self_centred_clipping(
    own: torch.Tensor,
    received: torch.Tensor,
    context: Context,
    state: State,
    judge: Judge | None,
    *,
    radius: Radius | None = None,
) -> Result:
    """Self-centred clipping: own + sum_j W_j (M_j - own) min(1, tau / |M_j - own|), W the graph's weights.

    j runs over the n received rows; W = ``context.graph_weights``, Metropolis-Hastings. ``radius``: tau; where it is
    left out, the median of the n distances (Coterie's choice: the paper's adaptive radius needs to know which peers are
    honest).

    ``own`` (d,), ``received`` (n, d), float32. Weights for the record: W_j c_j, own the rest to 1. The state passes
    through. Source: He, Karimireddy and Jaggi, "Byzantine-robust decentralized learning via ClippedGossip", 2022,
    section 4.
    """
    if not len(received):
        return own, torch.ones(1), state
    norms = distances(received, own)
    clips = _clips(norms, float(np.median(norms)) if radius is None else radius)
    shares = context.graph_weights[1:].double().numpy() * clips
    weights = np.append(1.0 - shares.sum(), shares)
    return combine(own, received, weights), recorded(weights), state


def _clips(norms: Floats, radius: float) -> Floats:
    """min(1, radius / norm), 1 for a norm of 0."""
    clips = np.ones_like(norms)
    np.divide(radius, norms, out=clips, where=norms > radius)
    return clips
