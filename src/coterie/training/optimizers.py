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
    if table.schedule == "constant":
        return table.lr
    progress = min(round / rounds, 1.0)
    share = 1.0 - progress if table.schedule == "linear" else (1.0 + math.cos(math.pi * progress)) / 2
    return table.lr * (table.lr_floor + (1 - table.lr_floor) * share)


def state_rows(table: TrainingTable) -> int:
    """How many vectors of state the optimiser needs: 0, 1 (momentum) or 2 (Adam)."""
    if table.optimizer == "adam":
        return 2
    return 1 if table.momentum else 0


def is_plain(table: TrainingTable) -> bool:
    """Whether a step is p <- p - lr (clip(g) + beta V) and nothing else: no momentum, decay or proximal term."""
    return table.optimizer == "sgd" and not (table.momentum or table.weight_decay or table.proximal)


def step(
    table: TrainingTable,
    parameters: torch.Tensor,
    gradient: torch.Tensor,
    rows: Sequence[torch.Tensor],
    count: int,
    lr: float,
    *,
    scale: float = 1.0,
    velocity: torch.Tensor | None = None,
) -> None:
    """One step in place. ``parameters``, ``gradient``, each of ``rows``: shape (k,), float32; ``count`` from 1.

    All may also be (n, k): the same step for n vectors.

    g <- scale g + beta V, where V is the ``velocity`` of quasi-global momentum; with weight decay lambda,
    g <- g + lambda p. sgd: b <- mu b + g (b <- g at first), p <- p - lr b. adam: Kingma & Ba 2015, Algorithm 1.
    ``gradient`` may be overwritten.
    """
    beta = table.quasi_global_momentum
    if table.optimizer == "sgd" and not table.weight_decay:  # sums taken apart: fewer passes over long vectors
        if table.momentum:
            momentum = rows[0]
            if count == 1:
                torch.mul(gradient, scale, out=momentum)
            else:
                momentum.mul_(table.momentum).add_(gradient, alpha=scale)
            if velocity is not None:
                momentum.add_(velocity, alpha=beta)
            parameters.sub_(momentum, alpha=lr)
            return
        parameters.sub_(gradient, alpha=lr * scale)
        if velocity is not None:
            parameters.sub_(velocity, alpha=lr * beta)
        return
    if scale != 1:
        gradient.mul_(scale)
    if velocity is not None:
        gradient.add_(velocity, alpha=beta)
    if table.weight_decay:
        gradient.add_(parameters, alpha=table.weight_decay)
    if table.optimizer == "adam":
        _adam(table, parameters, gradient, rows, count, lr)
        return
    if table.momentum:
        if count == 1:
            rows[0].copy_(gradient)
        else:
            rows[0].mul_(table.momentum).add_(gradient)
        gradient = rows[0]
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


def clip_scale(gradient: torch.Tensor, limit: float) -> float:
    """What to multiply ``gradient``, shape (k,), by so that its Euclidean norm is at most ``limit``: 1 if it is.

    A limit of 0 does not clip.
    """
    if not limit:
        return 1.0
    norm = math.sqrt(float(torch.dot(gradient, gradient)))
    return limit / norm if norm > limit else 1.0


def clip_rows(gradients: torch.Tensor, limit: float) -> None:
    """Scale every row of ``gradients``, shape (n, k), in place so that its Euclidean norm is at most ``limit``.

    A limit of 0 does not clip.
    """
    if limit:
        norms = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
        gradients.mul_((limit / norms).clamp_(max=1))


def update_velocity(
    velocity: torch.Tensor, old: torch.Tensor, new: torch.Tensor, *, lr: float, steps: int, beta: float
) -> None:
    """Quasi-global momentum (Lin et al. 2021, arXiv 2102.04761), in place.

    V <- beta V + (1 - beta)(x_old - x_new)/(lr H):
    ``old`` is the vector before the local steps, ``new`` the one after mixing, H the number of local steps.
    """
    scale = (1 - beta) / (lr * steps)
    velocity.mul_(beta).add_(old, alpha=scale).sub_(new, alpha=scale)
