"""A run that is stopped and resumed ends with the bits of one that was not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import coterie
from coterie import spec as specs
from coterie.errors import DataError, OutputError, PluginError, SpecError
from coterie.runtime.results import Origin, RunDirectory
from coterie.runtime.simulation import checkpoint

PARTS = Path(__file__).parent / "simulation"
FAULTS = {
    "network": {"loss": 0.03},
    "faults": {"crashes_per_minute": 3.0, "restart_seconds": 1.0},
    "run": {"checkpoint_every": 3},
}
BASE: dict[str, Any] = {
    "federation": {"name": "small", "peers": 5, "rounds": 11, "seed": 1},
    "data": {"dataset": "blobs.py:blobs", "root": 20},
    "model": {"name": "softmax"},
    "training": {"lr": 0.1, "local_steps": 3, "batch_size": 16},
    "evaluation": {"every": 2},
    **FAULTS,
}
CASES = {
    "gossip": {},
    "trust with moves": {"aggregation": {"rule": "clip_and_trust_root"}},
    "a module with buffers": {"model": {"name": "fragile.py:noisy"}},
    "a rule that remembers rows": {"aggregation": {"rule": "fragile.py:in_place"}},
    "adam goes on": {"training": {"optimizer": "adam", "lr": 0.01, "optimizer_state": "keep", "local_steps": 3}},
    "warm-up and pauses": {"gossip": {"warmup": 2, "swap_every": 4}},
    "fedavg": {"federation": {**BASE["federation"], "protocol": "fedavg"}},
    "mixing before training": {"federation": {**BASE["federation"], "protocol": "fragile.py:mixes_first"}},
    "swarm": {"federation": {**BASE["federation"], "protocol": "swarm"}},
    "isolated": {"federation": {**BASE["federation"], "protocol": "isolated"}},
    "central": {"federation": {**BASE["federation"], "protocol": "central"}},
}


class Stopped(KeyboardInterrupt):
    """What a test stops a run with."""


def parts(tmp_path: Path) -> Path:
    for name in ("blobs.py", "fragile.py"):
        shutil.copy(PARTS / name, tmp_path)
    return tmp_path


def start(spec: dict[str, Any], out: Path, **options: Any) -> coterie.Result:
    return coterie.run(spec, out=out, workers=0, **options)


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take longer than these runs."""
    monkeypatch.setattr("coterie.runtime.run.write_report", lambda path: path)


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Stops runs right after they have written so many checkpoints; a number of None lets them run."""
    left: list[int | None] = [None]
    save = checkpoint.save

    def saving(*arguments: Any) -> None:
        save(*arguments)
        if left[0] is not None:
            left[0] -= 1
            if left[0] <= 0:
                raise Stopped

    monkeypatch.setattr(checkpoint, "save", saving)

    def put(count: int | None) -> None:
        left[0] = count

    return put


@pytest.mark.parametrize("name", CASES)
def test_a_resumed_run_ends_with_the_same_bits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: Any
) -> None:
    monkeypatch.chdir(parts(tmp_path))
    spec = BASE | CASES[name]
    whole = start(spec, tmp_path / "whole")
    for count in (1, 2, 3):
        out = tmp_path / f"stopped-{count}"
        stop_after(count)
        with pytest.raises(Stopped):
            start(spec, out)
        stop_after(None)
        result = coterie.resume(out, workers=0)
        same = ("model_hash", "accuracy", "loss", "virtual_seconds", "bytes_sent", "spec_hash", "status")
        assert [getattr(result, key) for key in same] == [getattr(whole, key) for key in same]
        assert (out / "metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()
        assert not (out / "checkpoint").exists()


def test_a_run_resumed_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: Any) -> None:
    monkeypatch.chdir(parts(tmp_path))
    whole = start(BASE, tmp_path / "whole")
    out = tmp_path / "stopped"
    stop_after(1)
    with pytest.raises(Stopped):
        start(BASE, out)
    stop_after(1)
    with pytest.raises(Stopped):
        coterie.resume(out, workers=0)
    stop_after(None)
    assert coterie.resume(out, workers=0).model_hash == whole.model_hash
    assert coterie.resume(out, workers=0).model_hash == whole.model_hash  # it is complete: the result is read
    assert not (out / "checkpoint").exists()
    assert len(RunDirectory.open(out).records) == len(RunDirectory.open(tmp_path / "whole").records)


def test_the_checkpoints_change_nothing_but_by_their_barriers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every peer draws its partners from a generator that a barrier seeds again; without partners, nothing differs."""
    monkeypatch.chdir(parts(tmp_path))
    alone = BASE | {"federation": {**BASE["federation"], "protocol": "isolated"}, "faults": {}}
    hashes = {
        start(alone | {"run": {"checkpoint_every": every}}, tmp_path / f"{every}").model_hash for every in (0, 1, 4)
    }
    assert len(hashes) == 1


