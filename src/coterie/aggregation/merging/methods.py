"""Merges of models that may be larger than memory: mean, coordinate-wise median, geometric median.

``merge`` is their door. A model of weight 0 is not even read. One that holds a value that is not finite is left out and
named; the others are then merged again, as if it had not been checked in.

Memory: the merged vector, and about 2 MB a thread, beside what the models themselves take.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from coterie.aggregation.merging import loops, passes
from coterie.aggregation.merging.models import Models, Piece, Vectors
from coterie.aggregation.merging.passes import Rows
from coterie.aggregation.merging.weiszfeld import weiszfeld
from coterie.aggregation.rows import Floats
from coterie.errors import LayoutMismatch, RunError, SpecError, TrainingDiverged, near_miss

Outcome = tuple[Floats, NDArray[np.bool_]]
"""What each of the n rows weighed in the merged vector (n,), and which of them are finite (n,).

Where one is not, the rest is worth nothing.
"""
Method = Callable[[Models, Rows, Floats, Piece], Outcome]
"""``method(models, rows, shares, out)``: ``rows`` are the n models to merge, ``shares`` (n,) float64, above 0, sum 1;
the merged vector is written to ``out`` (size,)."""


@dataclass(frozen=True)
class Merged:
    """What came out of a merge."""

    vector: torch.Tensor
    """Shape (size,), float32, finite."""
    weights: dict[str, float]
    """What each model weighed, by name; 0 for one that was refused or had no weight. They sum to 1."""
    refused: tuple[str, ...]
    """Whose model held a value that is not finite."""


def mean(models: Models, rows: Rows, shares: Floats, out: Piece) -> Outcome:
    """The weighted mean, sum_j s_j M_j; summed in float64 in the order of the rows, and rounded once.

    One pass. Source: McMahan et al., "Communication-efficient learning of deep networks from decentralized data", 2017.
    """
    return shares, passes.by_column(models, rows, lambda piece, part: loops.weighted_sum(piece, shares, part), out)


def coordmedian(models: Models, rows: Rows, shares: Floats, out: Piece) -> Outcome:
    """In each coordinate the weighted 0.5 quantile: the middle of the lower and the upper weighted median.

        lower = the least value v with  sum of s_j over x_j <= v  >= 1/2
        upper = the least value v with  sum of s_j over x_j <= v  >  1/2

    They differ only where the shares of some rows come to one half exactly: for equal shares this is the ordinary
    median, the mean of the middle two for an even count. Shares count as multiples of 2^-29, the least for one that is
    smaller, and one half is met to within n / 2 of them. The recorded weights are the shares: no row weighs as a whole.

    One pass.
    """
    return shares, passes.by_column(models, rows, lambda piece, part: loops.weighted_median(piece, shares, part), out)


def geomedian(models: Models, rows: Rows, shares: Floats, out: Piece) -> Outcome:
    """The vector z with the least sum_j s_j |M_j - z|: the weighted geometric median of whole models.

    z = sum_j w_j M_j with the w of ``weiszfeld``, which are the recorded weights. Two passes: the Gram matrix about the
    weighted coordinate-wise median, in float64, and the sum. Holds against rows of less than half of the shares.
    """
    gram, finite = passes.products(models, rows, shares)
    if not finite.all():
        return shares, finite
    return mean(models, rows, weiszfeld(gram, shares).weights, out)


METHODS: Mapping[str, Method] = {"mean": mean, "coordmedian": coordmedian, "geomedian": geomedian}
"""By the names that users give them."""


def merge(models: Models, weights: Sequence[float], method: str = "mean", into: torch.Tensor | None = None) -> Merged:
    """Merge ``models``, each with its weight of any scale, by the ``method`` of that name.

    ``into`` (size,), float32, contiguous: the memory for the merged vector, where it is not to be new.

    Raises SpecError for an unknown method, LayoutMismatch where weights and models differ in number, RunError for a
    weight that is negative or not finite, or where none is above 0, and TrainingDiverged where no model is finite.
    """
    if method not in METHODS:
        raise SpecError(f"unknown merge {method!r}", where="mergeMethod", remedy=near_miss(method, METHODS))
    given = checked_weights(models.names, weights)
    rows = np.flatnonzero(given)
    vector = torch.empty(models.size) if into is None else into
    while len(rows):
        shares = given[rows] / given[rows].max()
        found, finite = METHODS[method](models, rows, shares / shares.sum(), vector.numpy())
        if finite.all():
            final = np.zeros(len(given))
            final[rows] = found
            left = set(rows.tolist())
            return Merged(
                vector,
                dict(zip(models.names, final.tolist(), strict=True)),
                tuple(name for j, name in enumerate(models.names) if given[j] > 0 and j not in left),
            )
        rows = rows[finite]
    raise none_left()


def prepare(method: str) -> None:
    """Have the loops of a method compiled, or loaded where they were: half a second that the first merge then saves.

    For another thread. Another name than a method's needs nothing.
    """
    if method in METHODS:
        merge(Vectors({"a": torch.zeros(1), "b": torch.ones(1)}), [1.0, 1.0], method)


def checked_weights(names: Sequence[str], weights: Sequence[float]) -> Floats:
    """The weights as an array, shape (n,). Raises what ``merge`` says."""
    if len(weights) != len(names) or len(set(names)) != len(names):
        raise LayoutMismatch(
            f"{len(names)} models of {len(set(names))} peers have {len(weights)} weights",
            where="merge",
            remedy="Give one model and one weight a peer.",
        )
    for name, weight in zip(names, weights, strict=True):
        if not (math.isfinite(weight) and weight >= 0):
            raise RunError(f"a weight of {weight}", where=name, remedy="A weight is a finite number, 0 or more.")
    if not any(weight > 0 for weight in weights):
        raise RunError(
            f"none of {len(names)} models has a weight above 0",
            where="merge",
            remedy="Let one peer at least check in a model that counts.",
        )
    return np.array(weights, dtype=np.float64)


def none_left() -> TrainingDiverged:
    """The error for a merge in which every model was refused."""
    return TrainingDiverged(
        "every model that was checked in has a value that is not finite",
        where="merge",
        remedy="Lower the learning rate or clip gradients, and begin at the last merged model.",
    )
