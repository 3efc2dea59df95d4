"""How many of the rows may be malicious: one convention for all rules that must be told.

The spec gives a share, because how many peers answer changes from round to round:

    f = min(ceil(byzantine (n + 1)), floor(n / 2))

of the n + 1 rows, the own one counted: at least the share, and always a strict minority. So f = 0 with the own row
alone or with one other, where no majority can be told, and f >= 1 from two others on if the share is above 0. A rule
never fails because a peer was silent; what it does where its paper asks for more rows stands in its docstring.
"""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

Byzantine = Annotated[float, Field(ge=0, lt=0.5)]


def attackers(share: float, rows: int) -> int:
    """f of the convention above for ``rows`` = n + 1. A share that meets a whole number up to rounding gives it."""
    return min(math.ceil(share * rows - 1e-9), (rows - 1) // 2)
