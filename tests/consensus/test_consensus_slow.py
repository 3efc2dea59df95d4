"""A network slower than the voters take it for: the timers grow until blocks become final, whatever was certified."""

from __future__ import annotations

import pytest
from consensus_world import DELAY, World


@pytest.mark.parametrize("slower", [0.5, 1.5, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_slow_network_of_honest_voters_goes_on(seed, slower):
    """Each message takes ``slower`` D or more; 3 D is too short a wait for a proposal and its votes from 1.5 D on."""
    world = World([1, 1, 1, 1], seed, closing=4, latency_ms=1000 * slower * DELAY, jitter=0.5).begin()
    try:
        world.until(lambda: world.progress() >= 6, 250 * max(slower, 1.0) * DELAY)
        world.check_prefixes()
    finally:
        world.close()
