"""Trackers hold what ``metrics.jsonl`` does, and the run is the same with them, without them, or with a dead server."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tracked_runs as runs
from mlflow import MlflowClient
from typer.testing import CliRunner

import coterie
from coterie.cli import app
from coterie.errors import DataError, OutputError, SpecError
from coterie.runtime.results import RunDirectory
from coterie.runtime.tracking import export, feeders


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A folder for MLflow, which the environment names."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/store")
    return MlflowClient(f"file:{tmp_path}/store", registry_uri="")


@pytest.fixture(autouse=True)
def small_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take longer than these runs."""

    def write(path: Path) -> Path:
        (path / "report.html").write_text("<p>report</p>")
        return path

    monkeypatch.setattr("coterie.runtime.run.write_report", write)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without trackers."""
    out = tmp_path_factory.mktemp("plain") / "run"
    runs.run(out)
    return out


def test_both_hold_what_metrics_jsonl_does(
    tmp_path: Path, store: MlflowClient, plain: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "study"
    result = runs.run(out, track=["tensorboard", "mlflow", "tensorboard"])
    assert not [record for record in caplog.records if record.name == "coterie.tracking"]
    assert (out / "metrics.jsonl").read_bytes() == (plain / "metrics.jsonl").read_bytes()
    assert result.model_hash == RunDirectory(plain).result.model_hash

    runs.require_scalars(out)
    found = runs.scalars(out)
    assert found["final/accuracy/mean"] == [(4, pytest.approx(result.accuracy["mean"]))]
    assert "trust/attackers" in found
    assert runs.hparams(out) == {"federation.peers": 4.0, "model.name": "softmax", "training.local_steps": 2.0}

    run = runs.require_mlflow(out, store)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "study"
    assert store.get_experiment(run.info.experiment_id).name == "digits"
    assert run.data.metrics["final/accuracy/mean"] == result.accuracy["mean"]
    assert run.data.tags["coterie.model_hash"] == result.model_hash
    assert {key: run.data.params[key] for key in ("federation.peers", "model.name", "training.local_steps")} == {
        "federation.peers": "4",
        "model.name": "softmax",
        "training.local_steps": "2",
    }
    kept = {item.path for item in store.list_artifacts(run.info.run_id)}
    assert kept == {"spec.toml", "result.json", "report.html"}


def test_a_run_that_is_resumed_is_tracked_as_one(tmp_path: Path, store: MlflowClient) -> None:
    out, sets = tmp_path / "run", ("run.checkpoint_every=2", "federation.rounds=7")

    class Stop:
        def start(self, *_: Any) -> None: ...
        def finish(self, *_: Any) -> None: ...
        def round_done(self, round: int, *_: Any) -> None:
            if round == 4:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.run(out, *sets, track=["tensorboard", "mlflow"], progress=Stop())  # type: ignore[arg-type]
    runs.require_scalars(out)
    assert runs.require_mlflow(out, store).info.status == "KILLED"
    assert coterie.resume(out, workers=0).ok
    runs.require_scalars(out)
    run = runs.require_mlflow(out, store)
    assert run.info.status == "FINISHED"
    assert len(store.search_runs([run.info.experiment_id])) == 1
    assert len(list((out / "tensorboard").iterdir())) == 1


def test_each_of_several_seeds_is_tracked(tmp_path: Path) -> None:
    runs.run(tmp_path / "run", seeds=[1, 2], track=["tensorboard"])
    for seed in (1, 2):
        runs.require_scalars(tmp_path / "run" / f"seed-{seed}")


def test_a_server_that_is_down_costs_one_warning(
    tmp_path: Path, store: MlflowClient, plain: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    named = f"file:{tmp_path}/store"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{port}")
    result = runs.run(tmp_path / "run", track=["mlflow"])
    assert result.model_hash == RunDirectory(plain).result.model_hash
    said = [record.getMessage() for record in caplog.records if record.name == "coterie.tracking"]
    assert len(said) == 1
    assert f"MLflow at http://127.0.0.1:{port}" in said[0]
    assert f"coterie export {tmp_path}/run --to mlflow" in said[0]
    assert "secret" not in said[0]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", named)
    for _ in range(2):
        export(tmp_path / "run", ["mlflow"])
        run = runs.require_mlflow(tmp_path / "run", store)
        assert len(store.get_metric_history(run.info.run_id, "final/accuracy/mean")) == 1
    assert len(store.search_runs([run.info.experiment_id])) == 1


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that accepts, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_server_that_does_not_answer_is_not_waited_for(
    tmp_path: Path, silent: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "600")
    monkeypatch.setattr(feeders, "_PATIENCE", 0.5)
    begun = time.monotonic()
    assert runs.run(tmp_path / "run", track=["mlflow"]).ok
    assert time.monotonic() - begun < 120
    said = [record.getMessage() for record in caplog.records if record.name == "coterie.tracking"]
    assert len(said) == 1
    assert "not taken everything in time" in said[0]


def test_a_finished_run_is_exported(tmp_path: Path, plain: Path) -> None:
    for _ in range(2):
        assert export(plain, ["tensorboard"]) == [f"Wrote {plain}/tensorboard"]
        runs.require_scalars(plain)
    with pytest.raises(DataError, match="no such run"):
        export(tmp_path / "none", ["tensorboard"])
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    for name in ("spec.toml", "metrics.jsonl", "result.json"):
        (blocked / name).write_bytes((plain / name).read_bytes())
    (blocked / "tensorboard").write_text("in the way")
    with pytest.raises(OutputError, match="tensorboard"):
        export(blocked, ["tensorboard"])


def test_real_nodes_are_tracked_too(tmp_path: Path) -> None:
    sets = ["federation.peers=2", "federation.rounds=2", "model.name=softmax"]
    coterie.run(sets=sets, out=tmp_path / "run", on="processes", track=["tensorboard"])
    runs.require_scalars(tmp_path / "run")
    home = tmp_path / "run/nodes/peer-0"
    done = CliRunner().invoke(app, ["export", str(home), "--to", "tensorboard"])
    assert (done.exit_code, done.output) == (0, f"Wrote {home}/tensorboard\n")
    runs.require_scalars(home)


def test_a_feeder_ends_with_its_run(tmp_path: Path, plain: Path) -> None:
    command = [sys.executable, "-m", "coterie.runtime.tracking", "tensorboard", str(plain), "4"]
    assert subprocess.run(command, stdin=subprocess.DEVNULL, timeout=120).returncode == 0


def test_the_options_of_the_commands(tmp_path: Path) -> None:
    sets = [part for key in runs.SETS for part in ("--set", key)]
    out = str(tmp_path / "run")
    done = CliRunner().invoke(app, ["run", *sets, "--workers", "0", "--out", out, "--track", "tensorboard"])
    assert done.exit_code == 0, done.output
    runs.require_scalars(tmp_path / "run")
    assert CliRunner().invoke(app, ["export", out, "--to", "nowhere"]).exit_code == 2


def test_an_unknown_tracker_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no tracker 'tensorbord'\. Did you mean 'tensorboard'"):
        runs.run(tmp_path / "run", track=["tensorbord"])
    assert not (tmp_path / "run").exists()


HIDDEN = """
import sys
from pathlib import Path
sys.modules["tensorboard"] = sys.modules["mlflow"] = None
import coterie
for name in ("tensorboard", "mlflow"):
    try:
        coterie.run(track=[name], out=Path(sys.argv[1]))
    except coterie.errors.SpecError as error:
        print(error)
"""
LEAN = """
import sys
from pathlib import Path
import coterie
sets = ["federation.peers=2", "federation.rounds=1", "model.name=softmax", "training.local_steps=1"]
coterie.run(sets=sets, out=Path(sys.argv[1]), workers=0, track=["tensorboard"])
print(sorted({"tensorboard", "mlflow", "prometheus_client", "google.protobuf"} & set(sys.modules)))
"""


def python(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_absent_extra_is_one_sentence(tmp_path: Path) -> None:
    assert python(HIDDEN, str(tmp_path / "run")).splitlines() == [
        f"track: {name} is not installed. pip install 'coterie[{name}]'" for name in ("tensorboard", "mlflow")
    ]
    assert not (tmp_path / "run").exists()


def test_the_process_of_the_run_imports_no_tracker(tmp_path: Path) -> None:
    assert python(LEAN, str(tmp_path / "run")) == "[]\n"
    assert json.loads((tmp_path / "run/result.json").read_text())["status"] == "ok"
    assert list((tmp_path / "run/tensorboard").iterdir())
