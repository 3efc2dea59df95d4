"""What an aggregation rule is, and the one door through which received vectors reach it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from coterie.aggregation.rows import Rows
from coterie.errors import CoterieError, LayoutMismatch, PluginError, TrainingDiverged
from coterie.layout import Layout, is_finite
from coterie.spec import Choice


@dataclass(frozen=True)
class Context:
    """What a rule may know besides the vectors. ``n`` is the number of received rows, ``d`` the size of a vector."""

    base: torch.Tensor
    """The peer's vector before its local steps, shape (d,), float32."""
    own_id: str
    peer_ids: tuple[str, ...]
    """The senders, in the order of the received rows."""
    graph_weights: torch.Tensor
    """Metropolis-Hastings weights of the graph, shape (n + 1,), float32, own first, sum 1."""
    samples: tuple[int, ...]
    """Training samples of each peer, n + 1 entries, own first."""
    round: int
    rounds: int
    """How many rounds the federation has; ``round`` counts them from 0."""
    layout: Layout
    founders: frozenset[str]
    """Peers that were members from the start. Only for membership tests: its order has no meaning."""


class Judge(Protocol):
    """Loss and gradient on a peer's held-out data or on the public root sample, and outputs on its training data."""

    def loss(self, vector: torch.Tensor) -> float:
        """Mean loss of the model ``vector``, shape (d,), on the held-out data."""
        ...

    def gradient(self, vector: torch.Tensor) -> torch.Tensor:
        """Gradient of that loss, shape (d,), float32; zero where the layout is not trainable."""
        ...

    def root_gradient(self, vector: torch.Tensor) -> torch.Tensor:
        """Gradient of the mean loss on the root sample. Raises SpecError when the spec has no root sample."""
        ...

    def training_outputs(self, vector: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs of the model ``vector`` on the peer's own training data, and the labels.

        Shapes (m, classes), float32, and (m,), int64; in evaluation mode, in the same order for every vector.
        """
        ...


State = Any
"""What a rule remembers between rounds: explicit, picklable, None at first, never mutated in place.

A rule that learns trust keeps it in ``state["trust"]``, a dict from peer id to finite float.
"""

Rule = Callable[..., tuple[torch.Tensor, torch.Tensor, State]]
"""``rule(own, received, context, state, judge, **settings) -> (vector (d,), weights (n + 1,) own first, state)``."""


@dataclass(frozen=True)
class Aggregate:
    """What came out of a rule."""

    vector: torch.Tensor
    """Shape (d,), float32, finite. It may be the very tensor that was given as ``own``."""
    weights: dict[str, float]
    """By peer id, the own one included."""
    trust: dict[str, float] | None
    """By peer id, also of peers not heard this round; None for a rule that learns no trust."""
    state: State
    refused: tuple[str, ...]
    """Peers whose row held a value that is not finite."""


def aggregate(
    rule: Callable[..., Any],
    own: torch.Tensor,
    received: Rows,
    context: Context,
    state: State,
    judge: Judge | None,
) -> Aggregate:
    """Refuse rows that are not finite, apply ``rule`` to the others and check what it returns.

    ``own`` has shape (d,), ``received`` (n, d), both float32. A refused row's graph weight goes to ``own``. With no
    rows left the rule is called with n = 0. ``judge`` may be None for a rule that asks nothing of it. A linear rule may
    be given a list of vectors of the right shape: if their sum is finite each of them is, so they are read once.

    Raises LayoutMismatch for a wrong shape or dtype, TrainingDiverged when ``own`` or the base is not finite, and
    PluginError when the rule raises anything but a CoterieError or returns what is not a result.
    """
    where = f"peer {context.own_id[:12]}, round {context.round}"
    if not isinstance(received, torch.Tensor):
        at_once = _combine_at_once(rule, own, received, context, state)
        if at_once is not None:
            return at_once
        received = torch.stack([*received]) if received else own.new_empty(0, len(own))
    _check_shapes(own, received, context, where)
    for vector, what in ((own, "the peer's own vector"), (context.base, "the vector before the local steps")):
        if not is_finite(vector):
            raise TrainingDiverged(
                f"{what} has a value that is not finite", where=where, remedy="Lower training.lr or set training.clip."
            )
    received, context, refused = _refuse(received, context)
    name = rule.component.name if isinstance(rule, Choice) else getattr(rule, "__name__", repr(rule))
    try:
        result = rule(own, received, context, state, judge)
    except CoterieError:
        raise
    except Exception as error:
        raise PluginError(
            f"the rule {name!r} raised {type(error).__name__}: {error}", where=where, remedy="Mend the rule."
        ) from error
    fault = _fault(result, own.shape, len(received) + 1)
    if fault:
        raise PluginError(
            f"the rule {name!r} returned {fault}",
            where=where,
            remedy="A rule returns (vector (d,) float32, weights (n + 1,) own first, state), all finite.",
        )
    return _outcome(result, context, refused)


def _combine_at_once(
    rule: Callable[..., Any], own: torch.Tensor, received: Sequence[torch.Tensor], context: Context, state: State
) -> Aggregate | None:
    """What a linear rule makes of vectors where they lie; None where the sum is not finite: then look closer."""
    result = rule(own, received, context, state, None)
    return _outcome(result, context, ()) if is_finite(result[0]) and is_finite(result[1]) else None


def _outcome(result: tuple[torch.Tensor, torch.Tensor, State], context: Context, refused: tuple[str, ...]) -> Aggregate:
    vector, weights, state = result
    trust = state.get("trust") if isinstance(state, Mapping) else None
    return Aggregate(
        vector=vector.detach(),
        weights=dict(zip((context.own_id, *context.peer_ids), weights.tolist(), strict=True)),
        trust=None if trust is None else dict(trust),
        state=state,
        refused=refused,
    )


def _check_shapes(own: torch.Tensor, received: torch.Tensor, context: Context, where: str) -> None:
    size, count = context.layout.size, len(context.peer_ids)
    remedy = "All peers must use the same model; vectors travel as float32."
    for tensor, shape, what in (
        (own, (size,), "the peer's own vector"),
        (context.base, (size,), "the vector before the local steps"),
        (received, (count, size), "the matrix of received vectors"),
        (context.graph_weights, (count + 1,), "the graph weights"),
    ):
        if tuple(tensor.shape) != shape or tensor.dtype != torch.float32:
            raise LayoutMismatch(
                f"{what} has shape {tuple(tensor.shape)} and {tensor.dtype}, not {shape} and torch.float32",
                where=where,
                remedy=remedy,
            )
    if len(context.samples) != count + 1 or len({context.own_id, *context.peer_ids}) != count + 1:
        raise LayoutMismatch(
            f"{count} rows need {count} different senders and {count + 1} sample counts",
            where=where,
            remedy="Keep one row a sender.",
        )


def _refuse(received: torch.Tensor, context: Context) -> tuple[torch.Tensor, Context, tuple[str, ...]]:
    """The finite rows and their context; no copy when all are."""
    if received.numel() == 0:
        return received, context, ()
    sums = received.sum(dim=1)
    if math.isfinite(float(sums.sum())):
        return received, context, ()
    finite = sums.isfinite()
    for j in (~finite).nonzero().flatten().tolist():
        finite[j] = is_finite(received[j])  # the sum of large finite values may overflow
    if bool(finite.all()):
        return received, context, ()
    kept = finite.nonzero().flatten().tolist()
    refused = tuple(peer for peer, fine in zip(context.peer_ids, finite.tolist(), strict=True) if not fine)
    weights = context.graph_weights[[0, *(j + 1 for j in kept)]]
    weights[0] += context.graph_weights[1:][~finite].sum()
    context = replace(
        context,
        peer_ids=tuple(context.peer_ids[j] for j in kept),
        graph_weights=weights,
        samples=(context.samples[0], *(context.samples[j + 1] for j in kept)),
    )
    return received[finite], context, refused


def _fault(result: object, shape: torch.Size, count: int) -> str:
    """What is wrong with a rule's ``result``; empty when nothing is."""
    if not isinstance(result, tuple) or len(result) != 3:
        return f"{type(result).__name__}, not three things"
    vector, weights, state = result
    trust = state.get("trust") if isinstance(state, Mapping) else None
    if trust is not None and not (
        isinstance(trust, Mapping)
        and all(
            isinstance(peer, str) and isinstance(value, int | float) and -math.inf < value < math.inf
            for peer, value in trust.items()
        )
    ):
        return 'a state whose "trust" is no dict from peer id to finite float'
    for tensor, wanted, what in ((vector, shape, "vector"), (weights, torch.Size([count]), "weights")):
        if not isinstance(tensor, torch.Tensor):
            return f"{type(tensor).__name__} as {what}, not a tensor"
        if tensor.shape != wanted or not tensor.is_floating_point():
            return f"{what} of shape {tuple(tensor.shape)} and {tensor.dtype}, not {tuple(wanted)} and torch.float32"
        if not is_finite(tensor):
            return f"{what} with a value that is not finite"
    return f"a vector of {vector.dtype}, not torch.float32" if vector.dtype != torch.float32 else ""
