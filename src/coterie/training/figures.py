"""Figures beside loss and accuracy: how far an attack on classes gets, and the area under the ROC curve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass
class Tally:
    """Counts what an evaluation sees, chunk by chunk.

    ``targets``: which class an attack wants to see in place of which; None or empty without such an attack.
    """

    targets: Mapping[int, int] | None = None
    _attacked: int = 0
    _taken: int = 0
    _scores: list[torch.Tensor] = field(default_factory=list)
    _labels: list[torch.Tensor] = field(default_factory=list)

    def add(self, outputs: torch.Tensor, y: torch.Tensor) -> None:
        """Count a chunk: ``outputs`` (b, classes) and labels ``y`` (b,) int64."""
        if self.targets:
            predicted = outputs.argmax(1)
            for source, target in self.targets.items():
                of_source = y == source
                self._attacked += int(of_source.sum())
                self._taken += int((predicted[of_source] == target).sum())
        if outputs.ndim == outputs.shape[1] == 2:
            self._scores.append(outputs[:, 1] - outputs[:, 0])
            self._labels.append(y)

    @property
    def attack_rate(self) -> float | None:
        """Share of the samples of attacked classes that were taken for what the attack wants; None without any."""
        return self._taken / self._attacked if self._attacked else None

    @property
    def auc(self) -> float | None:
        """Area under the ROC curve, by the difference of the two outputs; None for more classes, or one alone."""
        if not self._scores:
            return None
        return area_under_roc(torch.cat(self._scores).double().numpy(), torch.cat(self._labels).numpy() == 1)


def area_under_roc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float | None:
    """The chance that a positive sample scores higher than a negative one, a tie counting half.

    (R - p (p + 1) / 2) / (p q), with R = sum of the ranks of the p positive among all p + q scores, ties at their mean
    rank (Mann and Whitney, 1947). ``scores`` (n,) float64, ``positive`` (n,) bool. None where one class is missing or a
    score is not finite.
    """
    p = int(positive.sum())
    q = len(positive) - p
    if not p or not q or not np.isfinite(scores).all():
        return None
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    return float((ranks[place][positive].sum() - p * (p + 1) / 2) / (p * q))
