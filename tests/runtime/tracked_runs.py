"""Runs for the tests of trackers: started, stopped, and read back with the trackers' own readers."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import coterie

SETS = [
    "federation.peers=4",
    "federation.rounds=5",
    "model.name=softmax",
    "evaluation.samples=50",
    "training.local_steps=2",
    "attack.kind=sign_flip",
    "attack.fraction=0.25",
]


def run(out: Path, *sets: str, **options: Any) -> coterie.Result:
    return coterie.run(sets=[*SETS, *sets], out=out, workers=0, **options)


def expected(folder: Path) -> dict[str, dict[int, float]]:
    """By figure and round, computed from ``metrics.jsonl`` alone."""
    rounds = defaultdict(list)
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        rounds[record["round"]].append(record)
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for number, records in rounds.items():
        good = [record for record in records if not record["attacker"]]
        bad = {record["peer"] for record in records if record["attacker"]}
        for name in ("accuracy", "loss"):
            values = np.array([record[name] for record in good])
            found[f"{name}/mean"][number] = values.mean()
            found[f"{name}/min"][number], found[f"{name}/max"][number] = values.min(), values.max()
        found["train_loss/mean"][number] = np.mean([record["train_loss"] for record in good])
        found["bytes_sent"][number] = sum(record["bytes_sent"] for record in records)
        pairs = [(r["peer"], p, t) for r in good for p, t in (r["trust"] or {}).items() if p != r["peer"]]
        for name, chosen in (
            ("trust/attackers", [trust for _, peer, trust in pairs if peer in bad]),
            ("trust/honest", [trust for _, peer, trust in pairs if peer not in bad]),
        ):
            if chosen:
                found[name][number] = np.mean(chosen)
    return found


def events(folder: Path) -> EventAccumulator:
    """What TensorBoard finds in a run directory."""
    return EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    read = events(folder)
    return {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def hparams(folder: Path) -> dict[str, Any]:
    """Some of what the HPARAMS page shows."""
    content = events(folder).PluginTagToContent("hparams")
    assert "_hparams_/session_end_info" in content
    begun = HParamsPluginData.FromString(content["_hparams_/session_start_info"]).session_start_info.hparams
    kinds = {name: getattr(begun[name], begun[name].WhichOneof("kind")) for name in begun}
    return {name: kinds[name] for name in ("federation.peers", "model.name", "training.local_steps")}


def require_scalars(folder: Path) -> None:
    """Every figure of every round once, in order, and no other."""
    found = {tag: values for tag, values in scalars(folder).items() if not tag.startswith("final/")}
    wanted = expected(folder)
    assert sorted(found) == sorted(wanted)
    for tag, values in found.items():
        assert [step for step, _ in values] == sorted(wanted[tag])
        np.testing.assert_allclose([v for _, v in values], [wanted[tag][s] for s, _ in values], rtol=1e-6)


def require_mlflow(folder: Path, client: MlflowClient) -> Any:
    """The same of MLflow, to all digits; gives the run there."""
    run = client.get_run(json.loads((folder / "mlflow.json").read_text())["run_id"])
    for tag, values in expected(folder).items():
        history = client.get_metric_history(run.info.run_id, tag)
        assert [metric.step for metric in history] == sorted(values)
        np.testing.assert_allclose([m.value for m in history], [values[m.step] for m in history], rtol=1e-12)
    return run
