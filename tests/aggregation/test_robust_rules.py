"""Each robust rule against its formula, and what all of them promise."""

from pathlib import Path

import numpy as np
import pytest
import robust_references as slow
import torch
from aggregation_worlds import Root, world
from hypothesis import example, given, settings
from hypothesis import strategies as some
from scipy import linalg

import coterie.runtime.catalog  # noqa: F401 - fills the registries
from coterie import registry
from coterie import spec as specs
from coterie.aggregation import aggregate
from coterie.errors import SpecError, TrainingDiverged
from coterie.spec import Choice

COLUMNWISE = {"median", "trimmed_mean", "bulyan"}
BY_FORMULA = {
    "krum": slow.krum,
    "multi_krum": slow.multi_krum,
    "median": slow.median,
    "trimmed_mean": slow.trimmed_mean,
    "bulyan": slow.bulyan,
    "spectral": slow.spectral,
    "nnm": lambda rows, f: slow.trimmed_mean(slow.nnm(rows, f), f),
}
ROBUST = (*BY_FORMULA, "geometric_median", "spectral_history")
ALL = (*ROBUST, "centred_clipping", "self_centred_clipping", "balance", "fltrust")


def rule(name, **given):
    component = registry.rules.resolve(name, Path(), "")
    return Choice(component, component.settings(given, "aggregation"))


def shares(name, byzantine):
    return {"byzantine": byzantine} if "byzantine" in rule(name).settings else {}


def apply(name, data, *, base=None, state=None, judge=None, number=0, graph=None, **given):
    base = torch.zeros(data.shape[1]) if base is None else base
    context = world(base, len(data) - 1, number=number, weights=graph)
    judge = judge or Root(torch.ones(data.shape[1]))
    return aggregate(rule(name, **given), data[0], data[1:], context, state, judge)


def draw(seed, count, size=7):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", BY_FORMULA)
@given(seed=some.integers(0, 10_000), count=some.integers(1, 16), byzantine=some.sampled_from([0, 0.1, 0.2, 0.3, 0.45]))
@settings(deadline=None, max_examples=60)
def test_the_rule_is_its_formula(name, seed, count, byzantine):
    data = draw(seed, count)
    if name == "krum" and count <= 3:
        data = data[:1]  # with so few rows the scores tie, and own goes first
    found = apply(name, data, **shares(name, byzantine)).vector.numpy()
    rows = data.double().numpy()
    np.testing.assert_allclose(found, BY_FORMULA[name](rows, slow.lost(byzantine, len(rows))), atol=2e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("seed", range(3))
def test_the_geometric_median_has_the_least_sum_of_distances(count, seed):
    data = draw(seed, count, size=3)
    result = apply("geometric_median", data)
    rows = data.double().numpy()
    cost = np.linalg.norm(rows - result.vector.double().numpy(), axis=1).sum()
    assert cost <= np.linalg.norm(rows - slow.geometric_median(rows), axis=1).sum() * (1 + 1e-6)
    assert sum(result.weights.values()) == pytest.approx(1, abs=1e-6)


def test_the_geometric_median_may_lie_on_a_row():
    data = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 3.0], [0.0, -3.0], [0.1, 0.1]])
    assert torch.allclose(apply("geometric_median", data).vector, data[4], atol=1e-2)


@pytest.mark.parametrize("far", [1e2, 1e7, 1e12, 3e38])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_geometric_median_of_three_on_a_line_is_the_middle_one(far, sign, place):
    """However far one is: it pulls as hard as if it were near. The search begins halfway between the other two."""
    data = torch.tensor([[1.0], [1.5]])
    data = torch.cat([data[:place], torch.tensor([[sign * far]]), data[place:]])
    found = apply("geometric_median", data, iterations=50).vector.item()
    assert found == pytest.approx(1.5 if sign > 0 else 1.0, abs=1e-4)