def test_several_seeds_go_on_where_they_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: Any
) -> None:
    monkeypatch.chdir(parts(tmp_path))
    whole = start(BASE, tmp_path / "whole", seeds=[3, 4, 5])
    out = tmp_path / "stopped"
    stop_after(5)  # the first seed has made three
    with pytest.raises(Stopped):
        start(BASE, out, seeds=[3, 4, 5])
    assert sorted(RunDirectory.open(out).seeds) == [3, 4]
    stop_after(None)
    first = (out / "seed-3/result.json").stat().st_mtime_ns
    result = coterie.resume(out, workers=0)
    assert (result.model_hash, result.seeds) == (whole.model_hash, (3, 4, 5))
    assert (out / "seed-3/result.json").stat().st_mtime_ns == first, "what has ended well is not run again"
    assert not list(out.rglob("checkpoint"))


def test_ctrl_c_tells_what_the_directory_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: Any
) -> None:
    monkeypatch.chdir(parts(tmp_path))
    stop_after(1)
    with pytest.raises(Stopped) as caught:
        start(BASE, tmp_path / "one")
    assert caught.value.result == RunDirectory.open(tmp_path / "one").result
    assert caught.value.result.peers == 5
    stop_after(1)
    with pytest.raises(Stopped) as caught:
        start(BASE, tmp_path / "several", seeds=[3, 4])
    assert caught.value.result.run == str(tmp_path / "several"), "which can be gone on with"


def test_a_run_without_a_checkpoint_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: Any
) -> None:
    monkeypatch.chdir(parts(tmp_path))
    whole = start(BASE, tmp_path / "whole")
    stop_after(2)
    with pytest.raises(Stopped):
        start(BASE, tmp_path / "stopped")
    stop_after(None)
    (tmp_path / "stopped/checkpoint/state.msgpack").unlink()
    result = coterie.resume(tmp_path / "stopped", workers=0)
    assert result.model_hash == whole.model_hash
    assert (tmp_path / "stopped/metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()


def test_what_is_not_as_it_was_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: Any) -> None:
    monkeypatch.chdir(parts(tmp_path))
    spec = BASE | {"aggregation": {"rule": "fragile.py:in_place"}}
    out = tmp_path / "stopped"
    stop_after(1)
    with pytest.raises(Stopped):
        start(spec, out)
    stop_after(None)
    state = out / "checkpoint/state.msgpack"
    kept = state.read_bytes()
    for damage in (b"", kept[: len(kept) // 2], b"\x80", b"\xc1" + kept[1:]):
        state.write_bytes(damage)
        with pytest.raises(DataError, match="the checkpoint is damaged"):
            coterie.resume(out, workers=0)
    state.write_bytes(kept)
    vectors = next((out / "checkpoint").glob("*.safetensors"))
    held = vectors.read_bytes()
    vectors.write_bytes(held[:1000])
    with pytest.raises(DataError, match="the checkpoint is damaged"):
        coterie.resume(out, workers=0)
    vectors.write_bytes(held)
    (tmp_path / "fragile.py").write_text((tmp_path / "fragile.py").read_text() + "\n# changed\n")
    with pytest.raises(SpecError, match="is not what it was"):
        coterie.resume(out, workers=0)
    (tmp_path / "fragile.py").unlink()
    with pytest.raises(PluginError):
        coterie.resume(out, workers=0)


def test_what_is_refused_leaves_the_directory_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: Any
) -> None:
    """A plug-in that has got a setting would add it to spec.toml, where the one brought back does not know it."""
    monkeypatch.chdir(parts(tmp_path))
    spec = BASE | {"aggregation": {"rule": "fragile.py:in_place"}}
    whole, out = start(spec, tmp_path / "whole"), tmp_path / "stopped"
    stop_after(1)
    with pytest.raises(Stopped):
        start(spec, out)
    stop_after(None)
    kept = (tmp_path / "fragile.py").read_text()
    given = "in_place(own, received, context, state, judge"
    changed = kept.replace(given, f"{given}, *, more: int = 1")
    assert changed != kept
    (tmp_path / "fragile.py").write_text(changed)
    with pytest.raises(SpecError, match="is not what it was"):
        coterie.resume(out, workers=0)
    (tmp_path / "fragile.py").write_text(kept)
    assert coterie.resume(out, workers=0).model_hash == whole.model_hash


def test_other_data_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: Any) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 3)), rng.integers(0, 2, 200)
    spec = BASE | {"data": {"dataset": "npz:d.npz", "partition": "iid"}}
    np.savez("d.npz", x_train=x, y_train=y)
    whole = start(spec, tmp_path / "whole")
    stop_after(1)
    with pytest.raises(Stopped):
        start(spec, tmp_path / "stopped")
    stop_after(None)
    other = x.copy()
    other[17, 2] += 0.01
    np.savez("d.npz", x_train=other, y_train=y)
    with pytest.raises(DataError, match="the data are not what they were"):
        coterie.resume(tmp_path / "stopped", workers=0)
    np.savez("d.npz", x_train=x, y_train=y)
    assert coterie.resume(tmp_path / "stopped", workers=0).model_hash == whole.model_hash


