"""Losses and gradients of minibatches, by the kernels of ``kernels`` where they know the module, else not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from coterie.training import losses
from coterie.training.kernels import Pass
from coterie.training.layers import Layer, Shape, shapes
from coterie.training.sequences import recognise
from coterie.training.vector import VectorModule

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
    rows = labels.split([*sizes])  # type: ignore[no-untyped-call]
    return [torch.zeros(classes, len(row)).scatter_(0, row[None], -1 / len(row)) for row in rows]


_BY_HAND: dict[object, ByHand] = {losses.cross_entropy: _cross_entropy, losses.mse: _mse}


class Engine:
    """The kernels for one bound module. ``loss``: cross_entropy or mse of ``coterie.training.losses`` for fits."""

    def __init__(self, bound: VectorModule, loss: object) -> None:
        self._bound, self._loss = bound, _BY_HAND.get(loss)
        self._layers: tuple[Layer, ...] | None = None
        self._shape: Shape = ()
        self._passes: dict[tuple[int, bool], Pass] = {}

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
        self, x: torch.Tensor, y: torch.Tensor, batches: Sequence[torch.Tensor], lr: float | None = None
    ) -> Iterator[torch.Tensor] | None:
        """For each batch of positions (B,), its gradient in the bound module's ``gradient`` and its loss; or None.

        With a step size ``lr`` the bound vector goes down that gradient at once, and ``gradient`` means nothing.
        None where the kernels cannot do the module, the loss, the samples or the labels.
        """
        if self._loss is None or not len(x) or y.dtype is not torch.int64 or y.dim() != 1 or not self.takes(x):
            return None
        labels = y.index_select(0, torch.cat([*batches]))
        (*_, (classes,)) = shapes(self._layers or (), self._shape) or ((0,),)
        least, most = labels.aminmax()
        if int(least) < 0 or int(most) >= classes:
            return None
        return self._each(self._loss, x, labels, classes, batches, lr)

    def _each(
        self,
        loss: ByHand,
        x: torch.Tensor,
        labels: torch.Tensor,
        classes: int,
        batches: Sequence[torch.Tensor],
        lr: float | None,
    ) -> Iterator[torch.Tensor]:
        sizes = [batch.shape[0] for batch in batches]
        flat = x.view(len(x), -1)
        passes = {size: self._pass(size, True) for size in dict.fromkeys(sizes)}
        for batch, size, wanted in zip(batches, sizes, _wanted(labels, sizes, classes), strict=True):
            run = passes[size]
            run.load(flat, batch)
            value = loss(run.forward(), wanted, run.output_gradient)
            run.backward(lr)
            yield value

    def outputs(self, x: torch.Tensor) -> torch.Tensor:
        """The module's outputs (n, classes) for ``x`` (n, *shape), which it must take."""
        run = self._pass(len(x), False)
        run.load_rows(x.view(len(x), -1))
        return run.forward().t().clone(memory_format=torch.contiguous_format)

    def _pass(self, batch: int, training: bool) -> Pass:
        key = batch, training
        found = self._passes.pop(key, None) or Pass(self._layers or (), self._shape, batch, training)
        found.bind(self._bound.vector, self._bound.gradient)
        self._passes[key] = found
        while len(self._passes) > _PASSES:
            del self._passes[next(iter(self._passes))]
        return found
