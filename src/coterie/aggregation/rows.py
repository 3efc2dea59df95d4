"""Passes over the rows that a rule combines: the weighted sum, distances, and which rows are nearly the same.

Rows are a peer's own vector and the n received ones, always in this order: small arrays have n + 1 entries, own first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

_PIECE = 1 << 16
"""Elements a pass works on at a time: the temporary stays in a core's cache, partial sums stay short."""
_SAMPLE_BLOCKS, _SAMPLE_LENGTH = 16, 128
_MANY_PAIRS = 128
_FLOAT32_ERROR, _FLOAT64_ERROR = 1e-5, 1e-12
"""Bounds, with a margin, on the relative error of sums of squares and products taken in float32 and float64."""

Floats = NDArray[np.float64]
Rows = torch.Tensor | Sequence[torch.Tensor]
"""The n received vectors: a matrix (n, d), or n vectors (d,) that lie anywhere."""


def combine(own: torch.Tensor, received: Rows, weights: Floats, base: torch.Tensor | None = None) -> torch.Tensor:
    """w_0 own + sum_j w_j received_j, plus (1 - sum w) base where a base is given; shape (d,), float32.

    With a base this is base + sum_j w_j (M_j - base), M_j being the rows, but it reads the memory once and makes no
    matrix of differences. Weights that are not negative and sum to at most 1 cannot overflow, whatever the finite rows.
    """
    rounded = recorded(weights)
    if isinstance(received, torch.Tensor):
        mixed = torch.addmv(own, received.t(), rounded[1:], beta=float(rounded[0]))
    else:
        mixed = own * rounded[0]
        for row, weight in zip(received, rounded[1:].tolist(), strict=True):
            mixed.add_(row, alpha=weight)
    return mixed if base is None else mixed.add_(base, alpha=1.0 - float(rounded.double().sum()))


def recorded(weights: Floats) -> torch.Tensor:
    """The weights (n + 1,) as a rule gives them back, for the record: float32."""
    return torch.from_numpy(weights.astype(np.float32))


def own_alone(count: int) -> torch.Tensor:
    """The weights of a rule that keeps the own row of ``count``: 1, then 0."""
    return recorded(np.eye(1, count)[0])


