"""The command line as its users meet it: real processes, real signals."""

import os
import signal
import sys
from pathlib import Path

import pytest
from processes import COTERIE, ENDLESS, SPEC, alive, has_lines, python, run, started, until

import coterie

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
WORKERS = ("0", "2")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "short.toml").write_text(SPEC.format(rounds=6))
    (tmp_path / "endless.toml").write_text(SPEC.format(rounds=ENDLESS))
    return tmp_path


def test_one_seed_gives_one_hash_whatever_the_number_of_workers(folder):
    done = [run(folder, "run", "short.toml", "--json", "--workers", count) for count in ("0", "0", "1", "2")]
    assert [each.status for each in done] == [0] * 4
    results = [each.result for each in done]
    assert [result["run"] for result in results] == ["runs/small", "runs/small-2", "runs/small-3", "runs/small-4"]
    for figure in ("model_hash", "bytes_sent", "virtual_seconds", "spec_hash"):
        assert len({result[figure] for result in results}) == 1
    other = run(folder, "run", "short.toml", "--json", "--seed", "2").result
    assert other["model_hash"] != results[0]["model_hash"]
    assert other["spec_hash"] != results[0]["spec_hash"]


@pytest.mark.parametrize("workers", WORKERS)
def test_ctrl_c_ends_a_run_with_one_message(folder, workers):
    with started([*COTERIE, "run", "endless.toml", "--workers", workers], folder) as running:
        until(has_lines(folder / "runs/small/metrics.jsonl"), "metrics")
        running.interrupt()
        done = running.end(30)
    assert done.status == 130
    assert done.err.count("error: ") == 1
    assert "coterie resume runs/small" in done.err
    assert "Traceback" not in done.err
    assert '"status": "failed"' in (folder / "runs/small/result.json").read_text()
    assert '"code": "interrupted"' in (folder / "runs/small/result.json").read_text()
    assert done.out == ""


def test_ctrl_c_with_json_prints_the_failed_result(folder):
    with started([*COTERIE, "run", "endless.toml", "--json"], folder) as running:
        until(has_lines(folder / "runs/small/metrics.jsonl"), "metrics")
        running.interrupt()
        done = running.end(30)
    assert done.status == 130
    assert done.result["status"] == "failed"
    assert done.result["error"]["code"] == "interrupted"
    assert done.result["run"] == "runs/small"


def test_ctrl_c_while_workers_start_leaves_no_traceback(folder):
    with started([*COTERIE, "run", "endless.toml", "--workers", "2"], folder) as running:
        until(lambda: len(running.children) == 2, "workers")
        running.interrupt()
        done = running.end(30)
    assert done.status == 130
    assert "Traceback" not in done.err


def test_a_killed_worker_is_named_and_ends_the_run(folder):
    with started([*COTERIE, "run", "endless.toml", "--workers", "2"], folder) as running:
        until(has_lines(folder / "runs/small/metrics.jsonl"), "metrics")
        victim = running.children[0]
        os.kill(victim, signal.SIGKILL)
        done = running.end(30)
    assert done.status == 1
    assert "a worker process ended with status -9" in done.err
    assert "where: worker " in done.err
    assert "Traceback" not in done.err
    assert '"code": "worker"' in (folder / "runs/small/result.json").read_text()


def test_no_worker_outlives_a_killed_run(folder):
    with started([*COTERIE, "run", "endless.toml", "--workers", "2"], folder) as running:
        until(has_lines(folder / "runs/small/metrics.jsonl"), "metrics")
        workers = running.children
        assert len(workers) == 2
        running.process.kill()
        running.end()
        until(lambda: not any(map(alive, workers)), "end of the workers", 30)


def test_a_rule_with_a_large_state_does_not_block_the_pipes(folder):
    sets = ("aggregation.rule=clip_and_trust_root", "data.root=20", "model.hidden=[512,256]", "federation.rounds=6")
    done = run(folder, "run", *(word for key in sets for word in ("--set", key)), "--workers", "2", deadline=60)
    assert done.status == 0, done.err


def test_a_script_without_a_main_guard_may_use_workers(folder):
    done = python(
        folder,
        "import coterie\n"
        "result = coterie.run('short.toml', workers=2)\n"
        "print(result.status, len(list(coterie.load(result.run).parameters())))\n",
    )
    assert (done.status, done.out, done.err) == (0, "ok 2\n", "")


def test_a_run_within_a_running_event_loop_as_in_a_notebook(folder):
    done = python(
        folder,
        "import asyncio, coterie\n"
        "async def cell():\n"
        "    print(coterie.run('short.toml', workers=2).status)\n"
        "asyncio.run(cell())\n",
    )
    assert (done.status, done.out, done.err) == (0, "ok\n", "")


def test_a_path_with_spaces(tmp_path):
    folder = tmp_path / "a folder, with spaces"
    folder.mkdir()
    (folder / "my spec.toml").write_text(SPEC.format(rounds=3).replace('"softmax"', '"my parts.py:model"'))
    (folder / "my parts.py").write_text(
        "from torch import nn\n"
        "def model(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
    )
    done = run(folder, "run", "my spec.toml", "--json", "--workers", "2", "--out", "the run")
    assert done.status == 0, done.err
    assert (folder / "the run/report.html").is_file()


def test_the_installed_command_is_this_package(folder):
    command = Path(sys.executable).with_name("coterie")
    if not command.exists():
        pytest.skip("the package is not installed as a command")
    with started([str(command), "--version"], folder) as running:
        assert running.end().out == f"coterie {coterie.__version__}\n"
