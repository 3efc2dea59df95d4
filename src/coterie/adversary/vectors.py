"""Poisoned models: attacks that falsify the vector a malicious peer shows to others.

An attack with the trait ``poisons="model"`` is ``attack(own, base, others, attackers, rng, **settings) -> vector``.
Symbols: M = ``own``, what the attacker trained honestly this round; x = ``base``, its vector before that; H_j =
``others``, the honest models of the round that it has seen, j = 1..m; f = ``attackers``, how many collude; all vectors
of shape (d,), float32. It returns a new vector, changes none it was given, and draws from ``rng`` (numpy) only. With
the trait ``sees_others`` the attacker first pulls the models of the honest peers.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from coterie import registry

Vector = torch.Tensor
NotNegative = Annotated[float, Field(ge=0)]
_ELEMENTS = 1 << 22
"""What is copied at a time when many models are looked at together."""


@registry.attacks.register("random_model", poisons="model")
def random_model(
    own: Vector,
    base: Vector,
    others: Sequence[Vector],
    attackers: int,
    rng: np.random.Generator,
    *,
    low: float = 0.0,
    high: float = 0.001,
) -> Vector:
    """A fresh random model each round: every parameter uniform between two bounds.

    ``low``: lower bound. ``high``: upper bound. The defaults are those of the random-model poisoner in the simulator of
    DFL (arXiv 2110.15457).
    """
    return torch.from_numpy(rng.random(len(own), dtype=np.float32)).mul_(high - low).add_(low)


@registry.attacks.register("gaussian", poisons="model")
def gaussian(
    own: Vector,
    base: Vector,
    others: Sequence[Vector],
    attackers: int,
    rng: np.random.Generator,
    *,
    sigma: NotNegative = 1.0,
) -> Vector:
    """The move since the last round is nothing but Gaussian noise: x + sigma e, e ~ N(0, I).

    ``sigma``: standard deviation of each parameter's move. Blanchard, El Mhamdi, Guerraoui and Stainer, "Machine
    learning with adversaries", 2017, send noise instead of a gradient; where models are sent that is a move of noise.
    """
    return torch.add(base, _noise(rng, base), alpha=sigma)


@registry.attacks.register("sign_flip", poisons="model")
def sign_flip(
    own: Vector,
    base: Vector,
    others: Sequence[Vector],
    attackers: int,
    rng: np.random.Generator,
    *,
    scale: NotNegative = 5.0,
) -> Vector:
    """The honest move turned round and lengthened: x - scale (M - x).

    ``scale``: how many times as long as the honest move. Source: the sign-flipping attack of Li, Xu, Chen, Giannakis
    and Ling, "RSA: Byzantine-robust stochastic aggregation methods", 2019, on the move.
    """
    return torch.lerp(base, own, -scale)


@registry.attacks.register("scaling", poisons="model")
def scaling(
    own: Vector,
    base: Vector,
    others: Sequence[Vector],
    attackers: int,
    rng: np.random.Generator,
    *,
    scale: NotNegative = 10.0,
) -> Vector:
    """The honest move lengthened, so that the attacker counts for many: x + scale (M - x).

    ``scale``: how many times as long as the honest move. Source: model replacement of Bagdasaryan, Veit, Hua, Estrin
    and Shmatikov, "How to backdoor federated learning", 2020.
    """
    return torch.lerp(base, own, scale)


@registry.attacks.register("alie", poisons="model", sees_others=True)
def alie(
    own: Vector,
    base: Vector,
    others: Sequence[Vector],
    attackers: int,
    rng: np.random.Generator,
    *,
    z: NotNegative | None = None,
    jitter: NotNegative = 0.3,
) -> Vector:
    """A little is enough: the honest mean, moved by z standard deviations in each coordinate.

    mean_j H_j - z std_j H_j (of the population, divisor m), and jitter. All attackers that saw the same models send the
    same, but for the jitter. ``z``: left out, the authors' Phi^-1((n - f - s) / (n - f)) with n = m + f and
    s = floor(n / 2 + 1) - f, which is small for few attackers; their experiments use 1.5. ``jitter``: length of a
    random move of each attacker's own, as a share of the distance from x, so that colluders are not found as
    duplicates. Source: Baruch, Baruch and Goldberg, "A little is enough: circumventing defenses for
    distributed learning", 2019, algorithm 3; the jitter is Coterie's own.
    """
    mean, deviation = moments(others)
    chosen = largest_z(len(others) + attackers, attackers) if z is None else z
    return _jittered(mean.sub_(deviation, alpha=chosen), base, jitter, rng)


@registry.attacks.register("inner_product", poisons="model", sees_others=True)
def inner_product(
    own: Vector,
    base: Vector,
    others: Sequence[Vector],
    attackers: int,
    rng: np.random.Generator,
    *,
    scale: NotNegative | None = None,
    jitter: NotNegative = 0.3,
) -> Vector:
    """Against the honest mean: x - scale u with u = mean_j H_j - x; its product with the honest move is negative.

    ``scale``: the authors' epsilon; left out, the move is as long as the median of |H_j - x|, so that its length does
    not give it away. ``jitter``: length of a random move of each attacker's own, as a share of
    the distance from x. Source: Xie, Koyejo and Gupta, "Fall of empires: breaking Byzantine-tolerant SGD by inner
    product manipulation", 2019; the median length and the jitter are Coterie's own.
    """
    direction = moments(others)[0].sub_(base)
    if scale is None:
        length = _norm(direction)
        scale = float(np.median([_norm(other - base) for other in others])) / length if length > 0 else 0.0
    return _jittered(torch.sub(base, direction, alpha=scale), base, jitter, rng)


@registry.attacks.register("duplicate", poisons="model", sees_others=True)
def duplicate(own: Vector, base: Vector, others: Sequence[Vector], attackers: int, rng: np.random.Generator) -> Vector:
    """A free rider: the model of an honest peer, drawn anew each round, as one's own."""
    return others[int(rng.integers(len(others)))].clone()


