"""Losses: ``loss(outputs (B, classes) float, labels (B,) int64) -> scalar``, the mean over the batch."""

from __future__ import annotations

import torch
from torch.nn import functional

from coterie import registry


@registry.losses.register("cross_entropy")
def cross_entropy(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean over the batch of -log softmax(outputs)[label]."""
    return functional.cross_entropy(outputs, labels)


@registry.losses.register("mse")
def mse(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean over batch and classes of (outputs - onehot(labels))^2, on the outputs as they are (no softmax)."""
    return functional.mse_loss(outputs, torch.zeros_like(outputs).scatter(1, labels[:, None], 1.0))
