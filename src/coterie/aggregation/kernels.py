"""Robust statistics of each coordinate by one sorting network over columns, in compiled loops.

A block of columns of all rows is copied into a buffer that fits a core's cache, and a network of compare-exchanges
sorts all columns of the block at once: each exchange is a minimum and a maximum of two rows, which the compiler turns
into vector instructions. Only comparisons and copies touch the values, so nothing is rounded before the final sum,
which is taken in float64. The values must be finite.

Threads share the columns; the bits of a result do not depend on how many there are. Numba is imported on first use: it
takes half a second.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

_COLUMNS = 64
"""Columns sorted at once: for 100 rows the buffer then takes 25 kB."""
_PART = 1 << 14
"""Columns in a part, which one thread does."""
_WORTH_A_THREAD = 1 << 20
"""Values below which a second thread costs more than it saves."""

Singles = NDArray[np.float32]
Pairs = NDArray[np.int64]


@functools.cache
def network(count: int, trim: int) -> Pairs:
    """Compare-exchanges (p, 2) after which the wires trim .. count - trim - 1 hold those order statistics, as a set.

    Each pair (a, b), a < b, puts the smaller value on wire a. With ``trim`` = -1 all wires end up sorted. It is
    Batcher's odd-even merge sort for the next power of two with the wires from ``count`` on left out, which would hold
    +inf; then, from the end, every exchange is dropped that moves values only among the kept wires, or only among the
    others.
    Source: Batcher, "Sorting networks and their applications", 1968; Knuth, TAOCP 3, section 5.3.4.
    """
    pairs = []
    size = 1 << max(count - 1, 0).bit_length()
    merged = 1
    while merged < size:
        step = merged
        while step >= 1:
            for start in range(step % merged, count - step, 2 * step):
                lows = range(start, min(start + step, count - step))
                pairs += [(low, low + step) for low in lows if low // (2 * merged) == (low + step) // (2 * merged)]
            step //= 2
        merged *= 2
    if trim >= 0:
        pairs = _needed(pairs, ["kept" if trim <= wire < count - trim else "lost" for wire in range(count)])
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _needed(pairs: list[tuple[int, int]], wires: list[str]) -> list[tuple[int, int]]:
    """The exchanges that matter when wires of the same label, except "exact", are as good as one another."""
    found = []
    for low, high in reversed(pairs):
        if wires[low] != wires[high] or wires[low] == "exact":
            found.append((low, high))
            wires[low] = wires[high] = "exact"
    return found[::-1]


def trimmed_mean(own: torch.Tensor, received: torch.Tensor, trim: int) -> torch.Tensor:
    """In each coordinate the mean of what is left of the n + 1 values without the ``trim`` least and greatest ones.

    ``own`` (d,), ``received`` (n, d), float32, finite; 2 trim <= n. Returns (d,), float32, each coordinate rounded once
    from a sum in float64. With trim = floor(n / 2) this is the median, the mean of the middle two for an even count.
    Uses as many threads as torch does.
    """
    pairs = network(len(received) + 1, trim)
    return _over_columns(own, received, lambda *part: compiled(_trimmed)(*part, pairs, trim))


def near_median(own: torch.Tensor, received: torch.Tensor, chosen: Sequence[int], keep: int) -> torch.Tensor:
    """In each coordinate the mean of the ``keep`` values nearest to the median, both of the ``chosen`` rows alone.

    Of two equally near values the smaller goes first. ``chosen`` counts the own row as 0; 1 <= keep <= len(chosen).
    Shapes, types and rounding as in ``trimmed_mean``.
    """
    pairs, rows = network(len(chosen), -1), np.array(chosen, dtype=np.int64)
    return _over_columns(own, received, lambda *part: compiled(_near_median)(*part, pairs, rows, keep))


def _over_columns(own: torch.Tensor, received: torch.Tensor, work: Callable[..., None]) -> torch.Tensor:
    """What ``work(own, received, out, start, stop)`` writes to ``out`` (d,), by parts that threads share."""
    out = torch.empty(len(own))
    arrays = own.contiguous().numpy(), received.contiguous().numpy(), out.numpy()
    parts = [(start, min(start + _PART, len(own))) for start in range(0, len(own), _PART)]
    if torch.get_num_threads() == 1 or (len(received) + 1) * len(own) < _WORTH_A_THREAD:
        for start, stop in parts:
            work(*arrays, start, stop)
        return out
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for done in [pool.submit(work, *arrays, start, stop) for start, stop in parts]:
            done.result()
    return out


@functools.cache
def compiled(function: Callable[..., None], *liberties: str) -> Callable[..., None]:
    """A loop, compiled by Numba; kept on disk where there is a place for it.

    ``liberties`` with its sums are LLVM's fast-math flags, such as ``reassoc``; by default none.
    """
    import numba

    found: Callable[..., None]
    try:
        found = numba.njit(nogil=True, cache=True, fastmath=set(liberties))(function)
    except RuntimeError:  # no folder to keep it in can be written
        found = numba.njit(nogil=True, fastmath=set(liberties))(function)
    return found


def _trimmed(own: Singles, received: Singles, out: Singles, start: int, stop: int, pairs: Pairs, trim: int) -> None:
    count = len(received) + 1
    columns = np.empty((count, _COLUMNS), np.float32)
    total = np.empty(_COLUMNS, np.float64)
    for at in range(start, stop, _COLUMNS):
        width = min(_COLUMNS, stop - at)
        columns[0, :width] = own[at : at + width]
        for i in range(1, count):
            columns[i, :width] = received[i - 1, at : at + width]
        for p in range(len(pairs)):
            low, high = columns[pairs[p, 0]], columns[pairs[p, 1]]
            for j in range(_COLUMNS):
                x, y = low[j], high[j]
                low[j] = x if x < y else y
                high[j] = y if x < y else x
        total[:] = 0.0
        for i in range(trim, count - trim):
            row = columns[i]
            for j in range(_COLUMNS):
                total[j] += row[j]
        for j in range(width):
            out[at + j] = total[j] / (count - 2 * trim)


def _near_median(
    own: Singles,
    received: Singles,
    out: Singles,
    start: int,
    stop: int,
    pairs: Pairs,
    chosen: NDArray[np.int64],
    keep: int,
) -> None:
    count = len(chosen)
    columns = np.empty((count, _COLUMNS), np.float32)
    for at in range(start, stop, _COLUMNS):
        width = min(_COLUMNS, stop - at)
        for i in range(count):
            row = own if chosen[i] == 0 else received[chosen[i] - 1]
            columns[i, :width] = row[at : at + width]
        for p in range(len(pairs)):
            low, high = columns[pairs[p, 0]], columns[pairs[p, 1]]
            for j in range(_COLUMNS):
                x, y = low[j], high[j]
                low[j] = x if x < y else y
                high[j] = y if x < y else x
        for j in range(width):
            median = (np.float64(columns[(count - 1) // 2, j]) + columns[count // 2, j]) / 2
            first = 0
            while first + keep < count and columns[first + keep, j] - median < median - columns[first, j]:
                first += 1
            total = 0.0
            for i in range(first, first + keep):
                total += columns[i, j]
            out[at + j] = total / keep
