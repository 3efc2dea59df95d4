"""``coterie.run`` and ``coterie.load``: what is written, what is left as it was, and what is refused."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import coterie
from coterie.errors import DataError, OutputError, SpecError, TrainingDiverged

SMALL = [
    "federation.peers=4",
    "federation.rounds=3",
    "model.name=softmax",
    "evaluation.samples=50",
    "training.local_steps=2",
]


def quick(folder: Path, *sets: str, **options: Any) -> coterie.Result:
    return coterie.run(sets=[*SMALL, *sets], out=folder / "run", workers=0, **options)


def test_a_run_directory_holds_what_the_result_says(tmp_path: Path) -> None:
    result = quick(tmp_path)
    run = tmp_path / "run"
    assert json.loads((run / "result.json").read_text())["model_hash"] == result.model_hash
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {(line["round"], line["peer"]) for line in lines} == {(r, f"peer-{p}") for r in range(3) for p in range(4)}
    assert sorted(path.name for path in (run / "models").iterdir()) == [f"peer-{p}.safetensors" for p in range(4)]
    assert (run / "report.html").stat().st_size > 10_000
    again = coterie.run(run / "spec.toml", out=str(tmp_path / "again"), data_dir=str(tmp_path), workers=0)
    assert (again.model_hash, again.spec_hash) == (result.model_hash, result.spec_hash)


def test_load_gives_the_final_model_back(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    result = quick(tmp_path, "federation.rounds=20")
    model = coterie.load(tmp_path / "run", "peer-2")
    images, labels = load_digits(return_X_y=True)
    with torch.no_grad():
        found = model(torch.tensor(images.reshape(-1, 1, 8, 8) / 16, dtype=torch.float32)).argmax(1).numpy()
    assert not model.training
    assert (found == labels).mean() > result.accuracy["min"] - 0.1
    with pytest.raises(DataError, match="peer-9"):
        coterie.load(tmp_path / "run", "peer-9")
    (tmp_path / "run/models/peer-2.safetensors").write_bytes(b"broken")
    with pytest.raises(DataError, match="cannot be read"):
        coterie.load(tmp_path / "run", "peer-2")


def test_batch_norm_models_come_back_with_their_local_buffers(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def net(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, classes))\n"
    )
    (tmp_path / "net.toml").write_text('[model]\nname = "net.py:net"\n')
    coterie.run(tmp_path / "net.toml", sets=SMALL[:2], out=tmp_path / "run", workers=0)
    assert coterie.load(tmp_path / "run")[1].num_batches_tracked == 3 * 10
    assert (tmp_path / "run/net.py").exists()


def test_several_seeds_give_means_and_deviations(tmp_path: Path) -> None:
    result = quick(tmp_path, seeds=[1, 2, 3])
    each = [json.loads((tmp_path / f"run/seed-{seed}/result.json").read_text()) for seed in (1, 2, 3)]
    means = [one["accuracy"]["mean"] for one in each]
    assert result.seeds == (1, 2, 3)
    assert result.accuracy["mean"] == pytest.approx(np.mean(means))
    assert result.deviation is not None
    assert result.deviation["accuracy"]["mean"] == pytest.approx(np.std(means, ddof=1))
    listed = coterie.run(sets=[*SMALL, "federation.seed=[1, 2, 3]"], out=tmp_path / "listed", workers=0)
    assert listed.model_hash == result.model_hash


@pytest.mark.parametrize("seeds", [[], [1, 1]])
def test_seeds_must_differ(tmp_path: Path, seeds: list[int]) -> None:
    with pytest.raises(SpecError, match="seeds"):
        quick(tmp_path, seeds=seeds)
    assert not (tmp_path / "run").exists()


def test_a_failed_run_says_so_in_its_directory(tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged) as caught:
        quick(tmp_path, "training.lr=1e38", "training.clip=0")
    written = json.loads((tmp_path / "run/result.json").read_text())
    assert written["status"] == "failed"
    assert written["error"] == caught.value.record()
    assert caught.value.result.run == str(tmp_path / "run")


def test_a_failed_run_whose_report_fails_too_tells_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(_: Path) -> None:
        raise DataError("a line cannot be read")

    monkeypatch.setattr("coterie.runtime.run.write_report", damaged)
    with pytest.raises(TrainingDiverged):
        quick(tmp_path, "training.lr=1e38", "training.clip=0")


def test_a_run_never_overwrites(tmp_path: Path) -> None:
    quick(tmp_path)
    before = (tmp_path / "run/result.json").read_bytes()
    with pytest.raises(OutputError, match="never overwrites"):
        quick(tmp_path)
    assert (tmp_path / "run/result.json").read_bytes() == before


def test_the_callers_generators_and_threads_stay_as_they_were(tmp_path: Path) -> None:
    def draws() -> tuple[float, float, float, int]:
        return random.random(), float(np.random.rand()), float(torch.rand(())), torch.get_num_threads()

    def seeded() -> None:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)

    seeded()
    expected = draws()
    seeded()
    quick(tmp_path)
    assert draws() == expected


def test_it_runs_inside_a_running_event_loop(tmp_path: Path) -> None:
    async def cell() -> str:
        return quick(tmp_path).model_hash

    outside = coterie.run(sets=SMALL, out=tmp_path / "outside", workers=0)
    assert asyncio.run(cell()) == outside.model_hash
