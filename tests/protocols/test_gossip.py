"""How a gossiping peer finds its next round."""

from __future__ import annotations

import pytest
import torch

from coterie.network import MemorySnapshot
from coterie.protocols import Model
from coterie.protocols.gossip import next_round

VECTOR = MemorySnapshot("00" * 32, torch.zeros(1))


@pytest.mark.parametrize(
    ("round", "seen", "expected"),
    [
        (4, [], 5),
        (4, [4, 4, 4], 5),
        (4, [9, 4, 4], 5),  # one that is ahead, or says so
        (4, [9, 9, 4], 9),
        (4, [8, 9], 8),  # the lower of two
        (4, [20, 1000, 4000000000], 5),  # rounds that do not exist
        (4, [19, 1000, 19], 19),
        (19, [19, 19], 20),
    ],
)
def test_next_round(round: int, seen: list[int], expected: int) -> None:
    models = {str(i): Model(r, "model", VECTOR, 1, 1) for i, r in enumerate(seen)}
    assert next_round(round, 20, models) == expected
