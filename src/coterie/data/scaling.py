"""Comparable scales for the columns of a table, in a way that peers can agree on without showing their samples.

``pooled`` gives every column mean 0 and standard deviation 1 over the training samples of all peers together. Two
questions to every peer i, with x its samples, are enough:

    1. n_i and s_i = sum x            mean = sum_i s_i / sum_i n_i
    2. q_i = sum (x - mean)^2         deviation = sqrt(sum_i q_i / sum_i n_i)

(one question for n_i, s_i and the sum of squares gives the same figures, but loses digits where a column's mean is
large beside its deviation). What a peer shows by this: how many samples it has, and the mean and variance of each of
its columns; of a peer with one sample that is the sample. Nothing here hides the sums: a secure sum would leave only
the totals. A peer that lies about its sums bends everybody's scale; simulated attackers answer honestly.

Images do not need this: they are scaled by constants that are published with the data set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from coterie.data.dataset import Array, Dataset, Integers
from coterie.errors import DataError

Doubles = NDArray[np.float64]
_NOTHING = 1e-12
"""A deviation below this share of the mean is rounding: the column is constant."""


def scale(dataset: Dataset, held: Sequence[Integers], how: Literal["pooled", "none"]) -> Dataset:
    """``dataset`` with float32 features: a table's columns scaled as ``how`` says, anything else as it is.

    ``held``: the training samples of each peer, which the agreed scale is computed from; the test set and the public
    root sample get the same scale. A constant column becomes 0. Raises DataError for a column that is too large.
    """
    if not dataset.unscaled:
        return dataset
    mean, deviation = np.zeros(dataset.shape), np.ones(dataset.shape)
    if how == "pooled":
        mean, deviation = agree([dataset.x_train[indices] for indices in held])
        _require_finite(deviation[None], dataset.name)
        deviation[deviation <= _NOTHING * np.abs(mean)] = np.inf
    sides = []
    for x in (dataset.x_train, dataset.x_test):
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = ((x - mean) / deviation).astype(np.float32)
        _require_finite(scaled, dataset.name)
        sides.append(scaled)
    return dataclasses.replace(dataset, x_train=sides[0], x_test=sides[1], unscaled=False)


def agree(peers: Sequence[Array]) -> tuple[Doubles, Doubles]:
    """Mean and population standard deviation of all rows, both (d,) float64, from the sums of each peer alone.

    ``peers``: each peer's samples, (n_i, d); at least one sample in all. A sum that overflows comes out not finite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        count = sum(len(rows) for rows in peers)
        mean = np.sum([rows.sum(axis=0, dtype=np.float64) for rows in peers], axis=0) / count
        squares = np.sum([np.square(rows - mean).sum(axis=0) for rows in peers], axis=0)
        return mean, np.sqrt(squares / count)


def _require_finite(rows: Array, where: str) -> None:
    if not np.isfinite(rows).all():
        column = int(np.argwhere(~np.isfinite(rows))[0][1])
        raise DataError(
            f"column {column} (counted from 0) holds numbers that are too large",
            where=where,
            remedy="Give it in another unit.",
        )
