"""One seed decides everything: each use of randomness derives its own generator from the seed and a label."""

from __future__ import annotations

import hashlib
import random

import numpy as np


def derive(seed: int, *labels: str | int) -> int:
    """A 63-bit seed for one purpose: the first 8 bytes of BLAKE2b(seed / label / ...), top bit cleared.

    Streams of different labels are independent for every practical purpose; this is for replay, never for secrets.
    """
    text = "/".join(str(part) for part in (seed, *labels))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *labels: str | int) -> np.random.Generator:
    """A numpy generator of its own for the given purpose."""
    return np.random.default_rng(derive(seed, *labels))


def stdlib_random(seed: int, *labels: str | int) -> random.Random:
    """A ``random.Random`` of its own: faster than numpy for single small draws."""
    return random.Random(derive(seed, *labels))  # noqa: S311 - replay, not secrecy
