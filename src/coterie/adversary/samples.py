"""Poisoned data: attacks that falsify a malicious peer's samples before it trains.

Such an attack has the trait ``poisons="data"`` and is ``attack(samples (n, *shape) float32, labels (n,) int64, rng,
**settings) -> samples``; it returns a new array and draws from ``rng`` only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coterie import registry

Floats = NDArray[np.float32]


@registry.attacks.register("random_data", poisons="data")
def random_data(samples: Floats, labels: NDArray[np.int64], rng: np.random.Generator) -> Floats:
    """Samples that are noise: every value uniform over the range of its channel; the labels stay.

    A channel is an index of axis 1: a colour of images (n, channels, height, width), a column of a table (n, columns).
    Its range is that of the attacker's own samples. Source: the random-data node in the simulator of DFL (arXiv
    2110.15457).
    """
    axes = tuple(axis for axis in range(samples.ndim) if axis != 1)
    low, high = samples.min(axis=axes, keepdims=True), samples.max(axis=axes, keepdims=True)
    noise: Floats = rng.random(samples.shape, dtype=np.float32) * (high - low) + low
    return noise
