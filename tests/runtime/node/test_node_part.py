"""A node's part in the protocol, beside the node's other parts."""

from __future__ import annotations

import asyncio
from pathlib import Path

from coterie import spec as specs
from coterie.runtime.node.daemon import Node
from coterie.runtime.node.founding import found_run

SECONDS = 60.0


def test_what_has_failed_is_not_forgotten_when_the_training_goes_on(tmp_path: Path) -> None:
    values = {"federation.peers": 1, "federation.rounds": 1, "model.name": "softmax"}
    (home,) = found_run([tmp_path / "a"], specs.load(None, ()).with_values(values), None, ["a"], [0])

    async def main() -> None:
        node = Node(home)
        task = asyncio.create_task(node.run())
        async with asyncio.timeout(SECONDS):
            await node.ready.wait()
            node.part.fail("discovery: no network")
            node.part.fail("membership: no room")
            while node.part.standing().state != "done":
                await asyncio.sleep(0.01)
        node.stop()
        await asyncio.wait_for(task, SECONDS)
        assert (node.part.state, node.part.why) == ("failed", "discovery: no network")

    asyncio.run(main())
    assert (home.path / "result.json").exists()
    assert (home.path / "final.f32").stat().st_size == 4 * (64 * 10 + 10)