def products_with(direction: torch.Tensor, own: torch.Tensor, received: torch.Tensor) -> Floats:
    """<direction, M_j - own> for each row M_j, own first (0): shape (n + 1,), in float64.

    The difference is taken before the product, so that rows close to each other keep their digits.
    """
    size = len(own)
    width = max(256, _PIECE // (len(received) + 1))
    found = torch.zeros(len(received), dtype=torch.float64)
    for start in range(0, size, width):
        part = slice(start, start + width)
        found += (received[:, part].double() - own[part]) @ direction[part].double()
    return np.append(0.0, found.numpy())


def distances(rows: Iterable[torch.Tensor], origin: torch.Tensor) -> Floats:
    """The Euclidean norm |row - origin| of each row, by subtraction: exact to about 1e-6, also where float32 overflows.

    Subtracts in float32 and sums squares in float32 over short pieces, the pieces in float64.
    """
    buffer = torch.empty(min(_PIECE, len(origin)), dtype=torch.float32)
    pieces = [(origin[start : start + _PIECE], start) for start in range(0, len(origin), _PIECE)]
    squares = []
    for row in rows:
        square = 0.0
        for part, start in pieces:
            move = torch.sub(row[start : start + _PIECE], part, out=buffer[: len(part)])
            square += float(torch.dot(move, move))
        if not 1e-30 < square < np.inf and square != 0.0:  # float32 overflowed, or lost digits below its range
            wide = row.double() - origin
            square = float(torch.dot(wide, wide))
        squares.append(square)
    return np.sqrt(np.array(squares, dtype=np.float64))


def near_rows(
    own: torch.Tensor, received: torch.Tensor, base: torch.Tensor, norms: Floats, tolerance: float
) -> NDArray[np.bool_]:
    """Which rows are nearly the same: |M_j - M_k| <= tolerance x median, as a symmetric (n + 1, n + 1) matrix.

    The median is that of all pairwise distances, j < k, the ordinary one (mean of the two middle ones for an even
    count). A row is near itself. ``norms`` are the ``distances`` of the rows from ``base``.

    The answer is that of the formula, but few distances are computed. Each has a lower and an upper bound: the triangle
    through ``base``, and the distance within a sample of coordinates, which cannot exceed the whole. A pair is decided
    when its bounds lie on one side of the bounds of the limit. Pairs in doubt are measured by subtraction, which does
    not suffer from cancellation; only if doubt is left, or wide, a Gram matrix in float64 gives all distances.
    """
    rows = (own, *received)
    upper_triangle = np.triu_indices(len(rows), 1)
    low, high = _triangle_bounds(norms)
    np.maximum(low, _gram_bounds(_sample(own, received, base), _FLOAT32_ERROR)[0], out=low)
    for whole in (False, True):
        doubt = _in_doubt(low, high, tolerance, upper_triangle)
        if whole and doubt.any():
            centre = rows[int(np.argmax((doubt | doubt.T).sum(axis=0)))]
            low, high = _gram_bounds(wide_products(own, received, centre), _FLOAT64_ERROR)
            doubt = _in_doubt(low, high, tolerance, upper_triangle)
        if whole or doubt.sum() <= _MANY_PAIRS:
            for j in np.flatnonzero(doubt.any(axis=1)):
                others = np.flatnonzero(doubt[j])
                low[j, others] = high[j, others] = distances((rows[k] for k in others), rows[j])
    limit = tolerance * (_median(low[upper_triangle]) + _median(high[upper_triangle])) / 2
    near: NDArray[np.bool_] = np.triu((low + high) / 2 <= limit, 1)
    return near | near.T | np.eye(len(rows), dtype=np.bool_)


def _median(values: Floats) -> float:
    """The ordinary median; 0 of nothing. For small arrays numpy's own is mostly overhead."""
    if not values.size:
        return 0.0
    middle = (values.size - 1) // 2, values.size // 2
    ordered = np.partition(values, middle)
    return float(ordered[middle[0]] + ordered[middle[1]]) / 2


def _in_doubt(low: Floats, high: Floats, tolerance: float, pairs: tuple[NDArray[np.int64], ...]) -> NDArray[np.bool_]:
    """Pairs j < k that may lie on either side: the median lies between the medians of the bounds."""
    least, most = tolerance * _median(low[pairs]), tolerance * _median(high[pairs])
    doubt: NDArray[np.bool_] = np.triu((low <= most) & (high > least), 1)
    return doubt


def _triangle_bounds(norms: Floats) -> tuple[Floats, Floats]:
    total = norms[:, None] + norms
    low: Floats = np.maximum(np.abs(norms[:, None] - norms) - _FLOAT32_ERROR * total, 0.0)
    return low, total * (1.0 + _FLOAT32_ERROR)


def _gram_bounds(products: Floats, error: float) -> tuple[Floats, Floats]:
    """Bounds of distances from a Gram matrix: |a - b|^2 = a.a + b.b - 2 a.b, up to an error in a.a + b.b."""
    squares = np.diag(products)
    with np.errstate(invalid="ignore", over="ignore"):
        total = squares[:, None] + squares
        low = total * (1.0 - error) - 2.0 * products
        high = total * (1.0 + error) - 2.0 * products
    return np.sqrt(np.maximum(np.nan_to_num(low, nan=0.0, posinf=0.0), 0.0)), np.sqrt(np.maximum(high, 0.0))


def _sample(own: torch.Tensor, received: torch.Tensor, base: torch.Tensor) -> Floats:
    """Gram matrix of the rows minus base, over blocks of coordinates spread evenly; in float32."""
    blocks = _SAMPLE_BLOCKS if len(own) >= _SAMPLE_BLOCKS else 1
    stride = len(own) // blocks

    def pick(vectors: torch.Tensor) -> torch.Tensor:
        return vectors[..., : blocks * stride].view(*vectors.shape[:-1], blocks, stride)[..., :_SAMPLE_LENGTH]

    moves = torch.cat((pick(own)[None], pick(received))).sub_(pick(base)).flatten(1)
    return np.asarray((moves @ moves.t()).double().numpy())


def wide_products(own: torch.Tensor, received: torch.Tensor, origin: torch.Tensor) -> Floats:
    """Gram matrix of the rows minus ``origin``, in float64, piece by piece."""
    count, size = len(received) + 1, len(origin)
    width = max(256, 4 * _PIECE // count)
    products = torch.zeros((count, count), dtype=torch.float64)
    for start in range(0, size, width):
        part = slice(start, start + width)
        moves = torch.cat((own[None, part], received[:, part])).double().sub_(origin[part])
        products.addmm_(moves, moves.t())
    return np.asarray(products.numpy())
