"""The result object, the run directory and its errors."""

import json
import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open

from coterie.errors import DataError, OutputError, TrainingDiverged
from coterie.runtime.progress import Quiet, RichProgress, duration, size
from coterie.runtime.results import PeerMetrics, Result, RunDirectory, summary

# The template of DESIGN.md, "Commands", with its types.
NUMBER = (int, float)
TEMPLATE = {
    "schema": str, "version": str, "status": str, "error": (dict, type(None)), "run": str, "spec_hash": str,
    "seed": int, "protocol": str, "peers": int, "rounds": int, "accuracy": dict, "loss": dict, "metrics": dict,
    "attack_rate": (*NUMBER, type(None)), "epsilon": (*NUMBER, type(None)), "seconds": NUMBER,
    "virtual_seconds": NUMBER, "bytes_sent": int, "model_hash": str, "ledger": (dict, type(None)),
}  # fmt: skip


def result(seed=7, accuracy=0.9, **changes):
    known = Result(
        status="ok", run=f"runs/digits/seed-{seed}", spec_hash="ab" * 32, seed=seed, protocol="gossip", peers=3,
        rounds=2, accuracy={"mean": accuracy, "min": 0.8, "max": 0.95}, loss={"mean": 0.3, "min": 0.2, "max": 0.4},
        metrics={"auc": 0.99}, attack_rate=0.25, seconds=1.5, virtual_seconds=60.0, bytes_sent=1000 * seed,
        model_hash=f"{seed:064x}", ledger={"blocks": 4, "head": "ff"},
    )  # fmt: skip
    return replace(known, **changes)


def metrics(**changes):
    record = PeerMetrics(
        round=1, peer="peer-0", index=0, attacker=False, time=1.5, accuracy=0.5, loss=1.25, train_loss=None,
        bytes_sent=10, weights={"peer-0": 0.5, "peer-1": 0.5}, trust=None,
    )  # fmt: skip
    return replace(record, **changes)


def directory(path):
    run = RunDirectory.create(path, "digits")
    run.write_spec({"federation": {"name": "digits"}})
    return run


def test_json_has_the_keys_and_types_of_the_contract():
    record = result().to_json()
    assert list(record) == list(TEMPLATE)
    for key, kind in TEMPLATE.items():
        assert isinstance(record[key], kind), key
    assert set(record["accuracy"]) == set(record["loss"]) == {"mean", "min", "max"}
    assert record["schema"] == "coterie.result/1"


@pytest.mark.parametrize(
    "one", [result(), result(attack_rate=None, ledger=None), result(epsilon=2.0, metrics={})], ids=["full", "no", "eps"]
)
def test_json_round_trip(one):
    assert Result.from_json(json.loads(json.dumps(one.to_json(), allow_nan=False))) == one


def test_a_failure_keeps_the_keys_and_has_no_nan():
    failed = Result.failure(TrainingDiverged("it diverged", where="peer-1", remedy="Lower lr."), seed=3)
    record = json.loads(json.dumps(failed.to_json(), allow_nan=False))
    assert list(record) == list(TEMPLATE)
    assert record["status"] == "failed"
    assert record["error"] == {"code": "diverged", "what": "it diverged", "where": "peer-1", "remedy": "Lower lr."}
    assert record["accuracy"] == {"mean": None, "min": None, "max": None}
    again = Result.from_json(record)
    assert math.isnan(again.accuracy["mean"])
    assert not again.ok
    assert again.seed == 3


def test_a_failure_that_is_not_one_of_ours():
    assert Result.failure(ZeroDivisionError("by zero")).error["what"] == "ZeroDivisionError: by zero"
    assert Result.failure(ZeroDivisionError("by zero")).error["code"] == "internal"
    interrupted = Result.failure(KeyboardInterrupt()).error
    assert interrupted["code"] == "interrupted"
    assert "coterie report RUN" in interrupted["remedy"]
    assert "coterie resume 'my runs/a'" in Result.failure(KeyboardInterrupt(), run="my runs/a").error["remedy"]


def test_several_seeds_are_means_and_deviations():
    values = [0.9, 0.8, 0.94]
    record = Result.of_seeds([result(seed, value) for seed, value in enumerate(values, 1)], "runs/digits").to_json()
    assert set(record) == (set(TEMPLATE) - {"seed"}) | {"seeds", "runs"}
    assert record["seeds"] == [1, 2, 3]
    assert record["runs"] == ["runs/digits/seed-1", "runs/digits/seed-2", "runs/digits/seed-3"]
    mean = record["accuracy"]["mean"]
    assert mean["mean"] == pytest.approx(np.mean(values))
    assert mean["std"] == pytest.approx(np.std(values, ddof=1))
    assert record["bytes_sent"] == {"mean": 2000.0, "std": 1000.0}
    assert record["metrics"]["auc"]["std"] == 0
    assert record["epsilon"] is None
    assert record["run"] == "runs/digits"
    assert Result.from_json(record).to_json() == record
    assert Result.from_json(record).accuracy["mean"] == pytest.approx(statistics.fmean(values))


