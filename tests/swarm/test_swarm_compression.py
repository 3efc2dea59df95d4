"""Models of a swarm are known by the hashes of their bytes: what rounds them on the way is refused where it is set."""

import asyncio
import sys

import pytest
from real_swarm import FIGURES, RealSite, all_of, introduce

from coterie import spec as specs
from coterie.errors import SpecError
from coterie.runtime.node.daemon import Node
from coterie.runtime.node.founding import found_run, spec_to_found
from coterie.runtime.node.home import Home
from coterie.swarm import process

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")


def homes(folder, compression, spec=None):
    names = ["a", "b"]
    made = found_run([folder / n for n in names], spec or spec_to_found(None, "trial"), None, names, [0, 1])
    for home in made:
        home.save(home.table.model_copy(update={"compression": compression}))
    return [Home(home.path) for home in made]


@pytest.mark.parametrize("compression", ["fp16", "int8"])
def test_what_rounds_is_refused_to_a_script(tmp_path, compression):
    home, _ = homes(tmp_path, compression)

    async def begin():
        await RealSite(home, 8).begin()

    with pytest.raises(SpecError, match=f"{compression} rounds models") as caught:
        asyncio.run(begin())
    assert "node.toml: compression" in caught.value.where
    assert "zstd" in caught.value.remedy


@pytest.mark.parametrize(("protocol", "refused"), [("swarm", True), ("gossip", False)])
def test_what_rounds_is_refused_to_a_node_by_its_protocol(tmp_path, protocol, refused):
    spec = specs.check({"federation": {"protocol": protocol, "peers": 2}, "data": {"dataset": "digits"}}, tmp_path)
    home, _ = homes(tmp_path, "fp16", spec)

    async def start():
        node = Node(home)
        running = asyncio.create_task(node.run())
        ready = asyncio.create_task(node.ready.wait())
        await asyncio.wait([running, ready], return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        node.stop()
        await running

    if refused:
        with pytest.raises(SpecError, match="fp16 rounds models"):
            asyncio.run(start())
    else:
        asyncio.run(start())


def test_what_loses_nothing_does(tmp_path):
    pytest.importorskip("zstandard")

    async def train():
        sites = [RealSite(home, 5000) for home in homes(tmp_path, "zstd")]
        await introduce(sites)
        await all_of(*(site.begin() for site in sites))
        merged = await all_of(*(site.end(n) for n, site in enumerate(sites)))
        assert [each.vector[0].item() for each in merged] == [0.5, 0.5]
        await all_of(*(site.session.close(FIGURES) for site in sites))
        await process._stopped(asyncio.get_running_loop())

    asyncio.run(train())
