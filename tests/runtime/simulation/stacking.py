"""Modules that cannot be done many at once, and one that can. Samples have six features, of four classes."""

from __future__ import annotations

import random

import torch
from torch import nn


class Statistics(nn.Sequential):
    """Batch normalisation with running statistics."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))


class Dropping(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 8), nn.Dropout(0.3), nn.Linear(8, 4))


class Branching(nn.Linear):
    """Looks at values, which vmap cannot."""

    def __init__(self) -> None:
        super().__init__(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        return y * 2 if y.mean() > 0 else y


class NoisyEvaluation(nn.Linear):
    """Draws at random only when it is evaluated."""

    def __init__(self) -> None:
        super().__init__(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        return y if self.training else y * (1 + random.random())


class Counting(nn.Linear):
    """Counts its calls in a buffer that it replaces."""

    def __init__(self) -> None:
        super().__init__(6, 4)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.calls = self.calls + 1
        return super().forward(x) / (1 + self.calls)


class Half(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 4).double())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.double()).float()


class InPlace(nn.Linear):
    """Writes into its input, which vmap can do."""

    def __init__(self) -> None:
        super().__init__(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.mul_(0.5))
