"""What rules with a root sample begin with: the gradient of its loss."""

from __future__ import annotations

import math

import torch

from coterie.aggregation.interface import Context, Judge
from coterie.errors import SpecError, TrainingDiverged


def require_root(judge: Judge | None, rule: str) -> Judge:
    """The judge. Raises SpecError where there is none: ``rule`` needs a root sample."""
    if judge is None:
        raise SpecError(f"{rule} needs a root sample", where="data.root", remedy="Set data.root, e.g. 100.")
    return judge


def root_gradient(judge: Judge, context: Context) -> tuple[torch.Tensor, float]:
    """g at ``context.base``, shape (d,), float32, and its length |g|. Raises TrainingDiverged where not finite."""
    gradient = judge.root_gradient(context.base)
    length = float(torch.linalg.vector_norm(gradient, dtype=torch.float64))
    if not math.isfinite(length):
        raise TrainingDiverged(
            "the gradient on the root sample is not finite",
            where=f"peer {context.own_id[:12]}, round {context.round}",
            remedy="Lower training.lr or set training.clip.",
        )
    return gradient, length
