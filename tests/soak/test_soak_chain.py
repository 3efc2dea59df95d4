"""Seven peers' shared chain: its leader is killed every few blocks, and it is split so that nobody has a quorum."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from chain_nodes import final, finish, kill_leaders, seven, told, wait_for_blocks

pytestmark = pytest.mark.soak
SECONDS = float(os.environ.get("COTERIE_SOAK_CHAIN_SECONDS", "300"))
"""For which leaders are killed; on a slow machine it takes longer, with as many blocks."""
OUTAGE = 30.0
Row = Callable[[str, object], None]


def test_leaders_killed(tmp_path: Path, row: Row) -> None:
    row("what", "SIGKILL of the chain's leader every 5 blocks")
    blocks = max(40, int(SECONDS))
    with seven(tmp_path, blocks, pause=0.5) as made:
        made.start()
        outages = kill_leaders(made, blocks, every=5)
        chain = finish(made)
    assert len(outages) >= blocks / 40
    row("notes", f"{len(chain)} blocks; {told(outages)}; all stores alike and sound")


def test_split(tmp_path: Path, row: Row) -> None:
    row("what", f"a shared chain split 4 / 3, healed after {OUTAGE:g} s")
    with seven(tmp_path, 60, pause=0.3) as made:
        for node in made.nodes:
            node.start()
        with made.doors_between(made.nodes[:4], made.nodes[4:]) as doors:
            wait_for_blocks(made, made.nodes[0], 10)
            for door in doors:
                door.shut()
            time.sleep(OUTAGE / 6)  # what was on its way may still become final
            before = [final(made, node) for node in made.nodes]
            time.sleep(OUTAGE)
            assert [final(made, node) for node in made.nodes] == before
            for door in doors:
                door.open()
            healed, last = time.monotonic(), max(before)
            while final(made, made.nodes[0]) <= last:
                time.sleep(0.05)
            seconds = time.monotonic() - healed
            chain = finish(made)
    row("notes", f"{len(chain)} blocks; the next one {seconds:.1f} s after healing; all stores alike and sound")
