"""The compiled loops of merges. Each works on one piece (n, k) of n models, float32, that fits a core's cache."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coterie.aggregation.kernels import Pairs, compiled, network
from coterie.aggregation.merging.models import Piece
from coterie.aggregation.rows import Floats

COLUMNS = 64
"""Columns that are sorted, or multiplied, at once."""
WHOLE = 1 << 29
"""What all shares together are in a weighted median: whole numbers, so that their sums have no order."""
_INFINITY = 0x7F800000
"""The bits of float32's infinity; with the sign taken off, those of any finite value are less."""

Whole = NDArray[np.int32]


def look(piece: Piece, finite: NDArray[np.bool_]) -> None:
    """Set ``finite`` (n,) to False for each row that holds a value that is not finite."""
    compiled(_look)(piece.view(np.int32), finite)


def weighted_sum(piece: Piece, shares: Floats, out: Piece) -> None:
    """out = sum_j shares_j piece_j, summed in float64 and rounded once."""
    compiled(_weighted_sum)(piece, shares, out)


def weighted_median(piece: Piece, shares: Floats, out: Piece) -> None:
    """In each column the weighted 0.5 quantile, the middle of the lower and the upper one: see ``coordmedian``."""
    whole = np.maximum(np.rint(shares * WHOLE), 1).astype(np.int32)
    compiled(_weighted_median)(piece, whole, network(len(piece), -1), out)


def add_products(piece: Piece, origin: Piece, total: Floats) -> None:
    """total_jk += <piece_j - origin, piece_k - origin> for k <= j, in float64."""
    compiled(_add_products, "reassoc", "contract")(piece, origin, total)


def _look(bits: Whole, finite: NDArray[np.bool_]) -> None:
    for i in range(len(bits)):
        greatest = np.int32(0)
        row = bits[i]
        for j in range(len(row)):
            greatest = max(greatest, row[j] & np.int32(0x7FFFFFFF))
        if greatest >= _INFINITY:
            finite[i] = False


def _weighted_sum(piece: Piece, shares: Floats, out: Piece) -> None:
    total = np.empty(COLUMNS, np.float64)
    for at in range(0, len(out), COLUMNS):
        width = min(COLUMNS, len(out) - at)
        total[:] = 0.0
        for i in range(len(piece)):
            row, share = piece[i, at : at + width], shares[i]
            for j in range(width):
                total[j] += share * row[j]
        for j in range(width):
            out[at + j] = total[j]


def _weighted_median(piece: Piece, whole: Whole, pairs: Pairs, out: Piece) -> None:
    count = len(piece)
    values, carried = np.empty((count, COLUMNS), np.float32), np.empty((count, COLUMNS), np.int32)
    lower, upper = np.empty(COLUMNS, np.float32), np.empty(COLUMNS, np.float32)
    below = np.empty(COLUMNS, np.int32)
    total = np.int64(0)
    for i in range(count):
        total += whole[i]
    least, most = np.int32((total - count + 1) // 2), np.int32((total + count) // 2)
    values[:] = 0.0
    for at in range(0, len(out), COLUMNS):
        width = min(COLUMNS, len(out) - at)
        for i in range(count):
            values[i, :width] = piece[i, at : at + width]
            carried[i, :] = whole[i]
        for p in range(len(pairs)):
            low, high = values[pairs[p, 0]], values[pairs[p, 1]]
            left, right = carried[pairs[p, 0]], carried[pairs[p, 1]]
            for j in range(COLUMNS):
                x, y, u, v = low[j], high[j], left[j], right[j]
                turned = y < x
                low[j] = y if turned else x
                high[j] = x if turned else y
                left[j] = v if turned else u
                right[j] = u if turned else v
        below[:] = 0
        for i in range(count):
            row, share = values[i], carried[i]
            for j in range(COLUMNS):
                lower[j] = row[j] if below[j] < least else lower[j]
                upper[j] = row[j] if below[j] <= most else upper[j]
                below[j] += share[j]
        for j in range(width):
            out[at + j] = (np.float64(lower[j]) + upper[j]) / 2


def _add_products(piece: Piece, origin: Piece, total: Floats) -> None:
    count, size = piece.shape
    moves = np.empty((count, 4 * COLUMNS), np.float64)
    for at in range(0, size, 4 * COLUMNS):
        width = min(4 * COLUMNS, size - at)
        for i in range(count):
            for j in range(width):
                moves[i, j] = np.float64(piece[i, at + j]) - origin[at + j]
        for i in range(count):
            for k in range(i + 1):
                left, right = moves[i], moves[k]
                product = 0.0
                for j in range(width):
                    product += left[j] * right[j]
                total[i, k] += product
