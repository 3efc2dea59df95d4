"""Krum and what is built from it: rows are chosen whose nearest neighbours are near. Own is one of the rows.

Symbols: N = n + 1 rows; f = min(ceil(byzantine N), floor(n / 2)) of them may be malicious; the score of a row is the
sum of the squared distances to its max(1, N - f - 2) nearest other rows.
"""

from __future__ import annotations

import numpy as np
import torch

from coterie import registry
from coterie.aggregation import kernels
from coterie.aggregation.byzantine import Byzantine, attackers
from coterie.aggregation.geometry import geometry
from coterie.aggregation.interface import Context, Judge, State
from coterie.aggregation.means import Result
from coterie.aggregation.rows import Floats, combine, recorded


@registry.rules.register("krum")
def krum(
    own: torch.Tensor,
    received: torch.Tensor,
    context: Context,
    state: State,
    judge: Judge | None,
    *,
    byzantine: Byzantine = 0.3,
) -> Result:
    """The one row with the least score, with the symbols of this module; own where it is among equals.

    ``byzantine``: share of the rows that may be malicious. The paper's guarantee asks for N >= 2 f + 3.

    ``own`` (d,), ``received`` (n, d), float32. The state passes through. Source: Blanchard, El Mhamdi, Guerraoui and
    Stainer, "Machine learning with adversaries: Byzantine tolerant gradient descent", NeurIPS 2017, section 4.
    """
    best = int(np.argmin(scores(geometry(own, received).squares, attackers(byzantine, len(received) + 1))))
    weights = torch.zeros(len(received) + 1)
    weights[best] = 1.0
    return (own if best == 0 else received[best - 1].clone()), weights, state


@registry.rules.register("multi_krum")
def multi_krum(
    own: torch.Tensor,
    received: torch.Tensor,
    context: Context,
    state: State,
    judge: Judge | None,
    *,
    byzantine: Byzantine = 0.3,
) -> Result:
    """The mean of the N - f rows with the least scores, with the symbols of this module.

    Of equal scores the earlier row goes first, own before all. ``byzantine``: share of the rows that may be malicious.

    ``own`` (d,), ``received`` (n, d), float32. The state passes through. Source: Blanchard, El Mhamdi, Guerraoui and
    Stainer, "Machine learning with adversaries: Byzantine tolerant gradient descent", NeurIPS 2017, section 6, with
    m = N - f.
    """
    count = len(received) + 1
    lost = attackers(byzantine, count)
    chosen = np.argsort(scores(geometry(own, received).squares, lost), kind="stable")[: count - lost]
    weights = np.zeros(count)
    weights[chosen] = 1.0 / len(chosen)
    return combine(own, received, weights), recorded(weights), state


@registry.rules.register("bulyan")
def bulyan(
    own: torch.Tensor,
    received: torch.Tensor,
    context: Context,
    state: State,
    judge: Judge | None,
    *,
    byzantine: Byzantine = 0.2,
) -> Result:
    """Krum again and again, then in each coordinate the mean of the values nearest to the median of those chosen.

    N - 2 f times the row that Krum chooses among those left is moved to the chosen ones; in each coordinate the result
    is the mean of the N - 4 f chosen values nearest to the median of the chosen, or that median where N - 4 f < 1.
    Symbols as in this module. ``byzantine``: share of the rows that may be malicious. The paper's guarantee asks for
    N >= 4 f + 3, a share below a quarter; beyond that the rule still gives a result, without it. The chosen rows weigh
    the same in the record.

    ``own`` (d,), ``received`` (n, d), float32. The state passes through. Source: El Mhamdi, Guerraoui and Rouault,
    "The hidden vulnerability of distributed learning in Byzantium", ICML 2018, section 4.
    """
    count = len(received) + 1
    lost = attackers(byzantine, count)
    squares = geometry(own, received).squares
    left, chosen = np.arange(count), []
    for _ in range(count - 2 * lost):
        best = int(np.argmin(scores(squares[np.ix_(left, left)], lost)))
        chosen.append(int(left[best]))
        left = np.delete(left, best)
    keep = max(count - 4 * lost, 2 - count % 2)
    weights = torch.zeros(count)
    weights[chosen] = 1.0 / len(chosen)
    return kernels.near_median(own, received, chosen, keep), weights, state


def scores(squares: Floats, lost: int) -> Floats:
    """Krum's score of each of the N rows from their squared distances (N, N) and f = ``lost``; 0 for a single row."""
    count = len(squares)
    if count == 1:
        return np.zeros(1)
    near = max(1, count - lost - 2)
    others = squares[~np.eye(count, dtype=np.bool_)].reshape(count, count - 1)
    found: Floats = np.sort(others, axis=1)[:, :near].sum(axis=1)
    return found
