"""Weights learned by gradient descent: Papaya's trust as published, and L2C for personal models.

Neither looks at the geometry of the vectors, so neither is robust: a row of garbage enters the mixture like any other.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from coterie import registry, seeds
from coterie.aggregation.interface import Context, Judge, State
from coterie.aggregation.means import Result
from coterie.aggregation.rows import Floats, combine, own_alone, products_with, recorded
from coterie.errors import SpecError

Rate = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8
"""Adam's own defaults (Kingma and Ba, 2015)."""


@registry.rules.register("papaya")
def papaya(
    own: torch.Tensor,
    received: torch.Tensor,
    context: Context,
    state: State,
    judge: Judge | None,
    *,
    passes: Annotated[int, Field(ge=0)] = 4,
    trust_lr: Rate = 1e-4,
    trust_batch: Count = 500,
) -> Result:
    """Papaya's learned trust, as published: weights that lower the loss of mixed outputs on the training data.

    w_j is the trust in partner j, f_j(x) the outputs of its model, f_i those of the own one, S = sum_j w_j over the n
    partners heard. In each of ``passes`` passes over the peer's own training data, for each batch of ``trust_batch``
    samples, plain SGD with step size ``trust_lr`` on w alone lowers

        cross-entropy of  [1 - S] f_i(x) + sum_j w_j f_j(x),   with [1 - S] held constant (no gradient)

    and then  vector = (1 - S) own + sum_j w_j M_j.  A partner's w_j starts at 1 / (n + 1), n of the round it is first
    heard in, and is kept from round to round. Samples are reshuffled for each pass; models are in evaluation mode.

    Kept because it is the published rule, not because it is good: the own data were trained on, the step is too small
    to move w away from uniform even where a partner sends garbage, [1 - S] has no gradient, so w_j and S may leave
    [0, 1] and the own weight may become negative, and mixing outputs is not mixing parameters. See ``clip_and_trust``.

    The paper does not say what to do with outputs that are not finite: such a partner has weight 0 in this round and
    keeps its trust; where the new weights or the mixture would not be finite, own and the old trust are kept.

    ``passes``: how often the peer's data are gone through. ``trust_lr``: step size of SGD on the weights.
    ``trust_batch``: samples a step.

    ``own`` (d,), ``received`` (n, d), float32; weights in float64. State: {"trust": {peer id: w_j}}. Raises SpecError
    without a judge. Source: "PPAIA: Peer-to-Peer AI and Analytics", arXiv 2303.06189, and its notebooks.
    """
    if not len(received):
        return own, torch.ones(1), state
    if judge is None:
        raise SpecError(
            "papaya needs the peer's training data", where="aggregation.rule", remedy="Choose another rule."
        )
    known: dict[str, float] = (state or {}).get("trust", {})
    start = 1.0 / (len(received) + 1)
    trust = np.array([known.get(peer, start) for peer in context.peer_ids])
    outputs, labels = judge.training_outputs(own)
    others = torch.stack([judge.training_outputs(row)[0] for row in received]).double()
    usable = others.isfinite().flatten(1).all(dim=1)
    learned = torch.from_numpy(trust)[usable]
    others = others[usable]
    for number in range(passes):
        order = seeds.generator(context.round, "papaya", context.own_id, number).permutation(len(labels))
        for batch in torch.from_numpy(order).split(trust_batch):  # type: ignore[no-untyped-call]  # torch leaves it so
            learned = learned - trust_lr * _trust_gradient(
                learned, outputs[batch].double(), others[:, batch], labels[batch]
            )
    shares = np.zeros(len(received))
    shares[usable.numpy()] = learned.numpy()
    weights = np.append(1.0 - shares.sum(), shares)
    fits = bool((np.abs(weights) < np.finfo(np.float32).max).all())
    vector = combine(own, received, weights) if fits else own
    if not fits or not bool(vector.isfinite().all()):
        return own, own_alone(len(weights)), state
    trust[usable.numpy()] = learned.numpy()
    state = {"trust": {**known, **dict(zip(context.peer_ids, trust.tolist(), strict=True))}}
    return vector, recorded(weights), state


