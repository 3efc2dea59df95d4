"""Contexts for the tests, and the rules once more: plain loops in numpy float64, straight from the formulas."""

import math

import numpy as np
import torch

from coterie.aggregation import Context
from coterie.layout import Layout


def names(count):
    return tuple(f"peer{j}" for j in range(1, count + 1))


def world(base, count, *, weights=None, samples=None, ids=None, founders=None, number=0, rounds=20):
    """A context for ``count`` received rows; everybody is a founder and the weights are uniform unless said."""
    ids = names(count) if ids is None else ids
    weights = torch.full((count + 1,), 1 / (count + 1)) if weights is None else weights
    return Context(
        base=base,
        own_id="own",
        peer_ids=ids,
        graph_weights=weights,
        samples=samples or (1,) * (count + 1),
        round=number,
        rounds=rounds,
        layout=Layout((), len(base), len(base)),
        founders=frozenset(ids) if founders is None else frozenset(founders),
    )


def draw(seed, count, size, spread=0.01):
    """base, own, received: moves of the size of ``spread`` around a standard normal base."""
    random = torch.Generator().manual_seed(seed)
    base = torch.randn(size, generator=random)
    moves = spread * torch.randn(count + 1, size, generator=random)
    return base, base + moves[0], base + moves[1:]


class Root:
    """A judge whose root gradient is given."""

    def __init__(self, gradient):
        self.given = gradient

    def loss(self, vector):
        raise NotImplementedError

    def gradient(self, vector):
        raise NotImplementedError

    def root_gradient(self, vector):
        return self.given.clone()


class Bowl(Root):
    """A judge whose root loss is curvature |v - bottom|^2 / 2."""

    def __init__(self, bottom, curvature):
        self.bottom, self.curvature = bottom, curvature

    def root_gradient(self, vector):
        return self.curvature * (vector - self.bottom)


def median(values):
    ordered = sorted(values)
    half = len(ordered) // 2
    if not ordered:
        return 0.0
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def length(vector):
    return math.sqrt(sum(float(value) ** 2 for value in vector))


def slow_clip(rows, base, gate, reach=10.0):
    norms = [length(row - base) for row in rows]
    tau = median(norms) if norms[0] == 0 else min(median(norms), reach * norms[0])
    clip = [1.0 if norm <= tau else tau / norm for norm in norms]
    passed = [1.0 if norm <= gate * tau else 0.0 for norm in norms]
    return tau, clip, passed


def slow_clip_and_trust(own, received, base, graph, trust, memory=0.8, gate=3.0, tolerance=1e-3):
    """vector, weights, the new trust of the received; ``trust`` holds the old one of each received row."""
    rows = [np.asarray(row, dtype=np.float64) for row in (own, *received)]
    base = np.asarray(base, dtype=np.float64)
    _, clip, passed = slow_clip(rows, base, gate)
    new = [1.0] + [memory * t + (1 - memory) * p * c for t, p, c in zip(trust, passed[1:], clip[1:], strict=True)]
    pairs = [length(rows[j] - rows[k]) for j in range(len(rows)) for k in range(j)]
    limit = tolerance * median(pairs)
    weights = []
    for j, row in enumerate(rows):
        same = sum(1 for k, other in enumerate(rows) if k == j or length(row - other) <= limit)
        weights.append(float(graph[j]) * passed[j] * new[j] / same)
    weights[0] = max(weights[0], float(graph[0]))
    weights = [weight / sum(weights) for weight in weights]
    vector = base.copy()
    for weight, factor, row in zip(weights, clip, rows, strict=True):
        vector = vector + weight * factor * (row - base)
    return vector, weights, new[1:]


def slow_root(rounds, memory=0.9, gate=3.0, margin=0.1):
    """The vector and weights after the last of ``rounds``, each (own, received, base, root gradient as a function)."""
    moves, root, vector, weights = None, None, None, None
    for own, received, base, gradient_at in rounds:
        rows = [np.asarray(row, dtype=np.float64) for row in (own, *received)]
        base = np.asarray(base, dtype=np.float64)
        gradient = gradient_at(base)
        slope = length(gradient)
        downhill = -gradient / slope if slope else gradient
        tau, clip, passed = slow_clip(rows, base, gate)
        moves = [np.zeros_like(base) for _ in rows] if moves is None else moves
        root = np.zeros_like(base) if root is None else root
        moves = [
            memory * old + (1 - memory) * p * c * (row - base)
            for old, p, c, row in zip(moves, passed, clip, rows, strict=True)
        ]
        root = memory * root + (1 - memory) * tau * downhill
        weights = []
        for j in range(len(rows)):
            product = length(moves[j]) * length(root)
            cosine = float(np.dot(moves[j], root)) / product if product else 0.0
            weights.append(passed[j] * min(max((cosine + margin) / (2 * margin), 0.0), 1.0))
        missing = max(0.0, len(rows) / 2 - sum(weights)) if slope else 0.0
        rise = float(np.dot(gradient_at(base + tau * downhill), downhill))  # of the loss, at the end of a full step
        step = tau if rise <= 0 else tau * slope / (slope + rise)
        total = sum(weights) + missing
        if total == 0:
            vector, weights = rows[0], [1.0] + [0.0] * len(received)
            continue
        weights = [weight / total for weight in weights]
        vector = base + missing / total * step * downhill
        for weight, factor, row in zip(weights, clip, rows, strict=True):
            vector = vector + weight * factor * (row - base)
    return vector, weights
