"""Any rule of aggregation, or a user's own, as a merge. All models are then in memory at once, n x size x 4 bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from coterie.aggregation.interface import Context, Judge, aggregate
from coterie.aggregation.merging import loops
from coterie.aggregation.merging.methods import Merged, checked_weights, none_left
from coterie.aggregation.merging.models import Models
from coterie.layout import Layout


def merge_by_rule(
    rule: Callable[..., Any],
    models: Models,
    weights: Sequence[float],
    *,
    base: torch.Tensor,
    layout: Layout,
    samples: Sequence[int],
    round: int,
    rounds: int,
    judge: Judge | None = None,
) -> Merged:
    """Merge ``models`` by a rule of aggregation (``coterie.aggregation.interface``), which remembers nothing.

    The rule's own row is the first model that has a weight and is finite, so that all who merge the same models in the
    same order get the same; a rule that favours its own row favours that one. It sees the weights, made to sum to 1, as
    ``graph_weights``. A rule that asks for neither these nor ``samples`` ignores them, such as ``krum``. ``base`` is
    the last merged vector (size,), float32; ``samples`` those of each model, n entries. Whoever was ever seen counts
    as a founder. The weights of the outcome are those that the rule recorded; they need not sum to 1.

    Raises what ``merge`` and ``aggregate`` raise.
    """
    given = checked_weights(models.names, weights)
    rows = np.flatnonzero(given)
    names = [models.names[j] for j in rows.tolist()]
    matrix = np.empty((len(rows), models.size), np.float32)
    finite = np.ones(len(rows), np.bool_)
    for i, row in enumerate(rows.tolist()):
        models.read(row, 0, matrix[i])
    loops.look(matrix, finite)
    kept = np.flatnonzero(finite).tolist()
    if not kept:
        raise none_left()
    if len(kept) < len(rows):
        matrix = matrix[kept]
    shares = given[rows[kept]] / given[rows[kept]].max()
    vectors = torch.from_numpy(matrix)
    context = Context(
        base=base,
        own_id=names[kept[0]],
        peer_ids=tuple(names[i] for i in kept[1:]),
        graph_weights=torch.from_numpy((shares / shares.sum()).astype(np.float32)),
        samples=tuple(samples[rows[i]] for i in kept),
        round=round,
        rounds=rounds,
        layout=layout,
        founders=frozenset(models.names),
    )
    found = aggregate(rule, vectors[0], vectors[1:], context, None, judge)
    recorded = {name: found.weights.get(name, 0.0) for name in models.names}
    refused = tuple(name for i, name in enumerate(names) if not finite[i])
    return Merged(found.vector, recorded, refused)
