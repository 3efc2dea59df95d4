"""Real nodes in processes of their own: the simulation's outcome, and what they survive."""

from __future__ import annotations

import json
import os
import resource
import signal
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from real_nodes import DEADLINE, braked, federation, kill, wait_until

from coterie.errors import SpecError
from coterie.runtime.node.control import call
from coterie.runtime.run import run

SETS = ["federation.peers=4", "federation.rounds=12", "model.name=softmax"]


def test_processes_give_the_bits_of_the_simulation(tmp_path: Path) -> None:
    """Also with attackers, who craft from what others publish."""
    sets = [*SETS, "attack.kind=sign_flip", "attack.fraction=0.25", "run.exact_kernels=true", "compute.spread=0"]
    real = run(None, sets=sets, out=tmp_path / "real", on="processes")
    simulated = run(None, sets=sets, out=tmp_path / "simulated", workers=0)
    assert real.status == "ok"
    assert real.model_hash == simulated.model_hash
    assert real.accuracy == simulated.accuracy
    assert real.loss == pytest.approx(simulated.loss)
    lines = [json.loads(line) for line in (tmp_path / "real" / "metrics.jsonl").read_text().splitlines()]
    assert {(line["peer"], line["round"]) for line in lines} == {(f"peer-{i}", r) for i in range(4) for r in range(12)}
    assert (tmp_path / "real" / "report.html").exists()
    assert len(list((tmp_path / "real" / "models").iterdir())) == 3


@pytest.mark.parametrize("rule", ["clip_and_trust", "mean"])
def test_six_that_hear_three_a_round_give_the_bits_too(tmp_path: Path, rule: str) -> None:
    """Who is slow still gets the others' models of its round, here as there, though it is another peer that is slow."""
    sets = ["federation.peers=6", "federation.rounds=20", f"aggregation.rule={rule}", "run.exact_kernels=true"]
    real = run(None, sets=sets, out=tmp_path / "real", on="processes")
    simulated = run(None, sets=sets, out=tmp_path / "simulated", workers=0)
    assert (real.status, real.model_hash) == ("ok", simulated.model_hash)


def test_a_node_that_dies_is_started_again(tmp_path: Path) -> None:
    out, killed = tmp_path / "run", []

    def assassin() -> None:
        home = out / "nodes" / "peer-2"
        wait_until("some rounds", lambda: _lines(home / "metrics.jsonl") > 3)
        pid = _pid_of(home)
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    thread = threading.Thread(target=assassin)
    thread.start()
    result = run(None, sets=[*SETS, "federation.rounds=60"], out=out, on="processes")
    thread.join()
    assert killed
    assert result.status == "ok"
    assert result.accuracy["min"] > 0.6
    assert "where it had stopped" in (out / "nodes" / "peer-2" / "node.log").read_text()


def test_one_is_started_again_while_another_has_just_ended(tmp_path: Path) -> None:
    with federation(tmp_path, **{"federation.peers": 3}) as made:
        made.start()
        for node in made.nodes[1:]:
            kill(node)
        made.watched._look_at(made.nodes[1])
        assert made.nodes[1].running and not made.nodes[2].running
        made.watched._look_at(made.nodes[2])
        assert all(node.running for node in made.nodes)


def test_a_run_that_is_interrupted_leaves_no_process(tmp_path: Path) -> None:
    out = tmp_path / "run"

    def interrupt() -> None:
        wait_until("some rounds", lambda: _lines(out / "nodes" / "peer-0" / "metrics.jsonl") > 2)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run(None, sets=[*SETS, "federation.rounds=500"], out=out, on="processes")
    thread.join()
    assert not _nodes_under(out)
    assert json.loads((out / "result.json").read_text())["status"] == "failed"


