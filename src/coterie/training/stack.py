"""Many vectors of one module at once, on any device: torch.func's vmap over rows of a matrix.

Written for CUDA; it has been tested on the CPU only, by running it there on the device "cpu".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, grad_and_value, vmap

from coterie.layout import Layout, Slot
from coterie.spec import TrainingTable
from coterie.training import optimizers

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
_PROBES = 3
_TOLERANCE = 1e-3


class Stack:
    """The rows of a matrix (n, layout.size), float32, as so many modules. n is the same in every call.

    ``module`` is the one the layout was made of; its own tensors are neither read nor written.
    """

    def __init__(self, module: nn.Module, layout: Layout, loss: Loss, table: TrainingTable) -> None:
        self._module, self._layout, self._loss, self._table = module, layout, loss, table

    def fit(
        self,
        vectors: torch.Tensor,
        batches: Iterator[tuple[torch.Tensor, torch.Tensor]],
        *,
        lr: float,
        count: int = 0,
        velocity: torch.Tensor | None = None,
        states: Sequence[torch.Tensor] = (),
    ) -> torch.Tensor:
        """Train every row in place, as ``Learner.fit`` does, on its own part of each batch: losses (n, steps).

        ``batches``: x (n, B, *shape) and y (n, B) for each step, on the device of ``vectors``. ``velocity`` and each of
        ``states``: (n, layout.trainable). ``count``: optimiser steps done before, the same for all rows.
        """
        table, trainable = self._table, self._layout.trainable
        parameters, base = vectors[:, :trainable], vectors[:, :trainable].clone() if table.proximal else None
        gradient, losses = torch.empty_like(parameters), []
        self._module.train()
        with _reproducible():
            for step, (x, y) in enumerate(batches, count + 1):
                losses.append(self.gradient(vectors, x, y, gradient))
                if base is not None:
                    gradient.add_(parameters - base, alpha=table.proximal)
                optimizers.clip_rows(gradient, table.clip)
                optimizers.step(table, parameters, gradient, states, step, lr, velocity=velocity)
        return torch.stack(losses, 1)

    def gradient(self, vectors: torch.Tensor, x: torch.Tensor, y: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Losses (n,) of the rows on x (n, B, *shape) and y (n, B); their gradients go into ``out`` (n, trainable)."""

        def objective(trained: dict[str, Any], fixed: dict[str, Any], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self._loss(functional_call(self._module, {**trained, **fixed}, (x,)), y)

        trained, fixed = self._parameters(vectors)
        losses: torch.Tensor
        gradients, losses = vmap(grad_and_value(objective))(trained, fixed, x, y)
        for slot in self._layout.slots:
            if slot.name in trained:
                _views(out, slot).copy_(gradients[slot.name])
        return losses

    def evaluate(self, vectors: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean loss (n,) and outputs (n, B, classes) of every row on the same x (B, *shape) and y (B,)."""

        def outputs(trained: dict[str, Any], fixed: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
            found = functional_call(self._module, {**trained, **fixed}, (x,))
            return self._loss(found, y), found

        training = self._module.training
        self._module.eval()
        try:
            with _reproducible(), torch.no_grad():
                return vmap(outputs)(*self._parameters(vectors))
        finally:
            self._module.train(training)

    def works(self, x: torch.Tensor, y: torch.Tensor, vector: torch.Tensor) -> bool:
        """Whether stacked gradients and losses on x (B, *shape), y (B,) are those of row after row, near ``vector``.

        False for a module that has buffers, or parameters that are not float32, and for one that vmap cannot do: that
        draws at random, say.
        """
        slots = self._layout.slots
        if next(self._module.buffers(), None) is not None or any(slot.dtype != "float32" for slot in slots):
            return False
        vectors = vector + torch.linspace(-0.01, 0.01, _PROBES * len(vector), device=vector.device).view(_PROBES, -1)
        training = self._module.training
        self._module.train()
        try:
            with _reproducible():
                expected = torch.stack([self._probe(row[None], x.clone(), y) for row in vectors])
                many_x, many_y = x.repeat(_PROBES, *[1] * x.dim()), y.repeat(_PROBES, *[1] * y.dim())
                found = torch.zeros_like(expected)
                found[:, 0] = self.gradient(vectors, many_x, many_y, found[:, 1:])
            self._module.eval()
            looked, _ = self.evaluate(vectors, x.clone(), y)
            with torch.no_grad():
                looks = torch.stack([self._alone(row[None], x.clone(), y)[0] for row in vectors])
        except Exception:  # vmap says no in many ways, and a user's module may say anything
            return False
        finally:
            self._module.train(training)
        error, size = (found - expected).norm(), expected.norm()
        return bool(error <= _TOLERANCE * size) and torch.allclose(looked, looks, rtol=_TOLERANCE)

    def _alone(
        self, row: torch.Tensor, x: torch.Tensor, y: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss of one row, and the leaves that autograd can ask for its gradient."""
        trained, fixed = self._parameters(row)
        leaves = {name: value[0].detach().requires_grad_() for name, value in trained.items()}
        outputs = functional_call(self._module, {**leaves, **{name: value[0] for name, value in fixed.items()}}, (x,))
        return self._loss(outputs, y), leaves

    def _probe(self, row: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Loss and gradient of one row by autograd, shape (1 + trainable,)."""
        loss, leaves = self._alone(row, x, y)
        found = torch.zeros(1, 1 + self._layout.trainable, device=row.device)
        found[0, 0] = loss.detach()
        gradients = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
        for slot, value in zip(self._layout.slots, gradients, strict=False):
            _views(found[:, 1:], slot)[0].copy_(value)
        return found[0]

    def _parameters(self, vectors: torch.Tensor) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Trained and frozen parameters by name, as views with a leading axis of rows."""
        trained, fixed = dict[str, torch.Tensor](), dict[str, torch.Tensor]()
        for slot in self._layout.slots:
            (trained if slot.offset < self._layout.trainable else fixed)[slot.name] = _views(vectors, slot)
        return trained, fixed


def _views(rows: torch.Tensor, slot: Slot) -> torch.Tensor:
    shape, stride = (len(rows), *slot.shape), (rows.stride(0), *slot.stride)
    return rows.as_strided(shape, stride, rows.storage_offset() + slot.offset)


@contextmanager
def _reproducible() -> Iterator[None]:
    """Full float32 and always the same algorithm in cuDNN."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
