"""Seven real processes and their shared chain: leaders that are killed, a split in which nobody has a quorum."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest
from chain_nodes import (
    PROTOCOL,
    SECONDS,
    blocks_of,
    chain,
    final,
    finish,
    kill_leaders,
    seven,
    stopped,
    wait_for_blocks,
)
from processes import COTERIE
from real_nodes import Federation, wait_until

from coterie.ledger.shared import FullSharedBlock, audit_shared
from coterie.runtime.node.processes import NodeProcess
from coterie.runtime.run import run


def test_the_example_runs_in_virtual_time_and_in_processes(tmp_path: Path) -> None:
    sets = ["federation.peers=4", "federation.rounds=6", "model.name=softmax", "chain.closing=3", "chain.delay=0.3"]
    sets.append(f"federation.protocol={PROTOCOL}:chain")
    simulated = run(None, sets=sets, out=tmp_path / "simulated", workers=0)
    real = run(None, sets=sets, out=tmp_path / "real", on="processes")
    assert simulated.status == real.status == "ok"
    homes = sorted((tmp_path / "real" / "nodes").iterdir())
    genesis = tomllib.loads((homes[0] / "node.toml").read_text())["federation"]
    assert [audit(home, genesis) for home in homes] == [(0, "")] * 4
    found = audit_shared(homes[0] / "shared.sqlite", bytes.fromhex(genesis))
    assert found.blocks >= 6
    assert found.chain is not None
    assert found.chain.state.epoch >= 1


def test_leaders_that_are_killed(tmp_path: Path) -> None:
    """Every few blocks, for about half a minute: nothing forks, nobody is accused, the audit finds a flipped byte."""
    with seven(tmp_path, 40, pause=0.3) as made:
        made.start()
        outages = kill_leaders(made, 40, every=5)
        assert len(outages) >= 3
        chain_of_all = finish(made)
        assert len(chain_of_all) >= 40
        node = made.nodes[4]
        assert audit(node.home.path, node.home.table.federation) == (0, "")
        block = FullSharedBlock.decode(blocks_of(node)[17])
        flip(node.home.path / "shared.sqlite", block.records[0] if block.records else block.block.signature)
        status, where = audit(node.home.path, node.home.table.federation)
        assert (status, where) == (1, f"block {block.block.epoch}.{block.block.height}")


@pytest.mark.soak
def test_a_split_in_which_neither_side_has_a_quorum(tmp_path: Path) -> None:
    """Four of seven are not more than two thirds."""
    with seven(tmp_path, 30, pause=0.2) as made:
        for node in made.nodes:
            node.start()
        halves = made.nodes[:4], made.nodes[4:]
        with made.doors_between(*halves) as doors:
            wait_for_blocks(made, made.nodes[0], 5)
            for door in doors:
                door.shut()
            for node in made.nodes:
                half = next(half for half in halves if node in half)
                others = {other.peer for other in made.nodes if other not in half}
                wait_until(f"{node.name} says who is gone", lambda n=node, o=others: set() < silent(made, n) <= o)
            before = [final(made, node) for node in made.nodes]
            stuck = [warnings(node.home.path) for node in made.nodes]
            wait_until(
                "it is stuck",
                lambda: all(warnings(node.home.path) > count for node, count in zip(made.nodes, stuck, strict=True)),
            )
            assert [final(made, node) for node in made.nodes] == before
            assert status_line(made.nodes[0]).count(";") == 3
            assert max(before) < (30 // 4, 0)
            for door in doors:
                door.open()
            assert len(finish(made)) >= 30


@pytest.mark.soak
def test_who_signs_twice_is_shown_and_votes_no_more(tmp_path: Path) -> None:
    """It leads two ways where it leads. The evidence is recorded, and two epochs later it is no voter."""
    with seven(tmp_path, 100_000, pause=0.1, liar=Path(__file__).with_name("lying_chain.py")) as made:
        made.start()
        liar = made.nodes[3]

        def voters() -> set[str]:
            return set(chain(made, made.nodes[0]).get("voters", ()))

        wait_until("all vote", lambda: len(voters()) == 7)
        wait_until("it votes no more", lambda: voters() == {node.peer for node in made.nodes} - {liar.peer}, SECONDS)
        last = final(made, made.nodes[0])
        for node in made.nodes:
            wait_until(f"{node.name} goes on", lambda node=node: final(made, node)[0] > last[0] + 1, SECONDS)
        chains = stopped(made, accused=[liar])
        longest = max(chains, key=len)
        assert all(one == longest[: len(one)] for one in chains)


def silent(made: Federation, node: NodeProcess) -> set[str]:
    return set(chain(made, node).get("silent", ()))


def status_line(node: NodeProcess) -> str:
    """What ``coterie federation status`` says of the chain."""
    command = [*COTERIE, "federation", "status", "--home", str(node.home.path)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    return next(line for line in told.splitlines() if line.startswith("chain "))


def warnings(home: Path) -> int:
    """How often a node has said in its log that it is stuck."""
    return (home / "node.log").read_text().count("consensus waits for")


def audit(home: Path, genesis: str) -> tuple[int, str]:
    """The status of ``coterie audit``, and where it says that the first fault is."""
    done = subprocess.run(
        [*COTERIE, "audit", str(home), "--genesis", genesis], capture_output=True, text=True, timeout=60
    )
    found = [line for line in done.stdout.splitlines() if line.startswith("The first fault is in ")]
    return done.returncode, found[0].removeprefix("The first fault is in ").partition(":")[0] if found else ""


def flip(path: Path, content: bytes) -> None:
    """One bit of the only place where this content is."""
    data = bytearray(path.read_bytes())
    assert data.count(content) == 1
    data[data.index(content) + len(content) // 2] ^= 1
    path.write_bytes(data)
