"""Optimisers on flat vectors: a handful of whole-vector operations a step, whatever the number of tensors in the model.

They follow ``torch.optim.SGD`` and ``torch.optim.Adam`` (coupled weight decay, no Nesterov, bias-corrected Adam) and
are tested against them. State is explicit: ``rows`` buffers of the vector's length and a step count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from coterie.spec import TrainingTable


def learning_rate(table: TrainingTable, round: int, rounds: int) -> float:
    """The step size of a round (counted from 0): constant, or falling to ``lr_floor`` x lr.

    linear: floor + (1 - floor)(1 - t/T); cosine: floor + (1 - floor)(1 + cos(pi t/T))/2 (Loshchilov & Hutter 2017).
    """
    progress = min(round / rounds, 1.0)
    match table.schedule:
        case "constant":
            share = 1.0
        case "linear":
            share = 1.0 - progress
        case "cosine":
            share = (1.0 + math.cos(math.pi * progress)) / 2
    if table.schedule == "constant":
        return table.lr
    return table.lr * (table.lr_floor + (1 - table.lr_floor) * share)


def state_rows(table: TrainingTable) -> int:
    """How many vectors of state the optimiser needs: 0, 1 (momentum) or 2 (Adam)."""
    if table.optimizer == "adam":
        return 2
    return 1 if table.momentum else 0


def step(
    table: TrainingTable,
    parameters: torch.Tensor,
    gradient: torch.Tensor,
    rows: Sequence[torch.Tensor],
    count: int,
    lr: float,
) -> None:
    """One step in place. ``parameters``, ``gradient`` and each of ``rows``: shape (k,), float32; ``count`` from 1.

    sgd: b <- mu b + g (b <- g at first), p <- p - lr b. adam: Kingma & Ba 2015, Algorithm 1. With weight decay
    lambda, g <- g + lambda p before. ``gradient`` is overwritten.
    """
    if table.weight_decay:
        gradient.add_(parameters, alpha=table.weight_decay)
    if table.optimizer == "adam":
        _adam(table, parameters, gradient, rows, count, lr)
    elif table.momentum:
        momentum = rows[0]
        if count == 1:
            momentum.copy_(gradient)
        else:
            momentum.mul_(table.momentum).add_(gradient)
        parameters.sub_(momentum, alpha=lr)
    else:
        parameters.sub_(gradient, alpha=lr)


def _adam(
    table: TrainingTable,
    parameters: torch.Tensor,
    gradient: torch.Tensor,
    rows: Sequence[torch.Tensor],
    count: int,
    lr: float,
) -> None:
    beta1, beta2 = table.momentum or 0.9, table.beta2
    mean, square = rows
    if count == 1:
        mean.zero_()
        square.zero_()
    mean.lerp_(gradient, 1 - beta1)
    square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    denominator = (square.sqrt() / math.sqrt(1 - beta2**count)).add_(1e-8)
    parameters.addcdiv_(mean, denominator, value=-lr / (1 - beta1**count))


def clip(gradient: torch.Tensor, limit: float) -> None:
    """Scale ``gradient`` in place so that its Euclidean norm is at most ``limit``; 0 does nothing."""
    if limit:
        norm = float(torch.linalg.vector_norm(gradient))
        if norm > limit:
            gradient.mul_(limit / norm)


def update_velocity(
    velocity: torch.Tensor, old: torch.Tensor, new: torch.Tensor, *, lr: float, steps: int, beta: float
) -> None:
    """Quasi-global momentum (Lin et al. 2021, arXiv 2102.04761), in place.

    V <- beta V + (1 - beta)(x_old - x_new)/(lr H):
    ``old`` is the vector before the local steps, ``new`` the one after mixing, H the number of local steps.
    """
    scale = (1 - beta) / (lr * steps)
    velocity.mul_(beta).add_(old, alpha=scale).sub_(new, alpha=scale)
