"""What six peers survive. Each case ends with all done, every ledger sound, and no record lost."""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from real_nodes import Federation, braked, kill, wait_until
from soak_world import chains, finish, held, six, tear_file, tear_log, tear_state

from coterie.runtime.node.processes import NodeProcess

pytestmark = pytest.mark.soak
OUTAGE = 20.0
"""Seconds."""
BEGUN = 5
"""The round from which things go wrong."""
Rounds = Callable[[float], int]
Row = Callable[[str, object], None]
"""Sets a cell of the table: ``what`` was done, or what came of it in ``notes``."""


def went_on(made: Federation, nodes: list[NodeProcess]) -> list[int]:
    """Let the outage last; the rounds that these nodes made meanwhile. None of them may be done by then."""
    before = [made.status(node)["round"] for node in nodes]
    time.sleep(OUTAGE)
    after = [made.status(node) for node in nodes]
    assert {status["state"] for status in after} == {"training"}
    return [status["round"] - round for status, round in zip(after, before, strict=True)]


@pytest.mark.parametrize(
    ("victims", "what"),
    [((2,), "SIGKILL of one"), ((1, 4), "SIGKILL of two"), ((0,), "SIGKILL of the founder")],
    ids=["one", "two", "founder"],
)
def test_killed(tmp_path: Path, rounds_in: Rounds, row: Row, victims: tuple[int, ...], what: str) -> None:
    """In mid-round, and started again when the others have gone on."""
    row("what", f"{what} in mid-round")
    rounds = rounds_in(20)
    with six(tmp_path, rounds) as made:
        made.start()
        made.wait_for_round(made.nodes[victims[0]], BEGUN)
        for number in victims:
            kill(made.nodes[number])
        before = held(made)
        living = next(node for node in made.nodes if node.number not in victims)
        made.wait_for_round(living, made.status(living)["round"] + 3)
        for number in victims:
            made.nodes[number].start()
        made.introduce()
        signed = finish(made, before)
    for node in made.nodes:
        found = signed[node.peer]
        assert found == sorted(found)  # one that is killed after it signed may do that round again
        assert found[-1] == rounds - 1
        if node.number not in victims:
            assert found == list(range(rounds))
    came_back = [f"{len(set(signed[made.nodes[number].peer]))} of {rounds} rounds signed" for number in victims]
    row("notes", "killed: " + ", ".join(came_back) + "; others: all")


def test_stopped(tmp_path: Path, rounds_in: Rounds, row: Row) -> None:
    row("what", f"SIGSTOP for {OUTAGE:g} s")
    rounds = rounds_in(60)
    with six(tmp_path, rounds) as made:
        made.start()
        victim = made.nodes[1]
        made.wait_for_round(victim, BEGUN)
        assert victim.process is not None
        victim.process.send_signal(signal.SIGSTOP)
        meanwhile = went_on(made, [node for node in made.nodes if node is not victim])
        before = held(made)
        victim.process.send_signal(signal.SIGCONT)
        signed = finish(made, before)
    assert min(meanwhile) > 0
    assert all(found == list(range(rounds)) for found in signed.values())
    row("notes", f"others made {min(meanwhile)} rounds and more meanwhile; all of {rounds} signed by each")


