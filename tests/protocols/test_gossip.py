"""How a gossiping peer finds its next round."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import coterie
from coterie.network import MemorySnapshot
from coterie.protocols import Model
from coterie.protocols.gossip import next_round
from coterie.runtime.results import RunDirectory

TELL = """
import torch


def tell(own, received, context, state, judge):
    return own, torch.full((len(received) + 1,), float(context.round)), state
"""
"""A rule whose weights say in which round it was asked."""
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


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"warmup": 2}, [2, 3, 4, 5]),
        ({"warmup": 1, "cooldown": 2}, [1, 2, 3]),
        ({"cooldown": 6}, []),
        ({"warmup": 1, "swap_every": 2, "cooldown": 1}, [1, 3]),
    ],
)
def test_rounds_that_mix(settings: dict[str, int], expected: list[int], tmp_path: Path) -> None:
    tables = {
        "federation": {"rounds": 6, "peers": 3},
        "gossip": settings,
        "data": {"samples_per_peer": 20},
        "evaluation": {"samples": 10},
        "aggregation": {"rule": f"{tmp_path}/tell.py:tell"},
    }
    (tmp_path / "tell.py").write_text(TELL)
    coterie.run(tables, out=tmp_path / "run")
    records = RunDirectory.open(tmp_path / "run").records
    assert sorted({value for record in records for value in record.weights.values()}) == expected
