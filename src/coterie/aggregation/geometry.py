"""Distances and inner products between all rows, from one pass, with the digits that robust rules need.

A Gram matrix loses digits where two rows are much nearer to each other than to the centre they are measured from:
|a - b|^2 = |a|^2 + |b|^2 - 2 a.b cancels. So rows are centred first, at the own one; pairs that cancel nevertheless, or
overflow, are found and measured again, by subtraction or from a Gram matrix in float64 about a row among the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from coterie.aggregation.rows import Floats, distances, wide_products

_FLOAT32_ERROR, _FLOAT64_ERROR = 2e-6, 1e-13
"""Bounds, with a margin, on the error of a squared distance as a share of |a|^2 + |b|^2 about the centre."""
_TOLERATED = 1e-3
"""Relative error of a squared distance above which a pair is measured again."""
_FEW_PAIRS = 128
_FAR = 100.0
"""How far off the centre, in squared median distances, a medoid's products may be taken from it in float32."""
_BUFFER = 1 << 23
"""Values in the buffer of differences: 32 MB, whatever the size of the vectors."""


@dataclass(frozen=True)
class Geometry:
    """The shape of a set of rows M_j, j = 0 .. N - 1, up to where they lie."""

    squares: Floats
    """|M_j - M_k|^2, shape (N, N), symmetric, zero on the diagonal."""
    centre: int
    """The medoid: the row whose median distance to the rows is least, the first of equals."""
    products: Floats
    """<M_j - c, M_k - c> about the centre c, shape (N, N)."""


def geometry(own: torch.Tensor, received: torch.Tensor) -> Geometry:
    """The geometry of own and the n received rows, N = n + 1, own first.

    ``own`` (d,), ``received`` (n, d), float32, finite. Sums in float32 over about 2^23 / N columns, then in float64;
    squared distances have a relative error of at most about 1e-3, and mostly 1e-6. Rows of any finite size are allowed.
    """
    products = _products(own, received)
    squares, doubt = _squares(products, _FLOAT32_ERROR)
    if not np.isfinite(np.median(squares, axis=1)).any():  # own is so far from the others that float32 overflowed
        squares, _ = _squares(wide_products(own, received, own), _FLOAT64_ERROR)
    centre = _medoid(squares)
    offset, scale = products[centre, centre], np.median(squares[centre])
    if not np.isfinite(products).all() or offset > _FAR * scale or doubt.sum() > 2 * _FEW_PAIRS:
        products = wide_products(own, received, (own, *received)[centre])
        squares, doubt = _squares(products, _FLOAT64_ERROR)
    else:
        products = _about(products, centre)
    _measure(own, received, squares, doubt)
    settled = _medoid(squares)
    return Geometry(squares, settled, _about(products, settled))


def _products(own: torch.Tensor, received: torch.Tensor) -> Floats:
    """<M_j - own, M_k - own>, shape (n + 1, n + 1), own first (0); inf or nan where float32 overflows.

    The buffer is long, so that each product of it with itself is worth sharing between threads.
    """
    count, size = len(received), len(own)
    width = min(size, max(256, _BUFFER // max(count, 1)))
    buffer = torch.empty(count, width)
    total = torch.zeros(count + 1, count + 1, dtype=torch.float64)
    for start in range(0, size, width):
        origin = own[start : start + width]
        moves = torch.sub(received[:, start : start + width], origin, out=buffer[:, : len(origin)])
        total[1:, 1:] += moves @ moves.t()
    return np.asarray(total.numpy())


def _squares(products: Floats, error: float) -> tuple[Floats, NDArray[np.bool_]]:
    """Squared distances from a Gram matrix, inf where it overflowed, and the pairs of which too few digits are left."""
    norms = np.diag(products)
    with np.errstate(invalid="ignore", over="ignore"):
        total = norms[:, None] + norms
        squares = total - 2.0 * products
        doubt = ~(_TOLERATED * squares >= error * total)
    squares = np.maximum(np.nan_to_num(squares, nan=np.inf, posinf=np.inf, neginf=np.inf), 0.0)
    doubt |= ~np.isfinite(squares)
    np.fill_diagonal(squares, 0.0)
    np.fill_diagonal(doubt, False)
    return (squares + squares.T) / 2, doubt | doubt.T


def _measure(own: torch.Tensor, received: torch.Tensor, squares: Floats, doubt: NDArray[np.bool_]) -> None:
    """Put distances taken by subtraction where there is doubt."""
    rows = (own, *received)
    pairs = np.triu(doubt)
    for j in np.flatnonzero(pairs.any(axis=1)):
        others = np.flatnonzero(pairs[j])
        squares[j, others] = squares[others, j] = distances((rows[k] for k in others), rows[j]) ** 2


def _medoid(squares: Floats) -> int:
    return int(np.argmin(np.median(squares, axis=1)))


def _about(products: Floats, centre: int) -> Floats:
    """The Gram matrix about another of the rows."""
    row = products[centre]
    moved: Floats = products - row - row[:, None] + row[centre]
    return moved
