"""Who holds what before a run: poisoned shares, oracle runs, pooled data."""

from __future__ import annotations

import numpy as np
import pytest
from small_federation import simulate, small

from coterie import data
from coterie.adversary import attackers
from coterie.errors import SpecError
from coterie.runtime.work.placement import peer_ids, place

ATTACK = {"attack__kind": "label_flip", "attack__map": {"1": 2}, "attack__fraction": 0.34}


def test_only_attackers_labels_change() -> None:
    spec = small(**ATTACK)
    dataset = data.load(spec.dataset, None)
    parts = place(spec, dataset)
    bad = attackers(spec)
    assert parts.attackers == {peer_ids(6)[i] for i in bad}
    assert len(bad) == 2
    for index in range(6):
        held = np.concatenate([parts.train[index], parts.validation[index]])
        before, after = dataset.y_train[held], parts.labels[held]
        expected = np.where(before == 1, 2, before) if index in bad else before
        assert np.array_equal(after, expected)
    assert not np.array_equal(parts.labels, dataset.y_train)


def test_an_oracle_run_leaves_the_attackers_and_their_data_out() -> None:
    spec = small(**ATTACK, run__oracle=True, topology__kind="ring")
    attacked = place(small(**ATTACK, topology__kind="ring"), data.load(spec.dataset, None))
    parts = place(spec, data.load(spec.dataset, None))
    kept = [i for i in range(6) if i not in attackers(spec)]
    assert parts.ids == tuple(peer_ids(6)[i] for i in kept)
    assert parts.attackers == frozenset()
    assert all(np.array_equal(parts.train[new], attacked.train[old]) for new, old in enumerate(kept))
    ring = {frozenset((i, (i + 1) % 6)) for i in range(6)}
    expected = {tuple(sorted(kept.index(p) for p in edge)) for edge in ring if edge <= set(kept)}
    assert set(parts.topology.edges()) == expected


def test_central_has_one_learner_with_all_training_data() -> None:
    spec = small(federation__protocol="central")
    parts = place(spec, data.load(spec.dataset, None))
    apart = place(small(), data.load(spec.dataset, None))
    assert parts.ids == ("pooled",)
    assert sorted(parts.train[0]) == sorted(np.concatenate(apart.train))


def test_root_only_has_one_learner_with_the_root_sample_that_others_would_have() -> None:
    spec = small(federation__protocol="root_only", data__root=30, **ATTACK)
    dataset = data.load(spec.dataset, None)
    parts = place(spec, dataset)
    attacked = place(small(data__root=30, **ATTACK), dataset)
    assert (parts.ids, parts.attackers) == (("root",), frozenset())
    assert np.array_equal(parts.train[0], attacked.root)
    assert len(parts.train[0]) == 30
    assert np.array_equal(parts.labels[parts.train[0]], dataset.y_train[parts.train[0]])


def test_root_only_needs_a_root_sample() -> None:
    spec = small(federation__protocol="root_only")
    with pytest.raises(SpecError, match=r"data\.root.*root_only"):
        place(spec, data.load(spec.dataset, None))


@pytest.mark.parametrize("protocol", ["gossip", "isolated", "central", "fedavg"])
def test_every_protocol_learns(protocol: str) -> None:
    figures, simulation = simulate(small(federation__protocol=protocol, federation__rounds=12))
    assert figures["accuracy"]["mean"] > (0.5 if protocol == "isolated" else 0.9)
    if protocol == "fedavg":
        assert figures["accuracy"]["min"] == figures["accuracy"]["max"]
    sent = sum(simulation.federation.network.bytes_sent.values())
    assert (sent == 0) == (protocol in ("isolated", "central"))


def test_fedavg_is_the_weighted_mean_of_what_its_clients_trained() -> None:
    """One round of FedAvg by hand: every peer's fit from the common start, then the mean by samples."""
    spec = small(federation__protocol="fedavg", federation__rounds=1)
    _, simulation = simulate(spec)
    models = [model for _, model in simulation.models(10)]
    _, alone = simulate(small(federation__protocol="isolated", federation__rounds=1))
    trained = [model for _, model in alone.models(10)]
    samples = np.array([member.learner.samples for member in simulation.federation.members], dtype=np.float64)
    for name in models[0]:
        rows = np.stack([model[name].double().numpy() for model in trained])
        expected = np.tensordot(samples / samples.sum(), rows, axes=1)
        for model in models:
            assert np.allclose(model[name].numpy(), expected, atol=1e-6)
