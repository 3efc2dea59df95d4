"""What one peer does alone: fit its vector to its data, and evaluate vectors on data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from coterie.errors import PluginError, TrainingDiverged, VectorBusy
from coterie.layout import Layout, is_finite
from coterie.spec import TrainingTable
from coterie.training import optimizers
from coterie.training.engine import Engine
from coterie.training.figures import Tally
from coterie.training.span import Descent
from coterie.training.vector import VectorModule

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
EVALUATION_BATCH = 250


@dataclass(frozen=True)
class FitReport:
    """What a fit did: ``loss`` is the mean over its ``steps`` minibatches, before each step."""

    loss: float
    steps: int


@dataclass(frozen=True)
class Evaluation:
    """Mean loss and share of right answers (largest output) over ``samples``; the rest where a Tally was kept."""

    loss: float
    accuracy: float
    samples: int
    attack_rate: float | None = None
    auc: float | None = None


@dataclass
class FitState:
    """What stays from one fit to the next, beside the vector: all of shape (k,), float32, k = layout.trainable."""

    velocity: torch.Tensor | None = None
    """Quasi-global momentum, read only during a fit."""
    optimizer: Sequence[torch.Tensor] = ()
    count: int = 0
    """Optimiser steps done since its state was last reset."""


class Learner:
    """Trains any ``nn.Module`` with any loss ``loss(outputs, labels) -> scalar`` on the flat vector it lives in.

    Plain sequences of layers run on the kernels of ``coterie.training.kernels``, which give autograd's numbers within
    rounding; everything else, and with ``exact_kernels`` everything, runs on autograd.
    """

    def __init__(self, module: nn.Module, loss: Loss, table: TrainingTable, *, exact_kernels: bool = False) -> None:
        self._bound = VectorModule(module)
        self._engine = None if exact_kernels else Engine(self._bound, loss)
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

    def batches(self, samples: int, steps: int | None, seed: int) -> Sequence[torch.Tensor]:
        """Minibatches of positions 0..samples-1, int64: ``steps`` of them, or one epoch after another if None.

        Samples are drawn without replacement, reshuffled for each pass; a pass may end within a batch. Of ``seed``,
        torch's generator takes the low 32 bits.
        """
        generator = torch.Generator().manual_seed(seed)
        size = min(self._table.batch_size, samples)
        passes = self._table.local_epochs or 1 if steps is None else math.ceil(steps * size / samples)
        drawn = [torch.randperm(samples, generator=generator) for _ in range(passes)]
        order = drawn[0] if passes == 1 else torch.cat(drawn)
        if steps is not None:
            order, sizes = order[: steps * size], [size] * steps
        else:
            whole, rest = divmod(samples, size)
            sizes = ([size] * whole + [rest] * (rest > 0)) * passes
        cut: Sequence[torch.Tensor] = order.split(sizes)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return cut

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
        self._fitting = True
        try:
            batches = self.batches(len(indices), steps, seed)
            by_hand = None
            if self._engine is not None:
                plain = optimizers.is_plain(table)
                descent = Descent(lr, table.clip, state.velocity, table.quasi_global_momentum) if plain else None
                by_hand = self._engine.losses(x, y, indices, batches, descent)
            for loss in self._autograd(x, y, indices, batches) if by_hand is None else by_hand.losses:
                state.count += 1
                losses.append(loss)
                if by_hand is not None and by_hand.moved:
                    continue
                gradient = bound.gradient
                if table.proximal and base is not None:
                    gradient.add_(parameters - base[: self.layout.trainable], alpha=table.proximal)
                scale = optimizers.clip_scale(gradient, table.clip)
                optimizers.step(
                    table, parameters, gradient, rows, state.count, lr, scale=scale, velocity=state.velocity
                )
                bound.store_copies()
                bound.load_copies()
        finally:
            self._fitting = False
            bound.verify()  # a module that left its vector is also the cause of most other errors here
        mean = float(torch.stack(losses).double().mean())
        require_finite(mean, bound.vector)
        return FitReport(mean, len(losses))

    def _autograd(
        self, x: torch.Tensor, y: torch.Tensor, indices: torch.Tensor, batches: Sequence[torch.Tensor]
    ) -> Iterator[torch.Tensor]:
        """For each batch (B,) of positions in ``indices``, its gradient in the module's ``gradient``, and its loss."""
        bound = self._bound
        bound.attach_gradient()
        for batch in batches:
            chosen = indices.index_select(0, batch)
            bound.gradient.zero_()
            loss = self._loss(bound.module(x.index_select(0, chosen)), y.index_select(0, chosen))
            if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
                shown = f"shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
                raise PluginError(
                    f"the loss returned {shown}, not a scalar", where="training.loss", remedy="Return one tensor ()."
                )
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            bound.collect_gradient()
            yield loss.detach()

    def evaluate(self, x: torch.Tensor, y: torch.Tensor, tally: Tally | None = None) -> Evaluation:
        """Loss and accuracy of the bound vector on ``x`` (n, *shape) and ``y`` (n,); no gradient, evaluation mode.

        A fresh ``tally`` adds the figures it counts.
        """
        loss = correct = 0.0
        with self._evaluating() as module, torch.no_grad():  # a module may cache what inference mode would spoil
            by_hand = self._engine if self._engine is not None and self._engine.takes(x) else None
            for start in range(0, len(y), EVALUATION_BATCH):
                chunk_x, chunk_y = x[start : start + EVALUATION_BATCH], y[start : start + EVALUATION_BATCH]
                outputs = module(chunk_x.clone()) if by_hand is None else by_hand.outputs(chunk_x)
                loss += float(self._loss(outputs, chunk_y)) * len(chunk_y)
                correct += int((outputs.argmax(1) == chunk_y).sum())
                if tally is not None:
                    tally.add(outputs, chunk_y)
        if tally is None:
            return Evaluation(loss / len(y), correct / len(y), len(y))
        return Evaluation(loss / len(y), correct / len(y), len(y), tally.attack_rate, tally.auc)

    def outputs(self, x: torch.Tensor) -> torch.Tensor:
        """What the bound vector's model gives for ``x`` (n, *shape): (n, classes); no gradient, evaluation mode."""
        with self._evaluating() as module, torch.no_grad():
            pieces = [module(x[at : at + EVALUATION_BATCH].clone()) for at in range(0, len(x), EVALUATION_BATCH)]
        return torch.cat(pieces)

    def gradient(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The loss's gradient at the bound vector over all of ``x``: shape (layout.size,), 0 where nothing trains."""
        bound = self.bound
        with self._evaluating():
            whole, by_hand = torch.arange(len(y)), None
            if self._engine is not None and len(y) <= EVALUATION_BATCH:
                by_hand = self._engine.losses(x, y, whole, [whole])
            for _ in self._autograd(x, y, whole, [whole]) if by_hand is None else by_hand.losses:
                pass
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


def require_finite(loss: float, vector: torch.Tensor) -> None:
    """Raise TrainingDiverged unless the mean loss of a fit and the vector it ended in are finite."""
    if not math.isfinite(loss) or not is_finite(vector):
        raise TrainingDiverged(
            "the loss or a parameter is no longer finite",
            remedy="Lower training.lr, or set training.clip.",
        )