def test_one_failed_seed_fails_all_but_keeps_the_figures_of_the_others():
    failed = Result.failure(TrainingDiverged("it diverged"), seed=2, run="b")
    record = Result.of_seeds([result(1), failed]).to_json()
    assert record["status"] == "failed"
    assert record["error"]["what"] == "it diverged"
    assert record["accuracy"]["mean"] == {"mean": 0.9, "std": 0.0}
    assert record["seeds"] == [1, 2]
    everything = Result.of_seeds([failed, failed]).to_json()
    assert everything["accuracy"]["mean"] == {"mean": None, "std": None}


def test_summary():
    assert summary([0.5, 1.0]) == {"mean": 0.75, "min": 0.5, "max": 1.0}
    assert math.isnan(summary([])["mean"])
    assert all(map(math.isnan, summary([0.5, math.nan]).values())), "in whatever order"
    assert summary([0.5, math.inf]) == {"mean": math.inf, "min": 0.5, "max": math.inf}


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_a_seed_whose_figure_is_not_finite_is_not_left_out_of_the_mean(odd):
    unknown = result(2, loss={"mean": odd, "min": 0.2, "max": odd})
    record = json.loads(json.dumps(Result.of_seeds([result(1), unknown]).to_json(), allow_nan=False))
    assert record["loss"]["mean"] == record["loss"]["max"] == {"mean": None, "std": None}
    assert record["loss"]["min"] == {"mean": 0.2, "std": 0.0}


def test_a_run_directory_keeps_what_was_written(tmp_path):
    run = RunDirectory.create(tmp_path / "a" / "b", "digits")
    run.write_spec({"federation": {"name": "digits", "peers": 3}, "gossip": {"fanout": None}})
    records = [metrics(), metrics(peer="peer-1", index=1, trust={"peer-0": 0.5}), metrics(round=2, train_loss=0.5)]
    for record in records:
        run.metrics(record)
    run.write_topology([(0, 1), (1, 2)])
    run.write_model("consensus", {"w": torch.arange(6.0).reshape(2, 3).t()}, (1, 8, 8), 10)
    run.write_result(result())

    read = RunDirectory.open(tmp_path / "a" / "b")
    assert read.spec == {"federation": {"name": "digits", "peers": 3}, "gossip": {}}
    assert read.records == records
    assert read.topology == [(0, 1), (1, 2)]
    assert read.result == result()
    with safe_open(read.models["consensus"], "pt") as file:
        assert file.metadata() == {"shape": "1,8,8", "classes": "10"}
        assert torch.equal(file.get_tensor("w"), torch.arange(6.0).reshape(2, 3).t())
    assert not [path for path in read.path.rglob("*") if path.name.startswith(".")], "temporary files are gone"


def test_numbers_that_are_not_finite_are_null_in_the_file(tmp_path):
    with directory(tmp_path / "run") as run:
        run.metrics(metrics(loss=math.inf, accuracy=math.nan, train_loss=np.float64(0.25), bytes_sent=np.int64(7)))
    line = json.loads((run.path / "metrics.jsonl").read_text())
    assert line["loss"] is None
    (record,) = run.records
    assert math.isnan(record.loss)
    assert math.isnan(record.accuracy)
    assert (record.train_loss, record.bytes_sent) == (0.25, 7)


def test_metrics_reach_the_disk_when_a_later_round_begins(tmp_path):
    run = directory(tmp_path / "run")
    run.metrics(metrics(round=1))
    run.metrics(metrics(round=1, peer="peer-1", index=1))
    run.metrics(metrics(round=2))
    assert [record.round for record in run.records] == [1, 1]
    run.close()
    assert [record.round for record in run.records] == [1, 1, 2]


def test_names_are_the_first_free_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [str(RunDirectory.create(None, "x").path) for _ in range(3)] == ["runs/x", "runs/x-2", "runs/x-3"]


@pytest.mark.parametrize("name", ["../x", "", "a/b", ".x"])
def test_a_name_cannot_leave_the_directory(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError):
        RunDirectory.create(None, name)
    run = directory(tmp_path / "run")
    with pytest.raises(OutputError):
        run.write_model(name, {"w": torch.zeros(1)}, (1,), 2)