def test_another_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="Did you mean 'processes'"):
        run(None, out=tmp_path / "run", on="process")


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _nodes_under(folder: Path) -> list[int]:
    """Processes that log into a home below this folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                log = (entry / "fd" / "1").readlink()
            except OSError:
                continue
            if log.name == "node.log" and folder in log.parents:
                found.append(int(entry.name))
    return found


def _pid_of(home: Path) -> int:
    (pid,) = _nodes_under(home)
    return pid


# What a federation survives. Each case ends with all nodes done and every ledger sound, with a record a round.


@pytest.mark.parametrize("victims", [(2,), (1, 3), (0,)], ids=["one", "two", "the founder"])
def test_nodes_that_are_killed_in_mid_round_come_back(tmp_path: Path, victims: tuple[int, ...]) -> None:
    with federation(tmp_path) as made:
        made.start()
        for number in victims:
            made.wait_for_round(made.nodes[number], 5)
            kill(made.nodes[number])
        for number in victims:
            made.nodes[number].start()
        made.introduce()
        made.wait_until_done()
        made.stop()
        for node in made.nodes:
            records = [record.content["round"] for record in made.records(node)]
            assert records == sorted(records)
            assert max(records) == 39
            if node.number not in victims:
                assert records == list(range(40))
            assert made.accuracy(node) > 0.6


def test_a_node_that_stands_still_for_a_while(tmp_path: Path) -> None:
    with federation(tmp_path) as made:
        made.start()
        victim = made.nodes[1]
        made.wait_for_round(victim, 5)
        assert victim.process is not None
        victim.process.send_signal(signal.SIGSTOP)
        wait_until("others go on", lambda: all(made.status(n)["round"] >= 12 for n in made.nodes if n is not victim))
        victim.process.send_signal(signal.SIGCONT)
        made.wait_until_done()
        assert made.accuracy(victim) > 0.6


def test_a_node_whose_state_lost_its_end(tmp_path: Path) -> None:
    with federation(tmp_path) as made:
        made.start()
        victim = made.nodes[3]
        made.wait_for_round(victim, 5)
        kill(victim)
        state = victim.home.path / "state" / "gossip.state"
        state.write_bytes(state.read_bytes()[:-4096])
        wal = victim.home.path / "ledger.sqlite-wal"
        if wal.exists():
            wal.write_bytes(wal.read_bytes()[: -wal.stat().st_size // 10])
        made.restart(victim)
        made.wait_until_done()
        made.stop()
        assert (victim.home.path / "state" / "gossip.damaged").exists()
        assert "late" in (victim.home.path / "node.log").read_text()
        assert made.accuracy(victim) > 0.6
        assert [record.content["round"] for record in made.records(made.nodes[0])] == list(range(40))


def test_a_disk_that_is_full_for_a_while(tmp_path: Path) -> None:
    """A limit on the size of files makes every write fail, as a full disk does. Records come once there is room."""
    with federation(tmp_path) as made:
        made.start()
        victim = made.nodes[2]
        made.wait_for_round(victim, 3)
        assert victim.process is not None
        before = resource.prlimit(victim.process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        round = made.status(victim)["round"]
        made.wait_for_round(victim, round + 5)
        resource.prlimit(victim.process.pid, resource.RLIMIT_FSIZE, before)
        made.wait_until_done()
        made.stop()
        for node in made.nodes:
            assert [record.content["round"] for record in made.records(node)] == list(range(40))
            assert made.accuracy(node) > 0.6


def test_two_halves_that_cannot_reach_each_other_for_a_while(tmp_path: Path) -> None:
    with federation(tmp_path, **{"federation.rounds": 60}) as made, ExitStack() as closing:
        for node in made.nodes:
            node.start()
        doors = closing.enter_context(made.doors_between(made.nodes[:2], made.nodes[2:]))
        made.wait_for_round(made.nodes[0], 3)
        for door in doors:
            door.shut()
        rounds = [made.status(node)["round"] for node in made.nodes]
        for node, round in zip(made.nodes, rounds, strict=True):
            made.wait_for_round(node, round + 6)
        for door in doors:
            door.open()
        made.wait_until_done()
        made.stop()
        for node in made.nodes:
            assert [record.content["round"] for record in made.records(node)] == list(range(60))
            assert made.accuracy(node) > 0.6


def test_a_peer_of_a_tenth_of_the_speed(tmp_path: Path) -> None:
    with federation(tmp_path, **{"federation.rounds": 15}) as made:
        made.start()
        made.wait_for_round(made.nodes[0], 1)
        slow = made.nodes[3]
        with braked(slow):
            made.wait_until_done()
        made.stop()
        assert [record.content["round"] for record in made.records(slow)] == list(range(15))


def test_everything_is_stopped_and_goes_on(tmp_path: Path) -> None:
    with federation(tmp_path) as made:
        made.start()
        made.wait_for_round(made.nodes[0], 5)
        for node in made.nodes:
            kill(node)
        for node in made.nodes:
            node.start()
        made.introduce()
        made.wait_until_done()
        assert min(made.accuracy(node) for node in made.nodes) > 0.6


def test_a_certificate_is_renewed_while_models_travel(tmp_path: Path) -> None:
    """Compressed models meanwhile; nobody loses a record, and the node is still met by its new certificate."""
    with federation(tmp_path, **{"federation.rounds": 150}) as made:
        for node in made.nodes:
            node.home.save(node.home.table.model_copy(update={"compression": "zstd"}))
        made.start()
        renewed = made.nodes[1]
        made.wait_for_round(renewed, 3)
        before = renewed.home.transport.certificate
        call(renewed.home.socket, {"command": "renew"})  # twice, with a wait for the others to hear
        assert renewed.home.transport.certificate != before
        made.wait_until_done()
        kill(renewed)
        made.restart(renewed)
        wait_until("it is met again", lambda: _met(made.status(made.nodes[0]), renewed.peer))
        made.stop()
        for node in made.nodes:
            assert [record.content["round"] for record in made.records(node)][:150] == list(range(150))


def _met(status: dict[str, Any], peer: str) -> bool:
    return any(member["peer"] == peer and member["connected"] for member in status.get("members", ()))


def test_a_status_comes_while_it_trains(tmp_path: Path) -> None:
    with federation(tmp_path, **{"federation.peers": 2, "training.local_steps": 2000}) as made:
        made.start()
        made.wait_for_round(made.nodes[0], 1)
        slowest = 0.0
        for _ in range(20):
            began = time.monotonic()
            assert made.status(made.nodes[0])["state"] == "training"
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < DEADLINE / 10  # it would be a fit's length if the event loop waited for it
