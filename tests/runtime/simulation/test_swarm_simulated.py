"""Protocol swarm run from a spec: as good as FedAvg, one model everywhere, through faults too."""

from __future__ import annotations

from typing import Any

import pytest
from small_federation import simulate, small

from coterie.errors import SpecError
from coterie.runtime.results import PeerMetrics
from coterie.runtime.simulation.workers import WorkerPool

SWARM: dict[str, Any] = {"federation__protocol": "swarm", "federation__rounds": 8}


def one_model(simulation: Any) -> bool:
    arena, members = simulation.arena, simulation.federation.members
    first = arena[members[0].learner.block]
    return all(bool((arena[member.learner.block] == first).all()) for member in members)


def test_it_is_as_good_as_fedavg_and_ends_at_one_model() -> None:
    swarm, simulation = simulate(small(**SWARM, swarm__weigh_by_samples=True))
    assert one_model(simulation)
    fedavg, _ = simulate(small(federation__protocol="fedavg", federation__rounds=8))
    assert swarm["accuracy"]["mean"] >= fedavg["accuracy"]["mean"] - 0.01
    assert swarm["accuracy"]["min"] == swarm["accuracy"]["max"]


@pytest.mark.parametrize("seed", range(8))
def test_crashes_and_losses_leave_one_model(seed: int) -> None:
    spec = small(
        **SWARM,
        federation__seed=seed,
        network__loss=0.05,
        compute__spread=0.8,
        faults__crashes_per_minute=20.0,
        faults__restart_seconds=1.0,
        swarm__full_wait=0.5,
    )
    outcome, simulation = simulate(spec)
    assert one_model(simulation)
    assert any(member.starts > 1 for member in simulation.federation.members), "no peer crashed: the test shows nothing"
    assert simulate(spec)[0] == outcome


def test_a_split_heals() -> None:
    split = {"at": 1.0, "seconds": 15.0, "groups": [[0], [1, 2, 3]]}
    _, simulation = simulate(small(**SWARM, federation__peers=4, faults__partitions=[split]))
    assert one_model(simulation)


@pytest.mark.parametrize(
    "settings",
    [
        {"swarm__merge_method": "coordmedian"},
        {"swarm__merge_method": "geomedian"},
        {"swarm__merge_method": "rule", "aggregation__rule": "median"},
        {"swarm__quorum": "two thirds", "swarm__recompute": True},
        {"swarm__checkin_model_on_train_end": "inactive"},
        {"swarm__use_adaptive_sync": True, "swarm__sync_frequency": 4, "data__validation": 0.2},
        {"attack__kind": "sign_flip", "attack__fraction": 0.25, "swarm__merge_method": "geomedian"},
    ],
)
def test_settings_run(settings: dict[str, Any]) -> None:
    records: list[PeerMetrics] = []
    outcome, simulation = simulate(small(**SWARM, federation__peers=5, **settings), records)
    if "attack__kind" not in settings:  # an attacker takes up its own vector again
        assert one_model(simulation)
    assert outcome["accuracy"]["mean"] > 0.5
    assert {record.round for record in records} == set(range(8))


def test_worker_processes_change_no_bit() -> None:
    spec = small(**SWARM, network__loss=0.05, faults__crashes_per_minute=10.0)
    pool = WorkerPool(1)

    def executor(setup: Any, runner: Any) -> WorkerPool:
        pool.prepare(setup, runner.vectors)
        return pool

    try:
        assert simulate(spec, None, executor)[0] == simulate(spec)[0]
    finally:
        pool.close()


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"swarm__min_peers": 99}, "swarm.min_peers"),
        ({"federation__peers": 3, "swarm__quorum": "two thirds"}, "swarm.quorum"),
        ({"swarm__use_adaptive_sync": True}, "swarm.sync_frequency"),
        (
            {"swarm__use_adaptive_sync": True, "swarm__sync_frequency": 4, "data__validation": 0.0},
            "swarm.use_adaptive_sync",
        ),
        ({"swarm__beat": 3.0}, "swarm.silence"),
        ({"swarm__merge_method": "rule", "aggregation__rule": "papaya"}, "aggregation.rule"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], where: str) -> None:
    with pytest.raises(SpecError) as caught:
        simulate(small(**{**SWARM, **settings}))
    assert where in caught.value.where
    assert caught.value.remedy
