"""Forward and backward passes written by hand, for plain sequences of layers: the same numbers without autograd.

A small module's step is mostly bookkeeping: a graph, a tensor for every result, layouts that suit one kernel and not
the next. Here every buffer is made once for a batch size, gradients are written where the flat gradient vector wants
them, and the batch is the innermost axis of all activations, so that

- a convolution is one multiplication of matrices for each row of the output, on an input unfolded along its width only
  (after Cho and Brand, "MEC: memory-efficient convolution for deep neural network", 2017, section 3);
- max pooling is vectorised over the batch, whatever the number of channels;
- bias and ReLU come after a pooling that follows them, on a quarter of the elements: both keep order.

Nothing but the vector and the samples decides a result: no other peer's samples enter a buffer while it is read.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from coterie.training.layers import Bias, Convolution, Dense, Flatten, Layer, MaxPool, Relu, Shape, shapes
from coterie.training.span import Span
from coterie.training.vector import view_of


class Pass:
    """Buffers and views for batches of ``batch`` samples of ``shape``; with gradients where ``training``.

    ``outputs``: (classes, batch) after ``forward``. ``output_gradient``: the same shape, to be filled in before
    ``backward``; it is used up. With ``spanned`` the first layer is dense, and its weights are in a ``Span``.
    """

    def __init__(
        self, layers: Sequence[Layer], shape: Shape, batch: int, training: bool, spanned: bool = False
    ) -> None:
        self._rows = torch.empty(0 if spanned else batch, math.prod(shape))
        self._columns = self._rows.t()
        self._transposed = isinstance(layers[0], Convolution)
        first = _Node(shape, self._columns.contiguous() if self._transposed else self._columns, torch.empty(0))
        self._first, self._stages, node = first, list[_Stage](), first
        for layer, after in zip(layers, shapes(layers, shape) or (), strict=True):
            if isinstance(layer, Flatten):
                node = _Node(after, node.value, node.gradient)
                continue
            stage = (
                _SpannedStage(layer, after, batch)
                if spanned and isinstance(layer, Dense) and not self._stages
                else _STAGES[type(layer)](layer, node, after, training)
            )
            self._stages.append(stage)
            node = stage.result
        self.outputs, self.output_gradient = node.value, node.gradient
        products = self._stages[0].result
        self._first_products, self.product_gradient = products.value.t(), products.gradient.t()
        """(batch, out) of a spanned first layer: what it makes, and the loss's gradient by that after ``backward``."""

    def bind(self, vector: torch.Tensor, gradient: torch.Tensor) -> None:
        """Read parameters from ``vector`` (layout.size,), write into ``gradient`` (layout.trainable,) from now on."""
        for stage in self._stages:
            stage.bind(vector, gradient)

    def load(self, x: torch.Tensor, chosen: torch.Tensor) -> None:
        """Take in ``x[chosen]``: x (n, features) float32, chosen (batch,) int64."""
        torch.index_select(x, 0, chosen, out=self._rows)
        self._transpose()

    def load_rows(self, x: torch.Tensor) -> None:
        """Take in ``x``, shape (batch, features)."""
        self._rows.copy_(x)
        self._transpose()

    def load_products(self, span: Span, batch: torch.Tensor) -> None:
        """Take in a span's products of ``batch`` (batch,) int64: positions among its samples."""
        torch.index_select(span.products, 0, batch, out=self._first_products)

    def forward(self) -> torch.Tensor:
        for stage in self._stages:
            stage.forward()
        return self.outputs

    def backward(self, lr: float | None = None) -> None:
        """Write the gradients; or, with a step size, none of them but the parameters less ``lr`` times theirs."""
        for stage in reversed(self._stages):
            stage.backward(lr)

    def _transpose(self) -> None:
        if self._transposed:
            self._first.value.copy_(self._columns)


@dataclass
class _Node:
    """Activations between two stages: ``value`` and ``gradient`` (size, batch); an empty one where none is wanted."""

    shape: Shape
    value: torch.Tensor
    gradient: torch.Tensor

    @classmethod
    def new(cls, shape: Shape, batch: int, training: bool) -> _Node:
        size = math.prod(shape)
        return cls(shape, torch.empty(size, batch), torch.empty(size, batch) if training else torch.empty(0))

    @property
    def wanted(self) -> bool:
        """Whether there is a gradient to write."""
        return bool(self.gradient.numel())

    def images(self, tensor: torch.Tensor) -> torch.Tensor:
        """(channels, height, width, batch)"""
        return tensor.view(*self.shape, -1)


class _Stage(ABC):
    result: _Node

    def bind(self, vector: torch.Tensor, gradient: torch.Tensor) -> None:  # noqa: B027 - most have no parameters
        """Read parameters from ``vector`` and write gradients into ``gradient`` from now on."""

    @abstractmethod
    def forward(self) -> None: ...

    @abstractmethod
    def backward(self, lr: float | None) -> None: ...


