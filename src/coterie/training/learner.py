"""What one peer does alone: fit its vector to its data, and evaluate vectors on data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from coterie.errors import TrainingDiverged, VectorBusy
from coterie.layout import Layout
from coterie.spec import TrainingTable
from coterie.training import optimizers
from coterie.training.vector import VectorModule

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
_EVALUATION_BATCH = 250


@dataclass(frozen=True)
class FitReport:
    """What a fit did: ``loss`` is the mean over its ``steps`` minibatches, before each step."""

    loss: float
    steps: int


@dataclass(frozen=True)
class Evaluation:
    """Mean loss and share of right answers (largest output) over ``samples``."""

    loss: float
    accuracy: float
    samples: int


@dataclass
class FitState:
    """What stays from one fit to the next, beside the vector: all of shape (k,), float32, k = layout.trainable."""

    velocity: torch.Tensor | None = None
    """Quasi-global momentum, read only during a fit."""
    optimizer: Sequence[torch.Tensor] = ()
    count: int = 0
    """Optimiser steps done since its state was last reset."""


class Learner:
    """Trains any ``nn.Module`` with any loss ``loss(outputs, labels) -> scalar`` on the flat vector it lives in."""

    def __init__(self, module: nn.Module, loss: Loss, table: TrainingTable) -> None:
        self._bound = VectorModule(module)
        self._loss, self._table = loss, table
        self._fitting = False
        rows = optimizers.state_rows(table)
        self._scratch = [torch.zeros(self.layout.trainable) for _ in range(rows)]

    @property
    def layout(self) -> Layout:
        return self._bound.layout

    @property
    def bound(self) -> VectorModule:
        """The module in its vector. Raises VectorBusy during a fit."""
        if self._fitting:
            raise VectorBusy(
                "the vector was touched while it is being trained",
                where=type(self._bound.module).__name__,
                remedy="Use the published snapshot, or wait for the fit to end.",
            )
        return self._bound

    @property
    def vector(self) -> torch.Tensor:
        """The live vector, shape (layout.size,), float32. Raises VectorBusy during a fit."""
        return self.bound.vector

    def bind(self, vector: torch.Tensor) -> None:
        """Go on in another vector of the same layout."""
        self.bound.bind(vector)

    def batches(self, samples: int, steps: int | None, seed: int) -> Iterator[torch.Tensor]:
        """Minibatches of positions 0..samples-1, int64: ``steps`` of them, or one epoch after another if None.

        Samples are drawn without replacement, reshuffled for each pass; a pass may end within a batch.
        """
        generator = torch.Generator().manual_seed(seed)
        size = min(self._table.batch_size, samples)
        if steps is None:
            for _ in range(self._table.local_epochs or 1):
                yield from torch.randperm(samples, generator=generator).split(size)  # type: ignore[no-untyped-call]
            return
        passes = math.ceil(steps * size / samples)
        order = torch.cat([torch.randperm(samples, generator=generator) for _ in range(passes)])
        yield from order[: steps * size].split(size)  # type: ignore[no-untyped-call]

    def fit(
        self,
        x: torch.Tensor,
        y: torch.Tensor,
        indices: torch.Tensor,
        *,
        steps: int | None,
        lr: float,
        seed: int,
        state: FitState | None = None,
        base: torch.Tensor | None = None,
    ) -> FitReport:
        """Train the bound vector on ``x[indices], y[indices]``.

        x: (n, *shape) float32; y: (n,) int64; indices: (m,) int64, the peer's own. ``steps`` minibatches at step size
        ``lr``, or whole epochs as the table says where None. ``base``: the vector before the fit, for FedProx.
        The gradient g of a minibatch becomes clip(g + mu (theta - base)), then + beta V (quasi-global momentum), then
        goes to the optimiser. Raises TrainingDiverged if a loss or the vector ends up not finite, StorageReplaced if
        the module left its vector. With ``optimizer_state = "keep"`` the optimiser's rows stay in ``state``.
        """
        bound, table, state = self.bound, self._table, state or FitState()
        if table.optimizer_state == "reset":
            state.count = 0
        elif not state.optimizer:
            state.optimizer = [torch.zeros(self.layout.trainable) for _ in self._scratch]
        rows = state.optimizer or self._scratch
        parameters = bound.vector[: self.layout.trainable]
        losses: list[torch.Tensor] = []
        if not bound.module.training:
            bound.module.train()
        bound.load_copies()
        bound.attach_gradient()
        self._fitting = True
        try:
            for positions in self.batches(len(indices), steps, seed):
                chosen = indices.index_select(0, positions)
                bound.gradient.zero_()
                loss = self._loss(bound.module(x.index_select(0, chosen)), y.index_select(0, chosen))
                loss.backward()  # type: ignore[no-untyped-call]
                bound.collect_gradient()
                gradient = bound.gradient
                if table.proximal and base is not None:
                    gradient.add_(parameters - base[: self.layout.trainable], alpha=table.proximal)
                optimizers.clip(gradient, table.clip)
                if state.velocity is not None:
                    gradient.add_(state.velocity, alpha=table.quasi_global_momentum)
                state.count += 1
                optimizers.step(table, parameters, gradient, rows, state.count, lr)
                bound.store_copies()
                bound.load_copies()
                losses.append(loss.detach())
        finally:
            self._fitting = False
            bound.verify()  # a module that left its vector is also the cause of most other errors here
        mean = float(torch.stack(losses).double().mean())
        if not math.isfinite(mean) or not _finite(bound.vector):
            raise TrainingDiverged(
                "the loss or a parameter is no longer finite",
                remedy="Lower training.lr, or set training.clip.",
            )
        return FitReport(mean, len(losses))

    def evaluate(self, x: torch.Tensor, y: torch.Tensor) -> Evaluation:
        """Loss and accuracy of the bound vector on ``x`` (n, *shape) and ``y`` (n,); no gradient, evaluation mode."""
        loss = correct = 0.0
        with self._evaluating() as module, torch.no_grad():  # a module may cache what inference mode would spoil
            for start in range(0, len(y), _EVALUATION_BATCH):
                chunk_x, chunk_y = x[start : start + _EVALUATION_BATCH].clone(), y[start : start + _EVALUATION_BATCH]
                outputs = module(chunk_x)
                loss += float(self._loss(outputs, chunk_y)) * len(chunk_y)
                correct += int((outputs.argmax(1) == chunk_y).sum())
        return Evaluation(loss / len(y), correct / len(y), len(y))

    def gradient(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The loss's gradient at the bound vector over all of ``x``: shape (layout.size,), 0 where nothing trains."""
        bound = self.bound
        with self._evaluating() as module:
            bound.attach_gradient()
            self._loss(module(x), y).backward()  # type: ignore[no-untyped-call]
            bound.collect_gradient()
        gradient = torch.zeros(self.layout.size)
        gradient[: self.layout.trainable] = bound.gradient
        return gradient

    @contextmanager
    def _evaluating(self) -> Iterator[nn.Module]:
        """The module in evaluation mode, and back in its mode afterwards. Raises StorageReplaced as a fit does."""
        bound = self.bound
        training = bound.module.training
        bound.load_copies()
        bound.module.eval()
        try:
            yield bound.module
        finally:
            bound.module.train(training)
            bound.verify()


def _finite(vector: torch.Tensor) -> bool:
    """Whether every element is finite: by their sum, and one by one only where finite elements may have overflowed."""
    return bool(torch.isfinite(vector.sum())) or bool(torch.isfinite(vector).all())
