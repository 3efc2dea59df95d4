"""A spec for the data package alone: no model, rule or protocol has to be registered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coterie import registry, spec
from coterie.data import Dataset
from coterie.registry import Component


def make_spec(*, peers: int = 5, seed: int = 7, partition: str = "iid", base: Path | None = None, **data: Any):
    """A Spec whose [data] holds ``data``; keys the table does not know are settings of the partition."""
    table = {k: data.pop(k) for k in list(data) if k in spec.DataTable.model_fields}
    component = registry.partitions.resolve(partition, base or Path(), "data.partition")
    unused = Component("unused", lambda: None)
    return spec.Spec(
        federation=spec.FederationTable(peers=peers, seed=seed),
        data=spec.DataTable(partition=partition, **table),
        model=spec.ModelTable(),
        training=spec.TrainingTable(),
        aggregation=spec.AggregationTable(),
        topology=spec.TopologyTable(),
        attack=None,
        compute=spec.ComputeTable(),
        network=spec.NetworkTable(),
        faults=spec.FaultsTable(),
        run=spec.RunTable(),
        evaluation=spec.EvaluationTable(),
        matrix=None,
        protocol=spec.Choice(unused, {}),
        dataset=unused,
        loss=unused,
        choices={"data": spec.Choice(component, component.settings(data, "data"))},
        seeds=(seed,),
        base=Path(),
        given={},
    )


def make_dataset(labels: Any, groups: Any = None) -> Dataset:
    """A dataset with these training labels; its one feature is the index of the sample."""
    y = np.asarray(labels, dtype=np.int64)
    x = np.arange(len(y), dtype=np.float32)[:, None]
    test = np.array([0, 1])
    return Dataset("made", x, y, x[:2], test, int(y.max()) + 1, groups if groups is None else np.asarray(groups))


@pytest.fixture(name="make_spec", scope="session")
def _make_spec():
    return make_spec


@pytest.fixture(name="make_dataset", scope="session")
def _make_dataset():
    return make_dataset


@pytest.fixture(autouse=True)
def _no_local_files(monkeypatch, tmp_path):
    """No test finds the user's own files or writes into the user's cache."""
    monkeypatch.delenv("COTERIE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