class _SpannedStage(_Stage):
    """A dense layer at the beginning: its weights are a ``span``'s, which whoever runs the pass moves."""

    def __init__(self, layer: Dense, shape: Shape, batch: int) -> None:
        self._layer = layer
        self.result = _Node(shape, torch.empty(batch, *shape).t(), torch.empty(batch, *shape).t())
        self._ones = torch.ones(batch)

    def bind(self, vector: torch.Tensor, gradient: torch.Tensor) -> None:
        if self._layer.bias is not None:
            self._bias, self._bias_gradient = view_of(vector, self._layer.bias), view_of(gradient, self._layer.bias)

    def forward(self) -> None:
        if self._layer.bias is not None:
            self.result.value.add_(self._bias[:, None])

    def backward(self, lr: float | None) -> None:
        if self._layer.bias is not None:
            torch.mv(self.result.gradient, self._ones, out=self._bias_gradient)


class _DenseStage(_Stage):
    def __init__(self, layer: Dense, source: _Node, shape: Shape, training: bool) -> None:
        self._layer, self._source, self._wanted = layer, source, source.wanted
        self.result = _Node.new(shape, source.value.shape[1], training)
        self._input_t = source.value.t()
        self._ones = torch.ones(source.value.shape[1])

    def bind(self, vector: torch.Tensor, gradient: torch.Tensor) -> None:
        weight, bias = self._layer.weight, self._layer.bias
        self._weight, self._weight_gradient = view_of(vector, weight), view_of(gradient, weight)
        self._weight_t = self._weight.t()
        if bias is not None:
            self._bias, self._bias_gradient = view_of(vector, bias)[:, None], view_of(gradient, bias)

    def forward(self) -> None:
        if self._layer.bias is None:
            torch.mm(self._weight, self._source.value, out=self.result.value)
        else:
            torch.addmm(self._bias, self._weight, self._source.value, out=self.result.value)

    def backward(self, lr: float | None) -> None:
        gradient = self.result.gradient
        if self._wanted:
            torch.mm(self._weight_t, gradient, out=self._source.gradient)
        if lr is not None:  # the product goes straight into the weights: two passes over them fewer
            self._weight.addmm_(gradient, self._input_t, alpha=-lr)
            if self._layer.bias is not None:
                self._bias[:, 0].addmv_(gradient, self._ones, alpha=-lr)
            return
        torch.mm(gradient, self._input_t, out=self._weight_gradient)
        if self._layer.bias is not None:
            torch.mv(gradient, self._ones, out=self._bias_gradient)


class _ConvolutionStage(_Stage):
    """Unfolded input P (H + 2p, kw, C, W_out B): output row i is weight (out, kh kw C) times rows i s .. i s + kh of P.

    The products are batched over i; the batch's matrices overlap in memory.
    """

    def __init__(self, layer: Convolution, source: _Node, shape: Shape, training: bool) -> None:
        self._layer, self._source, self._wanted = layer, source, source.wanted
        (depth, height, width), batch = source.shape, source.value.shape[1]
        (out, rows, columns), (kh, kw) = shape, layer.weight.shape[2:]
        (p, q), (s, t) = layer.padding, layer.stride
        self.result = _Node.new(shape, batch, training)
        line = columns * batch
        unfolded = torch.zeros(height + 2 * p, kw, depth, columns, batch)
        spans = [_span(j, q, t, width, columns) for j in range(kw)]
        images = source.images(source.value).permute(1, 0, 2, 3)
        self._copies = [
            (unfolded[p : p + height, j, :, to], images[:, :, of]) for j, (to, of) in enumerate(spans) if to is not None
        ]
        patch = kw * depth * line
        self._patches = unfolded.as_strided((rows, kh * kw * depth, line), (s * patch, line, 1))
        self._output = self.result.value.view(out, rows, line).permute(1, 0, 2)
        if not training:
            return
        self._gradient = self.result.gradient.view(out, rows, line).permute(1, 0, 2)
        self._patches_t = self._patches.transpose(1, 2)
        self._each_row = torch.empty(rows, out, kh * kw * depth)
        self._rows_split = self._each_row.view(rows, out, kh, kw, depth)
        if not self._wanted:
            return
        self._unfolded_gradient = torch.empty_like(unfolded)
        flat = self._unfolded_gradient.view(height + 2 * p, kw * depth, line)
        self._targets = [flat[i : i + s * (rows - 1) + 1 : s] for i in range(kh)]
        into = source.images(source.gradient).permute(1, 0, 2, 3)
        self._folds = [
            (into[:, :, of], self._unfolded_gradient[p : p + height, j, :, to])
            for j, (to, of) in enumerate(spans)
            if to is not None
        ]

    def bind(self, vector: torch.Tensor, gradient: torch.Tensor) -> None:
        self._weight = view_of(vector, self._layer.weight).permute(0, 2, 3, 1)
        self._weight_gradient = view_of(gradient, self._layer.weight).permute(0, 2, 3, 1)

    def forward(self) -> None:
        for target, part in self._copies:
            target.copy_(part)
        weight = self._matrix()
        torch.bmm(weight.expand(len(self._output), *weight.shape), self._patches, out=self._output)

    def backward(self, lr: float | None) -> None:
        torch.bmm(self._gradient, self._patches_t, out=self._each_row)
        torch.sum(self._rows_split, 0, out=self._weight_gradient)
        if self._wanted:
            self._backward_to_input()
        if lr is not None:
            self._weight.sub_(self._weight_gradient, alpha=lr)

    def _backward_to_input(self) -> None:
        self._unfolded_gradient.zero_()
        out, kh, kw, depth = self._weight.shape
        weight, rows = self._matrix().view(out, kh, kw * depth), len(self._output)
        for i, target in enumerate(self._targets):
            target.baddbmm_(weight[:, i].t().expand(rows, kw * depth, out), self._gradient)
        self._source.gradient.zero_()
        for target, part in self._folds:
            target.add_(part)

    def _matrix(self) -> torch.Tensor:
        """(out, kh kw C): a view of channels-last weights, a copy of others."""
        return self._weight.reshape(len(self._weight), -1)


