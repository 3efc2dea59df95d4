"""The models that go into one merge: read by pieces, from wherever they lie.

Each is a flat float32 vector of the same ``size``. A merge never asks for a whole one, so that models in files take no
more memory than the pieces being worked on. Files are read, not mapped: pages of a mapped file count as resident.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from coterie.errors import LayoutMismatch

Piece = NDArray[np.float32]


class Models(Protocol):
    """n models of ``size`` float32 elements, by the names of those who checked them in."""

    @property
    def names(self) -> tuple[str, ...]:
        """n different names, in the order of the rows."""
        ...

    @property
    def size(self) -> int:
        """Elements of each model."""
        ...

    def read(self, row: int, start: int, out: Piece) -> None:
        """Fill ``out`` (k,) with the elements from ``start`` on of model ``row``. Threads call it at the same time."""
        ...


class Vectors:
    """Models that are in memory already, such as snapshots: nothing is copied but the piece being worked on."""

    def __init__(self, vectors: Mapping[str, torch.Tensor]) -> None:
        """``vectors``: by name, each (size,), float32. Raises LayoutMismatch for one of another shape or dtype."""
        self.names = tuple(vectors)
        self.size = len(next(iter(vectors.values()))) if vectors else 0
        for name, vector in vectors.items():
            if tuple(vector.shape) != (self.size,) or vector.dtype != torch.float32:
                raise LayoutMismatch(
                    f"a model has shape {tuple(vector.shape)} and {vector.dtype}, not {(self.size,)} and torch.float32",
                    where=name,
                    remedy="All peers must use the same model; vectors travel as float32.",
                )
        self._arrays = [vector.detach().numpy() for vector in vectors.values()]

    def read(self, row: int, start: int, out: Piece) -> None:
        """Copy a piece."""
        out[:] = self._arrays[row][start : start + len(out)]


class Readers:
    """Models that are read in ways of their own: by name, a function of ``start`` and ``out``."""

    def __init__(self, size: int, readers: Mapping[str, Callable[[int, Piece], None]]) -> None:
        self.names, self.size, self._readers = tuple(readers), size, list(readers.values())

    def read(self, row: int, start: int, out: Piece) -> None:
        """Read a piece."""
        self._readers[row](start, out)
