"""A network slower than the voters take it for: the timers grow until blocks become final, whatever was certified."""

from __future__ import annotations

from dataclasses import replace

import pytest
from consensus_world import DELAY, App, World

from coterie.ledger.shared import blocks
from coterie.protocols.consensus import drafting


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


class Endless(App):
    """Never wants to close an epoch, and takes what comes."""

    async def payload(self, view):
        return replace(await super().payload(view), closes=False)

    async def accepts(self, view, block, records):
        return True


@pytest.mark.parametrize("closing", [1, None])
def test_who_was_away_while_blocks_were_certified_too_late_catches_up(closing, monkeypatch):
    """A message takes 18 D, so that each height has a block after everybody has given it up, and none becomes final.

    That goes on for longer than an epoch may stay open. Once the network is well all that is made final by one
    certificate: the proof is no longer than an epoch that may be open, however long the tail behind the closing block.
    """
    last = 6
    monkeypatch.setattr(blocks, "LAST_OPEN", last)
    monkeypatch.setattr(drafting, "LAST_OPEN", last)
    world = World([1, 1, 1, 1, 1], closing=closing or 1 << 30, latency_ms=18_000 * DELAY, jitter=0.1)
    world.application = App if closing else Endless
    try:
        away, *others = world.nodes.values()
        for node in others:
            node.start()
        world.until(lambda: others[0].machine.height > 3 * last, 2000 * DELAY)
        assert max(len(node.chain) for node in others) == 0
        world.network.table = world.network.table.model_copy(update={"latency_ms": 100.0})
        world.until(lambda: world.progress() > last, 300 * DELAY)
        finality = others[0].ledger.blocks(0, 0, 1).finality
        assert len(finality.headers) <= (1 if closing else last + 1)
        away.start()
        assert world.progress() == 0
        world.until(lambda: world.progress() > last, 300 * DELAY)
        world.check_prefixes()
        heights = [height for epoch, height, _ in away.chain if epoch == 0]
        assert len(heights) == 1 if closing else max(heights) > last
    finally:
        world.close()