def _trust_gradient(trust: torch.Tensor, own: torch.Tensor, others: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """d/dw_j of the cross-entropy of (1 - S) own + sum_j w_j others_j, with 1 - S constant; shape (n,).

    ``own`` (b, classes), ``others`` (n, b, classes), ``labels`` (b,). With p = softmax of the mixed outputs the
    derivative by an output is (p - onehot) / b, so by w_j it is the sum over samples and classes of that times f_j.
    """
    mixed = (1.0 - trust.sum()) * own + torch.einsum("j,jbc->bc", trust, others)
    slope = torch.softmax(mixed, dim=1)
    slope[torch.arange(len(labels)), labels] -= 1.0
    return torch.einsum("bc,jbc->j", slope / len(labels), others)


@registry.rules.register("l2c")
def l2c(
    own: torch.Tensor,
    received: torch.Tensor,
    context: Context,
    state: State,
    judge: Judge | None,
    *,
    steps: Count = 3,
    alpha_lr: Rate = 0.1,
) -> Result:
    """Learning to collaborate: softmax weights that lower the held-out loss of the mixture; for personal models.

        w = softmax(alpha) over own and the n received,   vector = sum_j w_j M_j,   M_0 = own

    alpha by ``steps`` steps of Adam, step size ``alpha_lr``, on L(sum_j w_j M_j), L the mean loss on the peer's
    held-out data. With g = grad L at the mixture m:  dL/dalpha_j = w_j <g, M_j - m>. alpha starts at 0 for every peer
    and is kept for those not heard; Adam starts anew each round, so that one round's gradient does not outlive it.

    A peer whose data differ earns little weight here although it is honest: use it where each peer wants a model for
    its own data. Where the gradient or the mixture is not finite, rows whose own held-out loss is not finite are left
    out; if that does not help, own is kept and alpha stays.

    ``steps``: Adam steps a round, each one gradient on the held-out data. ``alpha_lr``: about how far an alpha moves
    in a step.

    ``own`` (d,), ``received`` (n, d), float32; weights in float64. State: {"alpha": {peer id: alpha_j}, "trust": {peer
    id: its weight when last heard}}; alpha holds the own one too. Raises SpecError without held-out data.
    Source: Li et al., "Learning to collaborate in decentralized learning of personalized models", CVPR 2022.
    """
    if not len(received):
        return own, torch.ones(1), state
    if judge is None:
        raise SpecError("l2c needs held-out data", where="data.validation", remedy="Set it above 0.")
    old = state or {"alpha": {}, "trust": {}}
    ids = (context.own_id, *context.peer_ids)
    start = np.array([old["alpha"].get(peer, 0.0) for peer in ids])
    used = np.ones(len(ids), dtype=np.bool_)
    alpha = _learn_alpha(own, received, start, used, judge, steps, alpha_lr)
    if alpha is None:
        used[1:] = [np.isfinite(judge.loss(row)) for row in received]
        alpha = _learn_alpha(own, received, start, used, judge, steps, alpha_lr)
    if alpha is None:
        return own, own_alone(len(ids)), state
    weights = _softmax(alpha, used)
    vector = combine(own, received, weights)
    state = {
        "alpha": {**old["alpha"], **dict(zip(ids, alpha.tolist(), strict=True))},
        "trust": {**old["trust"], **dict(zip(ids[1:], weights[1:].tolist(), strict=True))},
    }
    return vector, recorded(weights), state


def _learn_alpha(
    own: torch.Tensor,
    received: torch.Tensor,
    alpha: Floats,
    used: NDArray[np.bool_],
    judge: Judge,
    steps: int,
    lr: float,
) -> Floats | None:
    """alpha after Adam's steps; None where a gradient was not finite."""
    first, second = np.zeros_like(alpha), np.zeros_like(alpha)
    for step in range(1, steps + 1):
        weights = _softmax(alpha, used)
        gradient = judge.gradient(combine(own, received, weights))
        if not bool(gradient.isfinite().all()):
            return None
        slopes = products_with(gradient, own, received)
        slope = np.where(used, weights * (slopes - weights @ np.where(used, slopes, 0.0)), 0.0)
        if not np.isfinite(slope).all():
            return None
        first = _BETA1 * first + (1.0 - _BETA1) * slope
        second = _BETA2 * second + (1.0 - _BETA2) * slope**2
        root = np.sqrt(second / (1.0 - _BETA2**step))
        alpha = alpha - lr * (first / (1.0 - _BETA1**step)) / (root + _EPSILON)
    return alpha


def _softmax(alpha: Floats, used: NDArray[np.bool_]) -> Floats:
    powers: Floats = np.where(used, np.exp(alpha - alpha[used].max()), 0.0)
    powers /= powers.sum()
    return powers