def test_disk_full(tmp_path: Path, rounds_in: Rounds, row: Row) -> None:
    """By a limit on the size of files, which makes every write fail."""
    row("what", f"disk full for {OUTAGE:g} s")
    rounds = rounds_in(60)
    with six(tmp_path, rounds) as made:
        made.start()
        victim = made.nodes[2]
        made.wait_for_round(victim, BEGUN)
        assert victim.process is not None
        limits = resource.prlimit(victim.process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        blocks = len(chains(victim)[victim.peer])
        (meanwhile,) = went_on(made, [victim])
        before = held(made)
        assert len(before[victim.peer]) <= blocks + 1
        resource.prlimit(victim.process.pid, resource.RLIMIT_FSIZE, limits)
        signed = finish(made, before)
    assert meanwhile > 0
    assert all(found == list(range(rounds)) for found in signed.values())
    row("notes", f"it made {meanwhile} rounds meanwhile; all of {rounds} signed by each")


def test_split(tmp_path: Path, rounds_in: Rounds, row: Row) -> None:
    row("what", f"split 3 / 3, healed after {OUTAGE:g} s")
    rounds = rounds_in(60)
    with six(tmp_path, rounds) as made:
        for node in made.nodes:
            node.start()
        halves = made.nodes[:3], made.nodes[3:]
        with made.doors_between(*halves) as doors:
            made.wait_for_round(made.nodes[0], BEGUN)
            assert any(across(made, node) for node in made.nodes)
            for door in doors:
                door.shut()
            wait_until("nobody meets the other half", lambda: not any(across(made, node) for node in made.nodes))
            meanwhile = went_on(made, made.nodes)
            assert not any(across(made, node) for node in made.nodes)
            before = held(made)
            for door in doors:
                door.open()
            wait_until("all meet again", lambda: all(across(made, node) for node in made.nodes))
            assert made.status(made.nodes[0])["state"] == "training"
            signed = finish(made, before)
    assert min(meanwhile) > 0
    assert all(found == list(range(rounds)) for found in signed.values())
    row("notes", f"each made {min(meanwhile)} rounds and more meanwhile; all of {rounds} signed by each")


def across(made: Federation, node: NodeProcess) -> list[str]:
    """Those of the other half that it is connected to."""
    peers = {other.peer for other in made.nodes if (other.number < 3) != (node.number < 3)}
    return [m["peer"] for m in made.status(node).get("members", ()) if m["connected"] and m["peer"] in peers]


def test_slow(tmp_path: Path, rounds_in: Rounds, row: Row) -> None:
    row("what", "a peer of a tenth of the speed")
    rounds = rounds_in(8)
    with six(tmp_path, rounds) as made:
        made.start()
        made.wait_for_round(made.nodes[0], 1)
        slow = made.nodes[5]
        began = time.monotonic()
        with braked(slow):
            wait_until("the others are done", lambda: all(made.done(n) for n in made.nodes if n is not slow), 300)
            others, behind = time.monotonic() - began, rounds - 1 - made.status(slow)["round"]
            signed = finish(made, held(made))
    assert all(found == list(range(rounds)) for found in signed.values())
    row("notes", f"others done after {others:.0f} s, it was {behind} behind; all of {rounds} signed by each")


@pytest.mark.parametrize(
    ("tear", "what"),
    [(tear_log, "the log of the ledger"), (tear_file, "the ledger's file"), (tear_state, "the protocol's state")],
    ids=["log", "file", "state"],
)
def test_torn(tmp_path: Path, rounds_in: Rounds, row: Row, tear: Callable[[NodeProcess], None], what: str) -> None:
    """Killed, and the last page of a file is gone, which the disk had said was written."""
    row("what", f"{what} lost its last page")
    rounds = rounds_in(20)
    with six(tmp_path, rounds) as made:
        made.start()
        victim = made.nodes[3]
        made.wait_for_round(victim, BEGUN)
        kill(victim)
        written = len(chains(victim)[victim.peer])
        tear(victim)
        before = held(made, without=victim)
        made.restart(victim)
        signed = finish(made, before)
        lost = [round for round in range(written) if round not in signed[victim.peer]]
        log = (victim.home.path / "node.log").read_text()
    for node in made.nodes:
        if node is not victim:
            assert signed[node.peer] == list(range(rounds))
    assert signed[victim.peer][-1] == rounds - 1
    assert "signed two blocks" not in log
    assert lost == []
    row("notes", f"of {written} records none lost; {len(set(signed[victim.peer]))} of {rounds} rounds signed")
