"""Runs that fail on their way, in real processes: full disks, damaged files, workers, pipes; what is left is whole."""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import pytest
from failing import fails, listing
from processes import COTERIE, Done, run
from typer.testing import CliRunner

from coterie.cli import app

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
TABLE = "".join(f"{row},{row % 7},{row % 2}\n" for row in range(40))
ONE = "--set federation.peers=1 --set data.dataset=csv:a.csv --set model.name=mlp --set model.hidden=[512]"


@pytest.fixture(autouse=True)
def table(folder):
    (folder / "a.csv").write_text(TABLE)


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Within it no file can grow beyond so many bytes: what writes more is told that it cannot."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def on_a_full_disk(size: int, line: str) -> Done:
    with full_disk(size):
        return call(f"run small.toml {line}")


def call(line: str) -> Done:
    done = CliRunner().invoke(app, line.split())
    return Done(done.exit_code, done.stdout, done.stderr)


def refused(done: Done, where: str, says: str, status: int = 2) -> None:
    assert done.status == status, done.err
    assert len(re.findall("(?m)^error: ", done.err)) == 1, done.err
    for part in (where, says, "what to do: "):
        assert part in done.err
    assert "Traceback" not in done.err
    assert "internal" not in done.err


def whole(folder: Path) -> dict[str, object]:
    """The result of the run; no temporary file lies in its directory."""
    assert not [name for name in listing(folder) if Path(name).name.startswith(".")]
    return json.loads((folder / "runs/digits/result.json").read_text())


SPEC_SIZE, MEMORY, METRICS, CHECKPOINT, MODEL, REPORT = 200, 300, 5000, 50_000, 10_304, 40_000


def test_a_disk_that_is_full_when_the_spec_is_written(folder):
    before = listing(folder)
    refused(on_a_full_disk(SPEC_SIZE, "--json"), "runs/digits/spec.toml", "Check the free space")
    assert listing(folder) == before


def test_a_disk_that_is_full_when_metrics_are_written(folder):
    sets = "--set data.dataset=csv:a.csv --set federation.rounds=60 --set run.checkpoint_every=5"
    refused(on_a_full_disk(METRICS, sets), "metrics.jsonl", "Check the free space")
    assert whole(folder)["error"]["code"] == "output"
    done = call("resume runs/digits --json")
    assert done.status == 0, done.err
    shutil.move(folder / "runs/digits", folder / "resumed")
    straight = call(f"run small.toml {sets} --json")
    assert straight.result["model_hash"] == done.result["model_hash"]


def test_a_disk_that_is_full_when_a_checkpoint_is_written(folder):
    sets = f"{ONE} --set federation.peers=4 --set federation.rounds=3"
    refused(on_a_full_disk(CHECKPOINT, sets), "checkpoint", "run.checkpoint_every = 0")


def test_a_disk_that_is_full_when_the_model_is_written(folder):
    refused(on_a_full_disk(MODEL, f"{ONE} --set run.checkpoint_every=0"), "peer-0.safetensors", "free space")
    assert whole(folder)["error"]["code"] == "output"
    assert not list((folder / "runs/digits/models").iterdir())


def test_a_disk_that_is_full_when_the_report_is_written(folder):
    done = on_a_full_disk(REPORT, "--set data.dataset=csv:a.csv --json")
    refused(done, "runs/digits", "coterie report runs/digits")
    assert done.result["error"]["code"] == "output"
    assert done.result["run"] == "runs/digits"
    assert whole(folder)["status"] == "ok"
    assert call("report runs/digits").status == 0


def test_no_shared_memory(folder):
    refused(on_a_full_disk(100_000, ""), "this machine", "shared memory cannot be had", status=1)
    assert whole(folder)["error"]["code"] == "run"


