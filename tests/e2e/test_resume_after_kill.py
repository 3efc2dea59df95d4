"""Runs that are killed in the middle of a round, and go on."""

import os
import signal
from pathlib import Path

import pytest
from processes import COTERIE, SPEC, run, started, until

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
SAME = ("model_hash", "accuracy", "bytes_sent", "virtual_seconds", "spec_hash")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("resume")
    (path / "long.toml").write_text(SPEC.format(rounds=60) + "[run]\ncheckpoint_every = 7\n")
    return path


@pytest.fixture(scope="module")
def whole(folder):
    done = run(folder, "run", "long.toml", "--json", "--workers", "0", "--out", "whole")
    assert done.status == 0, done.err
    return done.result


def killed(folder, out, records, *options):
    """Start a run, and kill it with all its workers once it has written so many records."""
    path = folder / out / "metrics.jsonl"
    with started([*COTERIE, "run", "long.toml", "--out", out, "--quiet", *options], folder) as running:
        until(lambda: path.exists() and path.read_bytes().count(b"\n") >= records, "records")
        os.killpg(running.process.pid, signal.SIGKILL)
        assert running.end().status == -signal.SIGKILL
    assert not (folder / out / "result.json").exists()


@pytest.mark.parametrize(("records", "workers"), [(5, "0"), (130, "2"), (290, "0")])
def test_a_run_killed_in_mid_round_ends_as_if_it_had_not_been(folder, whole, records, workers):
    out = f"killed-{records}"
    killed(folder, out, records, "--workers", workers)
    done = run(folder, "resume", out, "--json", "--workers", workers)
    assert done.status == 0, done.err
    assert [done.result[key] for key in SAME] == [whole[key] for key in SAME]
    assert (folder / out / "metrics.jsonl").read_bytes() == (folder / "whole/metrics.jsonl").read_bytes()
    assert (folder / out / "report.html").is_file()


def test_ctrl_c_says_how_to_go_on(folder, whole):
    with started([*COTERIE, "run", "long.toml", "--out", "stopped"], folder) as running:
        until(lambda: (folder / "stopped/checkpoint/state.msgpack").exists(), "a checkpoint")
        running.interrupt()
        done = running.end()
    assert done.status == 130
    assert "coterie resume" in done.err
    done = run(folder, "resume", "stopped", "--json")
    assert done.result["model_hash"] == whole["model_hash"]


def test_what_cannot_be_resumed(folder):
    for name in ("nothing-here", "."):
        done = run(folder, "resume", name)
        assert done.status == 2
        assert "error: " in done.err
        assert "Traceback" not in done.err