def test_nothing_is_overwritten(tmp_path):
    used = tmp_path / "used"
    used.mkdir()
    (used / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="never overwrites"):
        RunDirectory.create(used, "x")
    with pytest.raises(OutputError, match="never overwrites"):
        RunDirectory.create(used / "notes.txt", "x")
    assert (used / "notes.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    RunDirectory.create(tmp_path / "empty", "x")


def test_an_unwritable_place_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written") as caught:
        RunDirectory.create(tmp_path / "file" / "run", "x")
    assert str(tmp_path / "file" / "run") in caught.value.where
    assert "--out" in caught.value.remedy


def test_a_full_disk_is_an_output_error_and_leaves_the_old_result(tmp_path, monkeypatch):
    run = directory(tmp_path / "run")
    run.write_result(result())

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        run.write_result(result(accuracy=0.1))
    assert run.result == result()
    assert sorted(path.name for path in run.path.iterdir()) == ["result.json", "spec.toml"]


def test_a_corrupt_line_is_named(tmp_path):
    with directory(tmp_path / "run") as run:
        run.metrics(metrics())
    with (run.path / "metrics.jsonl").open("a") as stream:
        stream.write('{"round": "two"}\n')
    with pytest.raises(DataError) as caught:
        RunDirectory.open(run.path).records  # noqa: B018
    assert caught.value.where.endswith("metrics.jsonl, line 2")


def test_an_unfinished_last_line_is_left_out(tmp_path):
    with directory(tmp_path / "run") as run:
        run.metrics(metrics())
    with (run.path / "metrics.jsonl").open("a") as stream:
        stream.write('{"round": 2, "pe')
    assert run.records == [metrics()]


@pytest.mark.parametrize(
    ("name", "content", "attribute"),
    [
        ("spec.toml", "= 3", "spec"),
        ("spec.toml", "federation = 3", "spec"),
        ("result.json", "{", "result"),
        ("result.json", "[]", "result"),
        ("result.json", '{"schema": "coterie.result/9"}', "result"),
        ("result.json", '{"schema": "coterie.result/1"}', "result"),
        ("result.json", json.dumps(result().to_json() | {"bytes_sent": "many"}), "result"),
        ("topology.json", '{"edges": [[0]]}', "topology"),
        ("topology.json", "{}", "topology"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, attribute):
    run = directory(tmp_path / "run")
    (run.path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        getattr(RunDirectory.open(run.path), attribute)
    assert name in caught.value.where
    assert caught.value.remedy


def test_missing_files(tmp_path):
    with pytest.raises(DataError, match="no such run directory"):
        RunDirectory.open(tmp_path / "none")
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match="not a run directory"):
        RunDirectory.open(tmp_path / "other")
    run = directory(tmp_path / "run")
    assert (run.records, run.topology, run.models, run.seeds) == ([], None, {}, {})
    with pytest.raises(DataError, match="no such file"):
        run.result  # noqa: B018


def test_seeds_are_found_in_numerical_order(tmp_path):
    parent = directory(tmp_path / "run")
    for seed in (10, 9):
        directory(tmp_path / "run" / f"seed-{seed}")
    (tmp_path / "run" / "seed-x").mkdir()
    assert list(parent.seeds) == [9, 10]


def test_sizes_and_times_for_people():
    assert [size(n) for n in (0, 999, 1000, 99_960, 1_234_567, 5e15)] == [
        "0 B", "999 B", "1.0 kB", "100 kB", "1.2 MB", "5000.0 TB"
    ]  # fmt: skip
    assert [duration(s) for s in (1.25, 61, 3725)] == ["1.2 s", "1 min 1 s", "1 h 2 min"]


class Tables:
    """As much of a spec as progress reads."""

    class federation:  # noqa: N801
        name, rounds, protocol = "digits", 1000, "gossip"

    seed = 7


def test_progress_off_a_terminal_is_a_line_now_and_then(capsys):
    now = 0.0
    with RichProgress(clock=lambda: now) as progress:
        progress.start(Tables, 10)
        for number in range(1, 1001):
            now = number * 0.05
            progress.round_done(number, 1000, [0.5, 0.7] if number % 2 else [], 1000 * number)
        progress.finish(result())
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "digits, seed 7: 10 peers, 1000 rounds, gossip"
    assert len(lines) == 1 + 5
    assert "round 200/1000, accuracy 0.600 (0.500 to 0.700), 200 kB sent by all, 10.0 s, 40.0 s left" in lines[1]
    assert "left" not in lines[-1]


def test_progress_on_a_terminal_and_quiet(capsys):
    from rich.console import Console

    with RichProgress(Console(stderr=True, force_terminal=True, width=120)) as progress:
        progress.start(Tables, 10)
        progress.round_done(1, 1000, [0.5, 0.7], 1000)
        progress.finish(Result.failure(TrainingDiverged("it [b]diverged")))
    output = capsys.readouterr()
    assert "digits, seed 7" in output.err
    assert "failed: it [b]diverged" in output.err
    quiet = Quiet()
    quiet.start(Tables, 10)
    quiet.round_done(1, 1000, [], 0)
    quiet.finish(result())
    assert output.out == capsys.readouterr().err == ""
