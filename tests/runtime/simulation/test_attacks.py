"""Attackers in a simulation: what they show, what they keep, and that a seed decides them too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_federation import simulate, small

from coterie import data
from coterie.adversary import Attacker, attackers
from coterie.runtime.simulation.workers import WorkerPool
from coterie.runtime.work.placement import place

THIRD: dict[str, Any] = {"attack__fraction": 0.34, "aggregation__rule": "mean", "gossip__fanout": 5}
FAULTS: dict[str, Any] = {
    "network__loss": 0.02,
    "compute__spread": 0.6,
    "faults__crashes_per_minute": 20.0,
    "faults__restart_seconds": 0.3,
}
MODEL_ATTACKS = ("random_model", "gaussian", "sign_flip", "scaling", "alie", "inner_product", "duplicate")


def shown(simulation: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What attackers and honest peers published last."""
    members = simulation.federation.members
    models = [(m.attacker, m.peer.memory.published["model"].vector.tensor().clone()) for m in members]
    return [v for attacker, v in models if attacker], [v for attacker, v in models if not attacker]


def one_round(**settings: Any) -> tuple[Any, torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    spec = small(**THIRD, federation__rounds=1, **{f"attack__{key}": value for key, value in settings.items()})
    _, simulation = simulate(spec)
    initial = simulation.runner.vectors[simulation.federation.place.initial].clone()
    return simulation, initial, *shown(simulation)


def own_fits() -> list[torch.Tensor]:
    """What the attackers of ``one_round`` train before they falsify it: the seed decides their batches."""
    spec = small(federation__rounds=1, federation__protocol="isolated")
    _, simulation = simulate(spec)
    return [simulation.runner.vectors[simulation.federation.members[i].learner.block].clone() for i in bad()]


def bad() -> tuple[int, ...]:
    return attackers(small(**THIRD, attack__kind="alie"))


def test_honest_peers_fit_as_if_nobody_attacked() -> None:
    _, _, _, honest = one_round(kind="sign_flip")
    _, simulation = simulate(small(federation__rounds=1, federation__protocol="isolated"))
    members = [m for m in simulation.federation.members if m.index not in bad()]
    for vector, member in zip(honest, members, strict=True):
        assert torch.equal(vector, simulation.runner.vectors[member.learner.block])


def test_what_attackers_show_is_the_formula_of_what_is_there() -> None:
    _, x, flipped, _ = one_round(kind="sign_flip", scale=2.0)
    for vector, own in zip(flipped, own_fits(), strict=True):
        assert torch.allclose(vector, x - 2.0 * (own - x), atol=1e-6)
        assert not torch.allclose(vector, own, atol=1e-3)
    _, _, crafted, honest = one_round(kind="alie", z=1.5, jitter=0.0)
    rows = torch.stack(honest).double().numpy()
    for vector in crafted:
        assert np.allclose(vector.numpy(), rows.mean(axis=0) - 1.5 * rows.std(axis=0), atol=1e-5)
    _, _, copies, honest = one_round(kind="duplicate")
    assert all(any(torch.equal(copy, vector) for vector in honest) for copy in copies)


def test_jitter_tells_colluders_apart() -> None:
    _, _, (one, two), _ = one_round(kind="alie", jitter=0.3)
    assert float((one - two).norm()) > 0.1
    _, _, (one, two), _ = one_round(kind="alie", jitter=0.0)
    assert torch.equal(one, two)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("kind", ["alie", "duplicate"])
def test_worker_processes_change_no_bit_of_an_attack(workers: int, kind: str) -> None:
    spec = small(**THIRD, **FAULTS, attack__kind=kind, federation__rounds=6)
    alone: list[Any] = []
    distributed: list[Any] = []
    expected, simulation = simulate(spec, alone)
    assert any(m.starts > 1 for m in simulation.federation.members if m.attacker), "no attacker crashed"
    pool = WorkerPool(workers)

    def executor(setup: Any, runner: Any) -> WorkerPool:
        pool.prepare(setup, runner.vectors)
        return pool

    try:
        found, _ = simulate(spec, distributed, executor)
    finally:
        pool.close()
    assert found == expected
    assert distributed == alone


@pytest.mark.parametrize("protocol", ["gossip", "fedavg"])
@pytest.mark.parametrize("kind", ["alie", "inner_product", "duplicate", "sign_flip"])
def test_attacked_federations_with_crashes_and_loss_end(protocol: str, kind: str) -> None:
    crashed = 0
    for seed in range(3):
        spec = small(
            federation__seed=seed,
            federation__protocol=protocol,
            federation__rounds=4,
            attack__kind=kind,
            attack__fraction=0.34,
            aggregation__rule="clip_and_trust",
            **FAULTS,
        )
        _, simulation = simulate(spec)
        assert all(member.finished for member in simulation.federation.members)
        crashed += sum(m.starts > 1 for m in simulation.federation.members if m.attacker)
    assert crashed > 0


def test_an_attackers_own_model_stays_honest_through_crashes() -> None:
    """Where honest peers keep apart and attackers find nothing to mix, the attackers' models are what they trained."""
    apart = [{"at": 0.0, "seconds": 1e9, "groups": [[i] for i in range(6)]}]
    settings = {**THIRD, "federation__rounds": 5, "faults__partitions": apart}
    crashes = {"faults__crashes_per_minute": 0.5, "faults__restart_seconds": 0.1}
    settings["attack__kind"] = "scaling"
    settings["attack__scale"] = 50.0
    records: list[Any] = []
    _, simulation = simulate(small(**settings, **crashes), records)
    assert any(m.starts > 1 for m in simulation.federation.members if m.attacker), "no attacker crashed"
    own = [record for record in records if record.attacker]
    assert own
    for record in own:
        assert record.loss < 3, "it went on from what it had crafted"


def test_who_finds_nobody_shows_its_own_vector() -> None:
    apart = [{"at": 0.0, "seconds": 1e9, "groups": [[i] for i in range(6)]}]
    spec = small(**THIRD, attack__kind="alie", federation__rounds=1, faults__partitions=apart)
    _, simulation = simulate(spec)
    crafted, _ = shown(simulation)
    for vector, own in zip(crafted, own_fits(), strict=True):
        assert torch.equal(vector, own)


@pytest.mark.parametrize("protocol", ["isolated", "central"])
def test_models_that_nobody_sees_are_not_attacked(protocol: str) -> None:
    plain, _ = simulate(small(federation__protocol=protocol))
    attacked, simulation = simulate(small(federation__protocol=protocol, attack__kind="alie", run__oracle=False))
    assert not any(isinstance(m.peer.learner, Attacker) for m in simulation.federation.members)
    assert attacked["bytes_sent"] == 0
    assert attacked["virtual_seconds"] == plain["virtual_seconds"]
    if protocol == "central":
        assert attacked["model_hash"] == plain["model_hash"]


def test_an_attack_on_models_leaves_the_data_alone() -> None:
    spec = small(**THIRD, attack__kind="alie")
    dataset = data.load(spec.dataset, None)
    parts = place(spec, dataset)
    assert np.array_equal(parts.labels, dataset.y_train)
    assert parts.falsified == ()
    assert len(parts.attackers) == 2


def test_random_data_changes_what_attackers_hold_and_nothing_else() -> None:
    spec = small(**THIRD, attack__kind="random_data", federation__rounds=1)
    dataset = data.load(spec.dataset, None)
    before = dataset.x_train.copy()
    _, simulation = simulate(spec)
    parts = place(spec, dataset)
    held = np.concatenate([np.concatenate([parts.train[i], parts.validation[i]]) for i in bad()])
    others = np.setdiff1d(np.arange(len(before)), held)
    seen = simulation.runner.x.numpy()
    assert np.array_equal(dataset.x_train, before), "the data set itself has changed"
    assert np.array_equal(seen[others], before[others])
    assert (seen[held] != before[held]).mean() > 0.99
    assert np.array_equal(parts.labels, dataset.y_train)


def test_the_attack_rate_is_that_of_honest_final_models() -> None:
    spec = small(**THIRD, attack__kind="label_flip", attack__map={"1": 2}, federation__rounds=6)
    records: list[Any] = []
    figures, simulation = simulate(spec, records)
    dataset = data.load(spec.dataset, None)
    x = torch.from_numpy(dataset.x_test[dataset.y_test == 1])
    rates = []
    for _, state in simulation.models(10):
        weight, bias = state.values()
        rates.append(float(((x @ weight.T + bias).argmax(1) == 2).float().mean()))
    assert figures["attack_rate"] == pytest.approx(np.mean(rates))
    assert 0.1 < figures["attack_rate"] < 1
    assert all(record.attack_rate is not None for record in records)
    last = [r.attack_rate for r in records if r.round == 5 and not r.attacker]
    assert np.mean(last) == pytest.approx(figures["attack_rate"])
    clean, _ = simulate(spec.with_values({"run.oracle": True}))
    assert clean["attack_rate"] < 0.05


@pytest.mark.parametrize("kind", ["shuffled_labels", "alie"])
def test_no_rate_for_an_attack_that_aims_at_no_class(kind: str) -> None:
    records: list[Any] = []
    figures, _ = simulate(small(**THIRD, attack__kind=kind, federation__rounds=1), records)
    assert figures["attack_rate"] is None
    assert figures["metrics"] == {}
    assert all(record.attack_rate is None for record in records)


def test_two_classes_have_an_area_under_the_curve() -> None:
    from sklearn.metrics import roc_auc_score

    figures, simulation = simulate(small(data__dataset="breast_cancer", federation__rounds=2))
    dataset = data.load(small(data__dataset="breast_cancer").dataset, None)
    x = simulation.runner._x_test
    areas = []
    for _, state in simulation.models(10):
        weight, bias = state.values()
        areas.append(roc_auc_score(dataset.y_test, torch.softmax((x @ weight.T + bias).double(), 1)[:, 1]))
    assert figures["metrics"] == {"auc": pytest.approx(np.mean(areas), abs=1e-6)}
    assert figures["metrics"]["auc"] > 0.9


@pytest.mark.parametrize("kind", MODEL_ATTACKS)
def test_every_model_attack_does_harm_to_a_mean_or_is_seen(kind: str) -> None:
    plain, _ = simulate(small(**{**THIRD, "attack__fraction": 0.0}, attack__kind=kind, federation__rounds=2))
    attacked, _ = simulate(small(**THIRD, attack__kind=kind, federation__rounds=2))
    assert attacked["model_hash"] != plain["model_hash"]
    again, _ = simulate(small(**THIRD, attack__kind=kind, federation__rounds=2))
    assert again == attacked
