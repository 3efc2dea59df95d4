"""A small data set of a user's own: four clouds of points, easy to learn and quick to make."""

from __future__ import annotations

import numpy as np


def blobs() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    centres = rng.normal(0, 3, (4, 6))
    labels = np.arange(800) % 4
    x = (centres[labels] + rng.normal(0, 1, (800, 6))).astype(np.float32)
    return x[:600], labels[:600], x[600:], labels[600:]
