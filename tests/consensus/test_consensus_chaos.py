"""Random runs: no fork, finality after healing, no honest voter accused. ``COTERIE_SOAK=1`` makes them a thousand."""

import os

import pytest
from consensus_chaos import chaos

BATCH = 10
BATCHES = 100 if os.environ.get("COTERIE_SOAK") else 6


@pytest.mark.parametrize("batch", range(BATCHES))
def test_no_fork_and_finality_after_healing(batch):
    for seed in range(BATCH * batch, BATCH * (batch + 1)):
        chaos(seed).close()


def test_a_seed_replays():
    """The same run twice: the same blocks at the same virtual time, over the same frames."""
    runs = []
    for _ in range(2):
        world = chaos(13)
        runs.append((world.loop.time(), world.network.frames_sent, [node.chain for node in world.honest]))
        world.close()
    assert runs[0] == runs[1]
