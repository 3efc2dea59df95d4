"""Seven peers' shared chain: its leader is killed every few blocks, and it is split so that nobody has a quorum."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from chain_nodes import PROTOCOL, blocks_of, final, finish, kill_leaders, seven, told, wait_for_blocks
from grown import grown, status
from real_nodes import kill, wait_until

from coterie.ledger.shared import audit_shared
from coterie.runtime.node.processes import NodeProcess

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


def test_all_killed(tmp_path: Path, row: Row) -> None:
    row("what", "SIGKILL of all seven voters at once, twice")
    with seven(tmp_path, 40, pause=0.3) as made:
        made.start()
        for count in (10, 25):
            wait_for_blocks(made, made.nodes[0], count)
            for node in made.nodes:
                kill(node)
            before = max((blocks_of(node) for node in made.nodes), key=len)
            for node in made.nodes:
                node.start()
            made.introduce()
        chain = finish(made)
    assert chain[: len(before)] == before
    row("notes", f"{len(chain)} blocks; what any of them had as final still is; all stores alike and sound")


def test_successor(tmp_path: Path, row: Row) -> None:
    """One of four is lost with its key; who takes its place begins with the checkpoint that it is told, and follows."""
    row("what", "a successor joins a shared chain by a checkpoint")
    protocol = f'protocol = "{shutil.copy(PROTOCOL, tmp_path)}:chain"\n[chain]\npause = 0.3'
    with grown(tmp_path, 4, 100_000, protocol) as made:
        founder = made.nodes[0]
        made.start(founder)
        for _ in range(3):
            made.start(made.admit(founder))
        wait_until("the third epoch", lambda: place(founder) >= (2, 0), 120)
        lost = made.nodes[2]
        kill(lost)
        late = made.admit(founder, replaces=lost.peer)
        began = msgspec.msgpack.decode((late.home.path / "shared.pin").read_bytes(), type=tuple[int, bytes])
        assert began[0] >= 2
        made.start(late)
        wait_until("it follows", lambda: place(late) > (began[0] + 2, 0), 120)
        made.stop()
    genesis = bytes.fromhex(founder.home.table.federation)
    found = audit_shared(late.home.path / "shared.sqlite", genesis, began[1])
    assert found.fault is None
    assert lost.peer in {voter.key for voter in found.chain.state.voters.members}  # nobody has recorded a change
    theirs, own = blocks_of(founder), blocks_of(late)
    start = theirs.index(own[0])
    shared = min(len(own), len(theirs) - start)
    assert own[:shared] == theirs[start : start + shared]
    row("notes", f"from epoch {began[0]}; {start} blocks before it were not fetched; sound by its checkpoint's id")


def place(node: NodeProcess) -> tuple[int, int]:
    """The last block that is final at a node."""
    found = status(node).get("chain")
    return (found["epoch"], found["final"]) if found else (-1, 0)