class _BiasStage(_Stage):
    def __init__(self, layer: Bias, source: _Node, shape: Shape, training: bool) -> None:
        self._layer, self.result = layer, source
        self._value = source.value.view(shape[0], -1)
        self._gradient = source.gradient.view(shape[0], -1) if training else source.gradient

    def bind(self, vector: torch.Tensor, gradient: torch.Tensor) -> None:
        self._bias, self._bias_gradient = (
            view_of(vector, self._layer.bias)[:, None],
            view_of(gradient, self._layer.bias),
        )

    def forward(self) -> None:
        self._value.add_(self._bias)

    def backward(self, lr: float | None) -> None:
        torch.sum(self._gradient, 1, out=self._bias_gradient)
        if lr is not None:
            self._bias[:, 0].sub_(self._bias_gradient, alpha=lr)


class _ReluStage(_Stage):
    def __init__(self, layer: Relu, source: _Node, shape: Shape, training: bool) -> None:
        self.result = source

    def forward(self) -> None:
        self.result.value.relu_()

    def backward(self, lr: float | None) -> None:
        gradient = self.result.gradient
        torch.ops.aten.threshold_backward.grad_input(gradient, self.result.value, 0, grad_input=gradient)


class _MaxPoolStage(_Stage):
    """Channels count as images and the batch as channels: what torch takes for channels-last."""

    def __init__(self, layer: MaxPool, source: _Node, shape: Shape, training: bool) -> None:
        self._settings = list(layer.kernel), list(layer.stride), list(layer.padding), [1, 1], False
        batch = source.value.shape[1]
        self.result = _Node.new(shape, batch, training)
        self._input = source.images(source.value).permute(0, 3, 1, 2)
        self._output = self.result.images(self.result.value).permute(0, 3, 1, 2)
        self._indices = torch.empty(*shape, batch, dtype=torch.int64).permute(0, 3, 1, 2)
        if training:
            self._input_gradient = source.images(source.gradient).permute(0, 3, 1, 2)
            self._gradient = self.result.images(self.result.gradient).permute(0, 3, 1, 2)

    def forward(self) -> None:
        torch.ops.aten.max_pool2d_with_indices.out(
            self._input, *self._settings, out=self._output, indices=self._indices
        )

    def backward(self, lr: float | None) -> None:
        torch.ops.aten.max_pool2d_with_indices_backward.grad_input(
            self._gradient, self._input, *self._settings, self._indices, grad_input=self._input_gradient
        )


_STAGES: dict[type, type] = {
    Dense: _DenseStage,
    Convolution: _ConvolutionStage,
    Bias: _BiasStage,
    Relu: _ReluStage,
    MaxPool: _MaxPoolStage,
}


def _span(j: int, padding: int, stride: int, width: int, columns: int) -> tuple[slice | None, slice]:
    """Output columns that meet a real input column at kernel column j, and those input columns."""
    first = max(0, -(-(padding - j) // stride))
    last = min(columns - 1, (width - 1 + padding - j) // stride)
    if first > last:
        return None, slice(0)
    start = first * stride + j - padding
    return slice(first, last + 1), slice(start, start + (last - first) * stride + 1, stride)
