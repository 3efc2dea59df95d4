"""Real sites that leave: the others hear of it at once, whether the script has ended well or its process does."""

import asyncio
import sys

import pytest
from real_swarm import FIGURES, all_of, introduce, real_swarm, until

from coterie.aggregation.merging import loops, methods, prepare
from coterie.swarm import federated, process

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")


def test_at_the_end_nobody_waits_for_who_has_left(tmp_path, monkeypatch):
    monkeypatch.setattr(federated, "_LEAVE", 1e6)

    async def talk():
        async with real_swarm(tmp_path) as sites:
            await all_of(*(site.begin() for site in sites))
            merged = await all_of(*(site.end(n) for n, site in enumerate(sites)))
            assert {each.vector[0].item() for each in merged} == {1.0}
            await all_of(*(site.session.close(FIGURES) for site in sites))

    asyncio.run(talk())


@pytest.mark.parametrize("how", ["close", "node"])
def test_one_that_leaves_early_is_gone_at_once_and_is_back_when_it_begins_again(tmp_path, how):
    async def talk():
        async with real_swarm(tmp_path) as sites:
            await all_of(*(site.begin() for site in sites))
            first, *others = sites
            rolls = [site.training._swarm.training.roll for site in others]
            key = first.home.identity.id
            if how == "close":
                await first.session.close(None)
            else:
                await (await process.node_of(first.home.path)).stop()
            await until(lambda: all(roll.heard[key].beat.leaving and roll.heard[key].beat.leave for roll in rolls))
            merged = await all_of(*(site.sync() for site in others))
            assert [each.peers for each in merged] == [2, 2]
            first.renew()
            if how == "node":
                await introduce(sites)
            await all_of(first.begin())
            await until(lambda: not any(roll.heard[key].beat.leaving for roll in rolls))
            merged = await all_of(*(site.sync() for site in sites))
            assert {each.round for each in merged} == {3}

    asyncio.run(talk())


def test_the_first_merge_finds_its_loops_compiled(tmp_path, monkeypatch):
    prepared = []
    monkeypatch.setattr(federated, "prepare", prepared.append)

    async def talk():
        async with real_swarm(tmp_path, 1) as (site,):
            begin = asyncio.create_task(site.begin(merge="geomedian"))
            await until(lambda: prepared)
            begin.cancel()
            await asyncio.wait([begin])

    asyncio.run(talk())
    assert prepared == ["geomedian"]


@pytest.mark.parametrize("method", sorted(methods.METHODS))
def test_what_is_prepared_is_what_a_merge_uses(method, monkeypatch):
    used = []
    compiled = loops.compiled

    def noted(function, *liberties):
        used.append(function.__name__)
        return compiled(function, *liberties)

    monkeypatch.setattr(loops, "compiled", noted)
    prepare(method)
    prepared = {*used}
    used.clear()
    methods.merge(methods.Vectors({name: methods.torch.rand(100) for name in "abc"}), [1, 2, 3], method)
    assert {*used} == prepared
    prepare("a rule")
