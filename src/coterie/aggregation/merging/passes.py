"""One pass over all models, piece by piece: threads share the pieces, and the bits do not depend on how many there are.

What a pass keeps in memory is a piece for each thread, about 2 MB, whatever the number and the size of the models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from coterie.aggregation.merging import loops
from coterie.aggregation.merging.models import Models, Piece
from coterie.aggregation.rows import Floats

_VALUES = 1 << 19
_LEAST_WIDTH, _MOST_WIDTH = 1 << 10, 1 << 16
"""Of a piece: all its values, and its columns. A piece fits a core's cache, and a read is worth its call."""

T = TypeVar("T")
Rows = NDArray[np.int64]


def over(models: Models, rows: Rows, work: Callable[[int, Piece], T]) -> Iterator[T]:
    """What ``work(start, piece)`` returns for the pieces (len(rows), k) of the models ``rows``, in order.

    As many threads as torch has. ``piece`` is used again once ``work`` has returned.
    """
    width = min(max(_VALUES // max(len(rows), 1), _LEAST_WIDTH), _MOST_WIDTH, max(models.size, 1))
    starts = range(0, models.size, width)
    threads = min(torch.get_num_threads(), len(starts))
    buffers: SimpleQueue[Piece] = SimpleQueue()
    for _ in range(max(threads, 1)):
        buffers.put(np.empty(len(rows) * width, np.float32))

    def step(start: int) -> T:
        buffer = buffers.get()
        try:
            columns = min(width, models.size - start)
            piece = buffer[: len(rows) * columns].reshape(len(rows), columns)
            for out, row in zip(piece, rows.tolist(), strict=True):
                models.read(row, start, out)
            return work(start, piece)
        finally:
            buffers.put(buffer)

    if threads <= 1:
        yield from map(step, starts)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(step, starts)


def by_column(models: Models, rows: Rows, work: Callable[[Piece, Piece], None], vector: Piece) -> NDArray[np.bool_]:
    """Which of the ``rows`` are finite; ``work(piece, out)`` writes the ``vector`` (size,) piece by piece."""
    finite = np.ones(len(rows), np.bool_)

    def step(start: int, piece: Piece) -> NDArray[np.bool_]:
        fine = np.ones(len(rows), np.bool_)
        loops.look(piece, fine)
        work(piece, vector[start : start + piece.shape[1]])
        return fine

    for fine in over(models, rows, step):
        finite &= fine
    return finite


def products(models: Models, rows: Rows, shares: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """<M_j - m, M_k - m> in float64, shape (n, n), m the weighted median of each coordinate; and which are finite.

    Rows near to each other keep their digits as long as those far off have less than half of the shares: then each
    coordinate of m lies between rows that are not far off.
    """
    total = np.zeros((len(rows), len(rows)))
    finite = np.ones(len(rows), np.bool_)

    def step(start: int, piece: Piece) -> tuple[Floats, NDArray[np.bool_]]:
        fine, part = np.ones(len(rows), np.bool_), np.zeros_like(total)
        loops.look(piece, fine)
        if fine.all():
            origin = np.empty(piece.shape[1], np.float32)
            loops.weighted_median(piece, shares, origin)
            loops.add_products(piece, origin, part)
        return part, fine

    for part, fine in over(models, rows, step):
        total += part
        finite &= fine
    return np.tril(total) + np.tril(total, -1).T, finite