def largest_z(peers: int, attackers: int) -> float:
    """The largest z that hides f = ``attackers`` among n = ``peers``, by Baruch et al. 2019, algorithm 3.

    Phi^-1((n - f - s) / (n - f)) with s = floor(n / 2 + 1) - f, the honest peers that the attackers need on their side;
    s is at least 1. Where that is negative, and few attackers can hide nothing, 0.
    """
    honest = peers - attackers
    needed = max(peers // 2 + 1 - attackers, 1)
    share = (honest - needed) / honest
    return NormalDist().inv_cdf(share) if share > 0.5 else 0.0


def moments(vectors: Sequence[Vector]) -> tuple[Vector, Vector]:
    """Mean and population standard deviation of m vectors, coordinate by coordinate: both (d,), float32.

    Computed in float64 over pieces, so that m large vectors are never copied at once.
    """
    mean, deviation = torch.empty_like(vectors[0]), torch.empty_like(vectors[0])
    width = max(1, _ELEMENTS // len(vectors))
    for start in range(0, len(mean), width):
        part = slice(start, start + width)
        rows = torch.stack([vector[part] for vector in vectors]).double()
        variance, mean[part] = torch.var_mean(rows, dim=0, correction=0)
        deviation[part] = variance.sqrt_()
    return mean, deviation


def _jittered(vector: Vector, base: Vector, share: float, rng: np.random.Generator) -> Vector:
    """``vector`` moved by share |vector - base| in a random direction."""
    if not share:
        return vector
    noise = _noise(rng, base)
    return vector.add_(noise, alpha=share * _norm(vector - base) / _norm(noise))


def _noise(rng: np.random.Generator, like: Vector) -> Vector:
    return torch.from_numpy(rng.standard_normal(len(like), dtype=np.float32))


def _norm(vector: Vector) -> float:
    return float(torch.linalg.vector_norm(vector, dtype=torch.float64))