def test_standard_output_that_is_full(folder):
    for line in (["run", "small.toml", "--json"], ["run", "x", "--json"]):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run([*COTERIE, *line], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert done.returncode == 2, (line, done.stderr)
        assert "Traceback" not in done.stderr
        assert done.stderr.count("error: ") == 1, done.stderr
        assert ("standard output" in done.stderr) == ("x" not in line)


def test_a_reader_that_leaves(folder):
    command = subprocess.Popen([*COTERIE, "rules"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    command.stdout.close()
    assert command.stderr.read() == ""
    command.stderr.close()
    assert command.wait() == 1


ANOTHER = """
from pathlib import Path
from torch import nn
def f(shape, classes):
    width = 4 if Path("built").exists() else 3
    Path("built").touch()
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, classes))
"""
"""A model that is built in another way the second time."""


def test_workers_that_build_another_model(folder):
    (folder / "own.py").write_text(ANOTHER)
    before = listing(folder)
    done = run(folder, "run", "small.toml", "--set", "model.name=own.py:f", "--workers", "1", "--json")
    refused(done, "model.name", "the same shapes every time")
    assert done.result["error"]["code"] == "layout"
    assert listing(folder) == before | {"built"}


def test_a_plug_in_that_raises_in_a_worker(folder):
    (folder / "own.py").write_text("def f(*_): 1 / 0")
    before = listing(folder)
    done = run(folder, "run", "small.toml", "--set", "aggregation.rule=own.py:f", "--workers", "2", "--json")
    refused(done, "peer-", "ZeroDivisionError")
    assert done.result["error"]["code"] == "plugin"
    assert listing(folder) == before


DEADLOCK = "async def f(peer, rounds):\n import asyncio\n await asyncio.get_running_loop().create_future()"
LATE = """
def f(own, received, context, state, judge):
    if context.round == 1:
        1 / 0
    return own, own.new_ones(len(received) + 1), None
"""
RUNS = {
    "training that diverges": (
        "--set training.lr=1e38 --set training.clip=0 --set training.local_steps=5", "",
        "diverged", "peer ", "Lower training.lr", 1,
    ),
    "a protocol that deadlocks": (
        "--set federation.protocol=own.py:f", DEADLOCK, "deadlock", "virtual time", "without a time-out", 1,
    ),
    "a rule that raises in round 1": ("--set aggregation.rule=own.py:f", LATE, "plugin", "round 1", "Mend the rule", 2),
    "one of two seeds": ("--seed 1,2 --set aggregation.rule=own.py:f", LATE, "plugin", "round 1", "Mend the rule", 2),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_fails_leaves_a_whole_directory(folder, name):
    sets, content, code, where, says, status = RUNS[name]
    (folder / "own.py").write_text(content)
    fails(folder, f"run small.toml {sets}", code, where, says, status, kept=True)
    for run_directory in (folder / "runs").iterdir():
        found = list(run_directory.rglob("result.json"))
        assert [json.loads(each.read_text())["error"]["code"] for each in found] == [code]
        assert all((each.parent / "report.html").is_file() for each in found)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run with a checkpoint, stopped by a rule that raises in round 1; and one that has ended well."""
    folder = tmp_path_factory.mktemp("stopped")
    (folder / "own.py").write_text(LATE)
    sets = "--set data.dataset=csv:a.csv --set run.checkpoint_every=1 --set federation.rounds=3"
    (folder / "a.csv").write_text(TABLE)
    (folder / "small.toml").write_text('[federation]\npeers = 3\n[data]\npartition = "iid"\n[model]\nname = "softmax"')
    with chdir(folder):
        done = call(f"run small.toml {sets} --set aggregation.rule=own.py:f --out run")
        assert done.status == 2, done.err
        assert call(f"run small.toml {sets} --out good").status == 0
    return folder


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def one(pattern):
    return lambda run_directory: cut(next(run_directory.glob(pattern)))


def remove(pattern):
    return lambda run_directory: next(run_directory.glob(pattern)).unlink()


def write(name, text):
    return lambda run_directory: (run_directory / name).write_text(text)


def change(name, old, new):
    def edit(run_directory):
        path = run_directory / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return edit


DAMAGES = {
    "a checkpoint cut short": ("resume run", one("checkpoint/state.msgpack"), "data", "state.msgpack", "damaged"),
    "vectors cut short": ("resume run", one("checkpoint/*.safetensors"), "data", ".safetensors", "damaged"),
    "vectors that are missing": ("resume run", remove("checkpoint/*.safetensors"), "data", ".safetensors", "damaged"),
    "a spec that is no TOML": ("resume run", write("spec.toml", "["), "data", "spec.toml", "damaged"),
    "a spec of another run": (
        "resume run", change("spec.toml", "lr = 0.3", "lr = 0.2"), "spec", "run", "Bring it back",
    ),
    "a spec that is wrong": (
        "resume run", change("spec.toml", "lr = 0.3", "lr = -1"), "spec", "training.lr", "greater",
    ),
    "an origin cut short": ("resume run", one("checkpoint/origin.json"), "data", "origin.json", "damaged"),
    "metrics that are missing": ("resume run", remove("metrics.jsonl"), "data", "metrics.jsonl", "damaged"),
    "metrics cut too short": ("resume run", write("metrics.jsonl", ""), "data", "metrics.jsonl", "damaged"),
    "a result cut short": ("report good", one("result.json"), "data", "result.json", "damaged"),
    "a result of another kind": ("report good", write("result.json", "[]"), "data", "result.json", "JSON object"),
    "metrics that are no JSON": ("report good", write("metrics.jsonl", "x\n"), "data", "line 1", "Remove"),
    "a plug-in that is gone": ("resume run", remove("../own.py"), "plugin", "aggregation.rule", "no file"),
    "data that is gone": ("resume run", remove("../a.csv"), "data", "data.dataset", "no CSV file"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_a_run_directory_that_is_damaged(folder, stopped, name):
    line, damage, code, where, says = DAMAGES[name]
    for each in stopped.iterdir():
        (shutil.copytree if each.is_dir() else shutil.copy)(each, folder / each.name)
    text = (folder / "run/checkpoint/origin.json").read_text()
    (folder / "run/checkpoint/origin.json").write_text(text.replace(str(stopped), str(folder)))
    damage(folder / line.split()[1])
    fails(folder, line, code, where, says, kept=True)


def test_a_run_that_has_ended_well_just_gives_its_result(stopped, monkeypatch):
    monkeypatch.chdir(stopped)
    done = call("resume good --json")
    assert (done.status, done.result["status"]) == (0, "ok")
