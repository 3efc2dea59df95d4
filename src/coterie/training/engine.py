"""Losses and gradients of minibatches, by the kernels of ``kernels`` where they know the module, else not at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch

from coterie.training import losses
from coterie.training.kernels import Pass
from coterie.training.layers import Dense, Flatten, Layer, Shape, shapes
from coterie.training.sequences import recognise
from coterie.training.span import Descent, Span, pays
from coterie.training.vector import VectorModule, view_of

_PASSES = 4
"""Batch sizes whose buffers are kept."""

ByHand = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""``(outputs (classes, B), -onehot / B (classes, B), gradient) -> loss``.

The loss is the mean over the batch; its gradient by the outputs, shape (classes, B), goes into ``gradient``.
"""


def _cross_entropy(outputs: torch.Tensor, wanted: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Gradient (softmax - onehot) / B."""
    logs = torch.log_softmax(outputs, 0)
    loss = torch.dot(logs.view(-1), wanted.view(-1))
    torch.add(wanted, logs.exp_(), alpha=1 / outputs.shape[1], out=gradient)
    return loss


def _mse(outputs: torch.Tensor, wanted: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Gradient 2 (outputs - onehot) / (B classes)."""
    classes, batch = outputs.shape
    torch.add(wanted, outputs, alpha=1 / batch, out=gradient)
    loss = gradient.square().sum() * (batch / classes)
    gradient.mul_(2 / classes)
    return loss


def _wanted(labels: torch.Tensor, sizes: Sequence[int], classes: int) -> Sequence[torch.Tensor]:
    """For each batch -onehot / B, shape (classes, B)."""
    if min(sizes) == max(sizes):
        size = sizes[0]
        return torch.zeros(len(sizes), classes, size).scatter_(1, labels.view(-1, 1, size), -1 / size).unbind(0)
    rows = labels.split([*sizes])  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return [torch.zeros(classes, len(row)).scatter_(0, row[None], -1 / len(row)) for row in rows]


_BY_HAND: dict[object, ByHand] = {losses.cross_entropy: _cross_entropy, losses.mse: _mse}


class Steps(NamedTuple):
    """Minibatches of a fit, each done when its loss, shape (), is asked for. All of them must be."""

    losses: Iterator[torch.Tensor]
    moved: bool
    """Whether the vector goes down the gradient with each, or the gradient is left to use."""


class Engine:
    """The kernels for one bound module. ``loss``: cross_entropy or mse of ``coterie.training.losses`` for fits."""

    def __init__(self, bound: VectorModule, loss: object) -> None:
        self._bound, self._loss = bound, _BY_HAND.get(loss)
        self._layers: tuple[Layer, ...] | None = None
        self._shape: Shape = ()
        self._passes: dict[tuple[int, bool, bool], Pass] = {}

    def takes(self, x: torch.Tensor) -> bool:
        """Whether the kernels can do the module, as it is now, on samples ``x`` (n, *shape)."""
        layers, shape = recognise(self._bound.module, self._bound.layout), tuple(x.shape[1:])
        if layers is None or x.dtype is not torch.float32 or x.device.type != "cpu" or not x.is_contiguous():
            return False
        if layers != self._layers or shape != self._shape:
            after = shapes(layers, shape)
            if after is None or len(after[-1]) != 1:
                return False
            self._layers, self._shape, self._passes = layers, shape, {}
        return True

    def losses(
        self,
        x: torch.Tensor,
        y: torch.Tensor,
        indices: torch.Tensor,
        batches: Sequence[torch.Tensor],
        descent: Descent | None = None,
    ) -> Steps | None:
        """For each batch (B,) of positions in ``indices`` (m,), its loss and its gradient.

        Where the steps have ``moved``, the bound vector has gone down the gradient by ``descent``; else it is in the
        bound module's ``gradient``. None where the kernels cannot do the module, the loss, the samples or the labels.
        """
        if self._loss is None or not len(x) or y.dtype is not torch.int64 or y.dim() != 1 or not self.takes(x):
            return None
        labels = y.index_select(0, indices)
        (*_, (classes,)) = shapes(self._layers or (), self._shape) or ((0,),)
        least, most = labels.aminmax()
        if int(least) < 0 or int(most) >= classes:
            return None
        sizes = [batch.shape[0] for batch in batches]
        labels = labels.index_select(0, torch.cat([*batches]))
        wanted = _wanted(labels, sizes, classes)
        flat = x.view(len(x), -1)
        if descent is not None and self._spans(len(indices), sum(sizes), flat.shape[1]):
            return Steps(self._within_span(self._loss, flat.index_select(0, indices), wanted, batches, descent), True)
        chosen = [indices.index_select(0, batch) for batch in batches]
        rate = None if descent is None or descent.clip else descent
        return Steps(self._each(self._loss, flat, wanted, chosen, rate), rate is not None)

    def _each(
        self,
        loss: ByHand,
        x: torch.Tensor,
        wanted: Sequence[torch.Tensor],
        batches: Sequence[torch.Tensor],
        descent: Descent | None,
    ) -> Iterator[torch.Tensor]:
        passes = {size: self._pass(size, True) for size in dict.fromkeys(map(len, batches))}
        parameters, lr = self._parameters, None if descent is None else descent.lr
        for batch, labels in zip(batches, wanted, strict=True):
            run = passes[len(batch)]
            run.load(x, batch)
            value = loss(run.forward(), labels, run.output_gradient)
            run.backward(lr)
            if descent is not None and descent.velocity is not None:
                parameters.sub_(descent.velocity, alpha=descent.lr * descent.beta)
            yield value

    def _spans(self, samples: int, drawn: int, features: int) -> bool:
        """Whether the first layer is a dense one, not the last, whose span pays."""
        first, *others = [layer for layer in self._layers or () if not isinstance(layer, Flatten)]
        if not isinstance(first, Dense) or not any(isinstance(layer, Dense) for layer in others):
            return False
        return pays(samples, drawn, first.weight.shape[0], features)

    def _within_span(
        self,
        loss: ByHand,
        x: torch.Tensor,
        wanted: Sequence[torch.Tensor],
        batches: Sequence[torch.Tensor],
        descent: Descent,
    ) -> Iterator[torch.Tensor]:
        """``x``: (m, features), the samples that ``batches`` are positions in."""
        weight = next(layer.weight for layer in self._layers or () if isinstance(layer, Dense))
        velocity, rate = descent.velocity, descent.lr * descent.beta
        span = Span(
            x, view_of(self._bound.vector, weight), descent, None if velocity is None else view_of(velocity, weight)
        )
        rest = [slice(0, weight.offset), slice(weight.offset + weight.size, self._bound.layout.trainable)]
        rest = [part for part in rest if part.start < part.stop]
        parameters, gradients = ([whole[part] for part in rest] for whole in (self._parameters, self._bound.gradient))
        drifts = [] if velocity is None else [velocity[part] for part in rest]
        passes = {size: self._pass(size, True, True) for size in dict.fromkeys(map(len, batches))}
        for batch, labels in zip(batches, wanted, strict=True):
            run, scale = passes[len(batch)], 1.0
            run.load_products(span, batch)
            value = loss(run.forward(), labels, run.output_gradient)
            run.backward()
            if descent.clip:
                square = span.square(batch, run.product_gradient) + sum(torch.dot(part, part) for part in gradients)
                scale = descent.clip / max(math.sqrt(float(square)), descent.clip)
            span.step(batch, run.product_gradient, scale)
            for part, gradient in zip(parameters, gradients, strict=True):
                part.sub_(gradient, alpha=descent.lr * scale)
            for part, drift in zip(parameters, drifts, strict=False):
                part.sub_(drift, alpha=rate)
            yield value
        span.finish()

    @property
    def _parameters(self) -> torch.Tensor:
        return self._bound.vector[: self._bound.layout.trainable]

    def outputs(self, x: torch.Tensor) -> torch.Tensor:
        """The module's outputs (n, classes) for ``x`` (n, *shape), which it must take."""
        run = self._pass(len(x), False)
        run.load_rows(x.view(len(x), -1))
        return run.forward().t().clone(memory_format=torch.contiguous_format)

    def _pass(self, batch: int, training: bool, spanned: bool = False) -> Pass:
        key = batch, training, spanned
        found = self._passes.pop(key, None) or Pass(self._layers or (), self._shape, *key)
        found.bind(self._bound.vector, self._bound.gradient)
        self._passes[key] = found
        while len(self._passes) > _PASSES:
            del self._passes[next(iter(self._passes))]
        return found
