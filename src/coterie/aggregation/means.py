"""Weighted means: the rules for federations in which every peer is trusted.

The trait ``linear`` says that a rule's weights follow from the context alone, so that it may be given the received
vectors where they lie, one by one, instead of as a matrix.
"""

from __future__ import annotations

import numpy as np
import torch

from coterie import registry
from coterie.aggregation.interface import Context, Judge, State
from coterie.aggregation.rows import Floats, Rows, combine, recorded

Result = tuple[torch.Tensor, torch.Tensor, State]


@registry.rules.register("mean", linear=True)
def mean(own: torch.Tensor, received: Rows, context: Context, state: State, judge: Judge | None) -> Result:
    """The plain mean: (own + sum_j M_j) / (n + 1).

    ``own`` has shape (d,), ``received`` (n, d) with rows M_j, float32. The state passes through.
    """
    return _weighted(own, received, np.ones(len(received) + 1), state)


@registry.rules.register("weighted_mean", linear=True)
def weighted_mean(own: torch.Tensor, received: Rows, context: Context, state: State, judge: Judge | None) -> Result:
    """The mean by training samples: sum_j m_j M_j / sum_j m_j, own included; m_j = ``context.samples``.

    When no peer has a sample, own is kept. A peer that overstates its samples gains weight: trust all, or use another
    rule. Source: McMahan et al., "Communication-efficient learning of deep networks from decentralized data", 2017,
    algorithm 1 (FederatedAveraging).
    """
    return _weighted(own, received, np.array(context.samples, dtype=np.float64), state)


@registry.rules.register("metropolis", linear=True)
def metropolis(own: torch.Tensor, received: Rows, context: Context, state: State, judge: Judge | None) -> Result:
    """The mean by the graph: W_ii own + sum_j W_ij M_j, with the Metropolis-Hastings weights W of the graph.

    W = ``context.graph_weights``, see ``metropolis_weights``. Source: Xiao, Boyd and Lall, "A scheme for robust
    distributed sensor fusion based on average consensus", 2005.
    """
    return _weighted(own, received, context.graph_weights.double().numpy(), state)


def _weighted(own: torch.Tensor, received: Rows, shares: Floats, state: State) -> Result:
    total = shares.sum()
    weights = shares / total if total > 0 else np.eye(1, len(shares))[0]
    return combine(own, received, weights), recorded(weights), state