def test_seeds_of_two_versions_of_a_plugin_are_not_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: Any
) -> None:
    monkeypatch.chdir(parts(tmp_path))
    spec = BASE | {"aggregation": {"rule": "fragile.py:in_place"}}
    stop_after(4)  # the first seed has made three, and ended well
    with pytest.raises(Stopped):
        start(spec, tmp_path / "stopped", seeds=[3, 4])
    stop_after(None)
    (tmp_path / "stopped/seed-4/checkpoint/state.msgpack").unlink()
    changed = (tmp_path / "fragile.py").read_text().replace("0.9 * own + 0.1 * last", "own")
    (tmp_path / "fragile.py").write_text(changed)
    with pytest.raises(SpecError, match="is not what it was"):
        coterie.resume(tmp_path / "stopped", workers=0)


def test_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: Any) -> None:
    monkeypatch.chdir(parts(tmp_path))
    stop_after(1)
    with pytest.raises(Stopped):
        start(BASE, tmp_path / "stopped")
    with (
        RunDirectory.open(tmp_path / "stopped").locked(),
        pytest.raises(OutputError, match="another process is at work"),
    ):
        coterie.resume(tmp_path / "stopped", workers=0)


def test_a_rule_that_remembers_what_cannot_be_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(parts(tmp_path))
    (tmp_path / "rule.py").write_text(
        "import torch\n"
        "def odd(own, received, context, state, judge):\n"
        "    return own, torch.eye(len(received) + 1)[0], {'names': {'a', 'b'}}\n"
    )
    spec = BASE | {"aggregation": {"rule": "rule.py:odd"}}
    with pytest.raises(PluginError, match="a set in the store of peer-0 cannot be saved") as caught:
        start(spec, tmp_path / "out")
    assert "checkpoint_every = 0" in caught.value.remedy
    assert start(spec | {"run": {"checkpoint_every": 0}}, tmp_path / "none").ok


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(parts(tmp_path))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OutputError, match="No space left") as caught:
        start(BASE, tmp_path / "out")
    assert "checkpoint_every = 0" in caught.value.remedy
    assert not list((tmp_path / "out/checkpoint").glob("state*"))


def test_a_run_on_processes_does_not_become_a_simulation(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", "digits")
    run.write_spec(specs.load().resolved())
    run.write_origin(Origin(str(tmp_path), None, on="processes"))
    with pytest.raises(SpecError, match="a run on processes has no checkpoints") as caught:
        coterie.resume(run.path)
    assert "--on processes" in caught.value.remedy
    assert not (run.path / "result.json").exists()