@given(seed=some.integers(0, 10_000), count=some.integers(1, 12), iterations=some.integers(1, 3))
@settings(deadline=None)
def test_centred_clipping(seed, count, iterations):
    data, base = draw(seed, count), draw(seed + 1, 1)[0]
    rows, centre = data.double().numpy(), base.double().numpy()
    for radius in (None, 0.7):
        expected = centre
        for _ in range(iterations):
            tau = radius or np.median(np.linalg.norm(rows - expected, axis=1))
            expected = expected + slow.clipped(rows, expected, tau).mean(axis=0)
        given = {"radius": radius} if radius else {}
        found = apply("centred_clipping", data, base=base, iterations=iterations, **given).vector
        np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)


@given(seed=some.integers(0, 10_000), count=some.integers(1, 12))
@settings(deadline=None)
def test_self_centred_clipping(seed, count):
    data = draw(seed, count)
    rows = data.double().numpy()
    graph = torch.from_numpy(np.random.default_rng(seed).dirichlet(np.ones(count)).astype(np.float32))
    for radius in (None, 0.7):
        tau = radius or (np.median(np.linalg.norm(rows[1:] - rows[0], axis=1)) if count > 1 else 1.0)
        expected = rows[0] + graph[1:].double().numpy() @ slow.clipped(rows[1:], rows[0], tau)
        given = {"radius": radius} if radius else {}
        np.testing.assert_allclose(
            apply("self_centred_clipping", data, graph=graph, **given).vector, expected, atol=2e-6
        )


def test_balance_narrows_its_gate_with_the_rounds():
    own = torch.zeros(4)
    own[0] = 10.0
    away = torch.tensor([1.0, 2.0, 2.9, 3.1])
    data = torch.cat([own[None], own + away[:, None] * torch.tensor([0.0, 1.0, 0.0, 0.0])])
    for number, accepted in ((0, 3), (9, 1), (19, 1)):  # limits 3, 1.91 and 1.16
        result = apply("balance", data, number=number)
        assert result.weights["own"] == 0.5
        assert [w > 0 for w in result.weights.values()][1:] == [k < accepted for k in range(4)]
        np.testing.assert_allclose(result.vector, 0.5 * own + 0.5 * data[1 : accepted + 1].mean(0), rtol=1e-6)
    assert torch.equal(apply("balance", data, gamma=0.05).vector, own)
    result = apply("balance", data, gamma=0.4, kappa=0.0, own_share=0.2, number=19)
    np.testing.assert_allclose(result.vector, 0.2 * own + 0.8 * data[1:].mean(0), rtol=1e-6)


@given(seed=some.integers(0, 10_000), count=some.integers(1, 12))
@example(seed=6995, count=9)  # all cosines are close to 0
@settings(deadline=None)
def test_fltrust(seed, count):
    data, (base, gradient) = draw(seed, count), draw(seed + 1, 2)
    moves, against = data.double().numpy() - base.double().numpy(), -gradient.double().numpy()
    norms = np.linalg.norm(moves, axis=1)
    trust = np.maximum(moves @ against / norms / np.linalg.norm(against), 0)
    result = apply("fltrust", data, base=base, judge=Root(gradient))
    assert list(result.trust.values()) == pytest.approx(trust[1:].tolist(), abs=1e-6)
    if trust.sum() < 1e-6:
        assert torch.equal(result.vector, data[0])
    else:
        expected = base.double().numpy() + (trust / trust.sum() * norms[0] / norms) @ moves
        np.testing.assert_allclose(result.vector, expected, atol=2e-6)


@pytest.mark.parametrize("size", [1e-3, 1e-6, 1e-18])
def test_fltrust_lengthens_the_shortest_move_without_noise(size):
    """A peer that hardly moves is brought to the length of the own move; its rounding errors must not be."""
    data, (base, gradient) = 0.1 * draw(1, 4, size=500), draw(2, 2, size=500)
    base[::2] = 0.0
    data += base - 0.1 * gradient
    data[3] = base
    data[3, ::2] -= size * gradient[::2]
    moves = data.double().numpy() - base.double().numpy()
    norms, against = np.linalg.norm(moves, axis=1), -gradient.double().numpy()
    trust = moves @ against / norms / np.linalg.norm(against)
    expected = base.double().numpy() + (trust / trust.sum() * norms[0] / norms) @ moves
    result = apply("fltrust", data, base=base, judge=Root(gradient))
    assert list(result.trust.values()) == pytest.approx(trust[1:].tolist(), rel=1e-4)
    np.testing.assert_allclose(result.vector, expected, atol=2e-6)


