"""The layers that ``kernels`` knows, as plain descriptions: where their parameters lie, and what shapes they make."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from coterie.layout import Slot

Pair: TypeAlias = tuple[int, int]
Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Dense:
    """``weight`` (out, in) times activations (in, B), plus ``bias`` (out,)."""

    weight: Slot
    bias: Slot | None


@dataclass(frozen=True)
class Convolution:
    """Cross-correlation with ``weight`` (out, channels, kh, kw), zero padding, without bias."""

    weight: Slot
    stride: Pair
    padding: Pair


@dataclass(frozen=True)
class Bias:
    """Adds ``bias`` (channels,) to every channel."""

    bias: Slot


@dataclass(frozen=True)
class Relu:
    """max(0, .)"""


@dataclass(frozen=True)
class MaxPool:
    """The largest of each window; among equal ones the first in reading order, as torch has it."""

    kernel: Pair
    stride: Pair
    padding: Pair


@dataclass(frozen=True)
class Flatten:
    """Axes into one."""


Layer: TypeAlias = Dense | Convolution | Bias | Relu | MaxPool | Flatten


def shapes(layers: Sequence[Layer], shape: Shape) -> list[Shape] | None:
    """The shape after each layer, without the batch, for inputs of ``shape``; None where they do not fit."""
    found: list[Shape] = []
    for layer in layers:
        after = _after(layer, shape)
        if after is None or min(after, default=0) < 1:
            return None
        found.append(after)
        shape = after
    return found


def _after(layer: Layer, shape: Shape) -> Shape | None:
    match layer:
        case Dense():
            return layer.weight.shape[:1] if shape == layer.weight.shape[1:] else None
        case Flatten():
            return (math.prod(shape),)
        case Convolution():
            fits = len(shape) == 3 and shape[0] == layer.weight.shape[1]
            return (layer.weight.shape[0], *_windows(shape, layer.weight.shape[2:], layer)) if fits else None
        case MaxPool():
            return (shape[0], *_windows(shape, layer.kernel, layer)) if len(shape) == 3 else None
        case Bias() | Relu():
            return shape


def _windows(shape: Shape, kernel: Shape, layer: Convolution | MaxPool) -> Pair:
    (p, q), (s, t) = layer.padding, layer.stride
    return (shape[1] + 2 * p - kernel[0]) // s + 1, (shape[2] + 2 * q - kernel[1]) // t + 1
