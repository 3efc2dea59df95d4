"""Rules that look at each coordinate alone. The own vector is one of the n + 1 rows.

They weigh no vector as a whole; for the record every row has the weight 1 / (n + 1).
"""

from __future__ import annotations

import torch

from coterie import registry
from coterie.aggregation import kernels
from coterie.aggregation.byzantine import Byzantine, attackers
from coterie.aggregation.interface import Context, Judge, State
from coterie.aggregation.means import Result


@registry.rules.register("median")
def median(own: torch.Tensor, received: torch.Tensor, context: Context, state: State, judge: Judge | None) -> Result:
    """The coordinate-wise median of own and the n received rows: of an even count, the mean of the middle two.

    ``own`` (d,), ``received`` (n, d), float32; the middle two are added in float64. The state passes through. With one
    other row this is the mean. Source: Yin, Chen, Kannan and Bartlett, "Byzantine-robust distributed learning: towards
    optimal statistical rates", ICML 2018, algorithm 1, option I.
    """
    return kernels.trimmed_mean(own, received, len(received) // 2), _equal(len(received) + 1), state


@registry.rules.register("trimmed_mean")
def trimmed_mean(
    own: torch.Tensor,
    received: torch.Tensor,
    context: Context,
    state: State,
    judge: Judge | None,
    *,
    byzantine: Byzantine = 0.3,
) -> Result:
    """In each coordinate the mean of own and the n received values without the f least and the f greatest.

    ``byzantine``: share of the rows that may be malicious; f = min(ceil(byzantine (n + 1)), floor(n / 2)), so there is
    always a value left.

    ``own`` (d,), ``received`` (n, d), float32; sums in float64. The state passes through. Source: Yin, Chen, Kannan and
    Bartlett, "Byzantine-robust distributed learning: towards optimal statistical rates", ICML 2018, algorithm 1,
    option II.
    """
    count = len(received) + 1
    return kernels.trimmed_mean(own, received, attackers(byzantine, count)), _equal(count), state


def _equal(count: int) -> torch.Tensor:
    return torch.full((count,), 1.0 / count)