def test_fltrust_needs_a_root_sample_and_a_finite_gradient():
    data = draw(1, 3)
    context = world(torch.zeros(7), 2)
    with pytest.raises(SpecError):
        aggregate(rule("fltrust"), data[0], data[1:], context, None, None)
    with pytest.raises(TrainingDiverged):
        aggregate(rule("fltrust"), data[0], data[1:], context, None, Root(torch.full((7,), float("nan"))))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_with_few_rows_there_is_always_a_result(name, count):
    for data in (draw(1, count), draw(1, 1).repeat(count, 1), torch.zeros(count, 7)):
        result = apply(name, data)
        assert bool(result.vector.isfinite().all())
        assert len(result.weights) == count
        if bool((data == data[0]).all()) and name not in ("centred_clipping", "fltrust"):
            np.testing.assert_allclose(result.vector, data[0], atol=1e-6)
        if count == 1 and name != "centred_clipping":
            np.testing.assert_allclose(result.vector, data[0], atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_the_order_of_the_senders_does_not_matter(name):
    data = draw(5, 11)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    one, other = apply(name, data).vector, apply(name, torch.cat([data[:1], data[1:][order]])).vector
    assert torch.allclose(one, other, atol=2e-6)


@pytest.mark.parametrize("name", sorted(set(ALL) - {"balance"}))  # whose gate goes by the size of the vectors
def test_what_is_moved_as_a_whole_comes_out_moved(name):
    data, shift = draw(6, 11), 5 * draw(7, 1)[0]
    one = apply(name, data).vector
    other = apply(name, data + shift, base=shift).vector
    assert torch.allclose(one + shift, other, atol=1e-5)


@pytest.mark.parametrize("name", [*ROBUST, "centred_clipping", "self_centred_clipping", "balance", "fltrust"])
@pytest.mark.parametrize("size", [100.0, 1e10, 1e30, 3e38])
def test_three_of_ten_cannot_move_the_result_far(name, size):
    """The honest rows lie around 1; fltrust's gradient points there, and balance's gate is as wide as they lie."""
    data = 1 + 0.1 * draw(8, 10, size=20)
    honest = data[[0, *range(4, 10)]].clone()
    data[1], data[2] = size, -size
    data[3] = size * torch.where(torch.arange(20) % 2 == 0, 1.0, -1.0)
    if name in ("spectral", "spectral_history"):
        data[1:4] = data[1]  # one direction at a time is what these rules see
    result = apply(name, data, judge=Root(-torch.ones(20)), **({"byzantine": 0.2} if name == "bulyan" else {}))
    assert bool(result.vector.isfinite().all())
    spread = float((honest - honest.mean(0)).norm(dim=1).max())
    assert float((result.vector - honest.mean(0)).norm()) <= (6.0 if name == "centred_clipping" else 3.0) * spread


def test_the_mean_has_no_such_bound():
    data = 1 + 0.1 * draw(8, 10, size=20)
    data[1:4] = 1e10
    assert float(apply("mean", data).vector.norm()) > 1e9


def test_nnm_hands_its_rows_to_the_rule_that_follows():
    data = draw(9, 10)
    rows = slow.nnm(data.double().numpy(), 2)
    for then, expected in (("krum", slow.krum(rows, 2)), ("median", np.median(rows, axis=0)), ("mean", rows.mean(0))):
        result = apply("nnm", data, byzantine=0.2, then=then)
        np.testing.assert_allclose(result.vector, expected, atol=2e-6)
    weights = np.array(list(result.weights.values()))
    np.testing.assert_allclose(weights @ data.double().numpy(), result.vector, atol=2e-6)
    trust = apply("nnm", data, then="clip_and_trust")
    assert set(trust.state["trust"]) == set(trust.trust) == {f"peer{j}" for j in range(1, 10)}


@pytest.mark.parametrize("then", ["nnm", "medain", "rules.py:mine"])
def test_a_rule_that_cannot_follow_is_named_when_the_spec_is_read(then):
    with pytest.raises(SpecError, match=r"aggregation\.then"):
        specs.load({"aggregation": {"rule": "nnm", "then": then}})


def history_by_hand(rounds, memory, f, count):
    """The last vector and the last kept rows of spectral_history when all are heard in every round."""
    past = np.zeros((count, count))
    for rows, base in rounds:
        tau = np.median(np.linalg.norm(rows - base, axis=1))
        moves = slow.clipped(rows, base, tau)
        past = memory * past + moves @ moves.T / tau**2
    table = past - np.diag(np.diag(past))
    table = table - table.mean(0) - table.mean(1)[:, None] + table.mean()
    others = linalg.null_space(np.ones((1, count)))
    first = (others @ np.linalg.eigh(others.T @ table @ others)[1][:, -1]) ** 2
    kept = np.argsort(first, kind="stable")[: count - f]
    return base + moves[kept].mean(axis=0), sorted(kept.tolist())


@pytest.mark.parametrize("seed", range(4))
def test_spectral_history_is_its_formula(seed):
    state, rounds = None, []
    for number in range(5):
        data, base = draw(10 * seed + number, 9, size=30), draw(1000 + number, 1, size=30)[0]
        rounds.append((data.double().numpy(), base.double().numpy()))
        result = apply("spectral_history", data, base=base, state=state, number=number, byzantine=0.2)
        state = result.state
    expected, kept = history_by_hand(rounds, 0.95, 2, 9)
    assert [j for j, weight in enumerate(result.weights.values()) if weight > 0] == kept
    np.testing.assert_allclose(result.vector, expected, atol=3e-6)


def test_history_finds_a_common_purpose_that_one_round_hides():
    """Three of ten add the same small move to their noise: one round does not tell, thirty do."""
    purpose = draw(1, 1, size=200)[0]
    purpose *= 0.5 * 200**0.5 / purpose.norm()
    state, caught = None, []
    for number in range(30):
        data = draw(100 + number, 10, size=200)
        data[1:4] += purpose
        result = apply("spectral_history", data, state=state, number=number)
        state = result.state
        caught.append(sum(result.weights[f"peer{j}"] == 0 for j in (1, 2, 3)))
    assert caught[-10:] == [3] * 10
    assert sum(caught[:3]) < 9


@pytest.mark.parametrize("size", [1e15, 3.4e38])
def test_a_round_with_a_malicious_peer_alone_does_not_blind_the_history(size):
    """After thirty rounds, once only one attacker answers, with a vector of any size: the attackers stay out."""
    purpose = draw(1, 1, size=200)[0]
    purpose *= 0.5 * 200**0.5 / purpose.norm()
    state, caught, ids = None, [], (*(f"evil{j}" for j in range(3)), *(f"peer{j}" for j in range(6)))
    for number in range(40):
        data, heard = draw(100 + number, 10, size=200), ids
        data[1:4] += purpose
        if number == 30:
            data, heard = torch.stack([data[0], torch.full((200,), size)]), ids[:1]
        context = world(torch.zeros(200), len(heard), ids=heard, number=number)
        result = aggregate(rule("spectral_history"), data[0], data[1:], context, state, None)
        state = result.state
        caught.append(sum(result.weights.get(f"evil{j}") == 0 for j in range(3)))
    assert caught[25:30] == [3] * 5
    assert caught[31:] == [3] * 9


def test_history_forgets_who_is_not_heard_and_keeps_the_old_state():
    data = draw(1, 4)
    context = world(torch.zeros(7), 3)
    _, _, state = rule("spectral_history")(data[0], data[1:], context, None, None)
    before = state["products"].copy()
    for number in range(1, 100):
        context = world(torch.zeros(7), 1, ids=("peer2",), number=number)
        _, _, later = rule("spectral_history")(data[0], data[2:3], context, state, None)
        assert state["ids"] == ("own", "peer1", "peer2", "peer3") if number < 90 else ("own", "peer2")
        if number == 1:
            np.testing.assert_array_equal(state["products"], before)
            np.testing.assert_allclose(later["products"][1], 0.95 * before[1], rtol=1e-6)
        state = later
    assert state["ids"] == ("own", "peer2")
