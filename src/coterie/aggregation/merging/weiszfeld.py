"""The weighted geometric median of n rows, from their Gram matrix alone: O(n^2) a step, whatever their length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from coterie.aggregation.rows import Floats

_AT = 1e-7
"""Below this share of the lengths a distance was reckoned from, it is all rounding: z then is at that row."""
_PATIENCE = 100
_SHORT = 1e-6
"""A step this short, as a share of the rows' lengths, may be one of a search that no longer gets anywhere."""
_LIMIT = 10_000
_FAR = 100.0
"""Where the mean length of the rows is more than so many times their median one, the mean is no place to begin at."""


@dataclass(frozen=True)
class Search:
    """How the search ended."""

    weights: Floats
    """z = sum_j weights_j M_j, shape (n,), none negative, sum 1."""
    gradient: float
    """Length of the least subgradient at z of sum_j s_j |M_j - z|, s the shares: between 0 and 1."""
    steps: int
    ended: Literal["tolerance", "at a row", "stall", "limit"]


def weiszfeld(products: Floats, shares: Floats, tolerance: float = 1e-6) -> Search:
    """The z with the least f(z) = sum_j s_j |M_j - z|, by Weiszfeld's algorithm.

        z <- sum_j w_j M_j,   w_j ~ s_j / |M_j - z|,   sum w = 1

    Where z is at a row, or at several equal ones, of shares h together, w is that of the other rows, mixed with the old
    one in the proportion (1 - h / |R|) : h / |R|, R = sum s_j (M_j - z) / |M_j - z| over the others (Vardi and Zhang).

    The search begins at the weighted mean; where that is the plaything of rows far from c, with w_j ~ s_j / (l_j + r),
    l_j = |M_j - c|, r their weighted median: from a place far off all near rows are one, and it would stay there.

    The search ends when the least subgradient, max(|R| - h, 0), is at most ``tolerance``: then f(z) exceeds the least
    value by at most ``tolerance`` times the distance to it. A row that is the median is found at once, by |R| < h: the
    search would creep towards it. It also ends when it stalls or oscillates - no lower subgradient for 100 steps, and
    these short -, or after 10,000 steps, with the best z it has seen. For rows on one line the median may not be
    unique: the mean of two rows of equal shares is theirs.

    ``products``: <M_j - c, M_k - c> about any c that is not far from most rows, (n, n); ``shares``: s (n,), above 0,
    sum 1; both float64, finite. Sources: Weiszfeld, "Sur le point pour lequel la somme des distances de n points donnés
    est minimum", 1937; Vardi and Zhang, "The multivariate L1-median and associated data depth", PNAS 2000.
    """
    lengths = np.sqrt(np.diag(products))
    weights = _start(lengths, shares)
    best, steps, low = Search(weights, np.inf, 0, "limit"), 0, 0
    for steps in range(_LIMIT):
        towards = products @ weights
        reach = float(weights @ lengths)
        away = np.sqrt(np.maximum(np.diag(products) - 2.0 * towards + weights @ towards, 0.0))
        at = away <= _AT * (lengths + reach)
        pulls = np.where(at, 0.0, shares) / np.where(at, 1.0, away)
        here, total = float(shares[at].sum()), float(pulls.sum())
        if total == 0.0:
            return Search(weights, 0.0, steps, "tolerance")
        move = pulls / total - weights
        step = float(np.sqrt(max(move @ products @ move, 0.0)))
        gradient = max(total * step - here, 0.0)
        if gradient < best.gradient:
            best, low = Search(weights, gradient, steps, "limit"), steps
        if gradient <= tolerance:
            return Search(weights, gradient, steps, "tolerance")
        if steps == 0 and (row := _row(products, shares, tolerance)) is not None:
            return Search(row, 0.0, steps, "at a row")
        if steps - low >= _PATIENCE and step <= _SHORT * reach:
            return Search(best.weights, best.gradient, steps, "stall")
        weights = weights + (1.0 - min(here / (total * step), 1.0)) * move
    return best


def _start(lengths: Floats, shares: Floats) -> Floats:
    """The weights that the search begins with."""
    order = np.argsort(lengths, kind="stable")
    middle = lengths[order][min(int(np.searchsorted(np.cumsum(shares[order]), 0.5)), len(order) - 1)]
    if shares @ lengths <= _FAR * middle:
        return shares
    weights: Floats = shares / (lengths + middle) if middle > 0 else np.where(lengths == 0, shares, 0.0)
    weights /= weights.sum()
    return weights


def _row(products: Floats, shares: Floats, tolerance: float) -> Floats | None:
    """The weights of the row that is the only median, and of those equal to it; None where no row is."""
    squares = np.diag(products)[:, None] + np.diag(products) - 2.0 * products
    lengths = np.sqrt(np.diag(products))
    away = np.sqrt(np.maximum(squares, 0.0))
    at: NDArray[np.bool_] = away <= _AT * (lengths[:, None] + lengths)
    pulls = np.where(at, 0.0, shares) / np.where(at, 1.0, away)
    pulls[np.diag_indices_from(pulls)] -= pulls.sum(axis=1)
    gradients = np.sqrt(np.maximum((pulls @ products * pulls).sum(axis=1), 0.0))
    margins = at @ shares - gradients
    row = int(np.argmax(margins))
    if margins[row] <= tolerance:
        return None
    weights: Floats = np.where(at[row], shares, 0.0) / shares[at[row]].sum()
    return weights
