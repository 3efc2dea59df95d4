"""Descent of a dense layer within the span of the samples it sees.

The gradient of a dense layer's weights W (out, f) over a minibatch X_b (B, f) is G X_b, with G (out, B) the loss's
gradient by the layer's products. If all minibatches of a fit come from the same few samples X (m, f), gradient descent
never leaves W0 + C X. So the products X W^T are made once, each step corrects them by the Gram matrix,

    X W^T  <-  X W^T - lr (X X_b^T) G^T,        |G X_b|^2 = sum (G^T G) * (X_b X_b^T),

and W itself is written once, at the end. The numbers are those of ordinary descent within rounding. It pays where a
fit sees each sample more than once: five steps of 32 over 60 samples take half the multiplications.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Descent:
    """p <- p - lr (clip(g) + beta V): a step of plain gradient descent, with quasi-global momentum if there is a V."""

    lr: float
    clip: float = 0.0
    """Largest Euclidean norm of a gradient; 0 does not clip."""
    velocity: torch.Tensor | None = None
    """V, shape (k,), read only."""
    beta: float = 0.0


def pays(samples: int, drawn: int, out: int, features: int) -> bool:
    """Whether descent within the span takes fewer multiplications; ``drawn``: the sizes of all minibatches together."""
    within = samples * (2 * out * features + samples * features + drawn * out)
    return within < 2 * drawn * out * features


class Span:
    """A dense layer's weights during one fit. ``x``: (m, f); ``weight``: (out, f), good again after ``finish``.

    ``velocity``: V's part for the weights, (out, f).
    """

    def __init__(self, x: torch.Tensor, weight: torch.Tensor, descent: Descent, velocity: torch.Tensor | None) -> None:
        self._x, self._weight, self._descent, self._velocity = x, weight, descent, velocity
        self.products = torch.mm(x, weight.t())
        """X W^T, shape (m, out), as after the last step."""
        self._gram = torch.mm(x, x.t())
        self._moved = torch.zeros_like(self.products)
        self._drift = None if velocity is None else torch.mm(x, velocity.t())
        self._steps = 0

    def square(self, batch: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """The squared norm of the weights' gradient, shape (). batch: (B,) int64; gradient: G^T, shape (B, out)."""
        gram = self._gram.index_select(0, batch).index_select(1, batch)
        return torch.dot(gram.view(-1), torch.mm(gradient, gradient.t()).view(-1)).clamp_(min=0)

    def step(self, batch: torch.Tensor, gradient: torch.Tensor, scale: float) -> None:
        """Go down ``scale`` times the gradient of a minibatch."""
        rate = -self._descent.lr * scale
        self._steps += 1
        self._moved.index_add_(0, batch, gradient, alpha=rate)
        self.products.addmm_(self._gram.index_select(0, batch).t(), gradient, alpha=rate)
        if self._drift is not None:
            self.products.sub_(self._drift, alpha=self._descent.lr * self._descent.beta)

    def finish(self) -> None:
        """Write the weights."""
        self._weight.addmm_(self._moved.t(), self._x)
        if self._velocity is not None:
            self._weight.sub_(self._velocity, alpha=self._steps * self._descent.lr * self._descent.beta)
