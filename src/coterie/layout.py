"""The layout of a model's flat vector, and snapshots of it: what two peers must agree on before they average."""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from coterie.errors import LayoutMismatch


@dataclass(frozen=True)
class Slot:
    """One tensor of a module and the elements of the vector that hold it."""

    name: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    """In elements, as in the module: a channels-last weight stays channels-last."""
    dtype: str
    offset: int
    """First element within the vector."""

    @property
    def size(self) -> int:
        """Number of elements."""
        size = 1
        for length in self.shape:
            size *= length
        return size


@dataclass(frozen=True)
class Layout:
    """Names, shapes, strides, dtypes and offsets of all tensors in a vector of ``size`` float32 elements.

    The first ``trainable`` elements have gradients; frozen parameters and travelling buffers follow.
    """

    slots: tuple[Slot, ...]
    size: int
    trainable: int

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of the canonical form; vectors meet only if these agree."""
        rows = [[s.name, s.shape, s.stride, s.dtype, s.offset] for s in self.slots]
        return hashlib.sha256(json.dumps([rows, self.size, self.trainable]).encode()).hexdigest()

    def require(self, other_hash: str, where: str) -> None:
        """Raise LayoutMismatch unless a vector with ``other_hash`` may meet one of this layout."""
        if other_hash != self.hash:
            raise LayoutMismatch(
                f"a vector of layout {other_hash[:12]} cannot meet one of layout {self.hash[:12]}",
                where=where,
                remedy="All peers must use the same model, with the same settings and the same frozen parameters.",
            )


class Snapshot(ABC):
    """An immutable copy of a peer's vector. Where its bytes lie is the runtime's business."""

    layout_hash: str
    size: int
    """Number of float32 elements."""

    @abstractmethod
    def tensor(self) -> torch.Tensor:
        """The elements, shape (size,), float32. Read only."""

    @abstractmethod
    def digest(self) -> bytes:
        """32 bytes that travel with it: SHA-256 of the little-endian elements, or zeros where no bytes travel."""


def element_bytes(elements: torch.Tensor) -> memoryview:
    """The little-endian bytes of float32 ``elements``; not copied where they are contiguous."""
    return np.ascontiguousarray(elements.numpy(), dtype="<f4").reshape(-1).view(np.uint8).data


def digest_of(elements: torch.Tensor) -> bytes:
    """SHA-256 of the little-endian bytes of float32 ``elements``: 32 bytes."""
    return hashlib.sha256(element_bytes(elements)).digest()


def is_finite(elements: torch.Tensor) -> bool:
    """Whether all are: their sum tells in one fast pass, and only where it overflowed each is looked at."""
    return math.isfinite(float(elements.sum())) or bool(torch.isfinite(elements).all())
