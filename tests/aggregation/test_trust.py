import copy

import numpy as np
import pytest
import torch
from aggregation_worlds import Bowl, Root, draw, slow_clip_and_trust, slow_root, world
from hypothesis import given, settings
from hypothesis import strategies as some

from coterie.aggregation import aggregate
from coterie.aggregation.trust import clip_and_trust, clip_and_trust_root
from coterie.errors import SpecError, TrainingDiverged

moves = some.sampled_from([0.0, 1e-3, 0.5, 1.0, 3.0, 100.0])


def scene(seed, scales, size=30):
    """Random moves of these relative lengths, own first, around a random base."""
    base, own, received = draw(seed, len(scales) - 1, size)
    scales = torch.tensor(scales)
    return base, base + scales[0] * (own - base), base + scales[1:, None] * (received - base)


@given(
    seed=some.integers(0, 10_000),
    scales=some.lists(moves, min_size=1, max_size=9),
    copies=some.integers(0, 3),
    memory=some.floats(0, 0.99),
    gate=some.floats(1, 5),
)
@settings(deadline=None)
def test_clip_and_trust_agrees_with_loops(seed, scales, copies, memory, gate):
    base, own, received = scene(seed, scales)
    received = torch.cat((received, *[received[:1]] * copies))
    count = len(received)
    random = np.random.default_rng(seed)
    graph = torch.from_numpy(random.dirichlet(np.ones(count + 1)).astype(np.float32))
    old = random.uniform(0, 1, count)
    context = world(base, count, weights=graph)
    state = {"trust": dict(zip(context.peer_ids, old.tolist(), strict=True))}
    vector, weights, new = clip_and_trust(own, received, context, state, None, memory=memory, gate=gate)
    expected, shares, trust = slow_clip_and_trust(own, received, base, graph, old, memory, gate)
    np.testing.assert_allclose(vector.numpy(), expected, atol=3e-6)
    np.testing.assert_allclose(weights.numpy(), shares, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(list(new["trust"].values()), trust, rtol=1e-4, atol=1e-9)


@given(seed=some.integers(0, 10_000), scales=some.lists(moves, min_size=1, max_size=9))
@settings(deadline=None)
def test_the_result_stays_within_the_clip_radius(seed, scales):
    base, own, received = scene(seed, scales)
    context = world(base, len(received))
    rows = torch.cat((own[None], received)).double() - base.double()
    tau, step = float(np.median(rows.norm(dim=1).numpy())), float(rows[0].norm())
    tau = min(tau, 10 * step) if step else tau
    for root, (vector, weights, _) in (
        (False, clip_and_trust(own, received, context, None, None)),
        (True, clip_and_trust_root(own, received, context, None, Root(own - base + torch.ones(30)))),
    ):
        assert float(weights.sum()) <= 1 + 1e-6
        assert root or float(weights.sum()) == pytest.approx(1, abs=1e-6)
        assert float(weights.min()) >= 0
        if weights.tolist() != [1.0] + [0.0] * len(received):
            assert float((vector.double() - base.double()).norm()) <= tau + 1e-5


@given(seed=some.integers(0, 10_000), scales=some.lists(moves, min_size=2, max_size=9), data=some.data())
@settings(deadline=None)
def test_the_order_of_the_senders_does_not_matter(seed, scales, data):
    base, own, received = scene(seed, scales)
    count = len(received)
    order = data.draw(some.permutations(range(count)))
    random = np.random.default_rng(seed)
    graph = torch.from_numpy(random.dirichlet(np.ones(count + 1)).astype(np.float32))
    context = world(base, count, weights=graph)
    turned = world(
        base,
        count,
        weights=graph[[0, *(j + 1 for j in order)]],
        ids=tuple(context.peer_ids[j] for j in order),
    )
    for rule, judge in ((clip_and_trust, None), (clip_and_trust_root, Root(torch.ones(30)))):
        one = aggregate(rule, own, received, context, None, judge)
        other = aggregate(rule, own, received[list(order)], turned, None, judge)
        assert torch.allclose(one.vector, other.vector, atol=1e-6)
        assert one.weights == pytest.approx(other.weights, abs=1e-6)
        assert one.trust == pytest.approx(other.trust, abs=1e-6)


def test_a_peer_gated_in_every_round_loses_trust_geometrically_and_recovers():
    base, own, received = draw(1, 5, 50)
    state = None
    honest = received[0].clone()
    received[0] = base + 50 * (honest - base)
    for k in range(1, 11):
        _, weights, state = clip_and_trust(own, received, world(base, 5), state, None)
        assert state["trust"]["peer1"] == pytest.approx(0.8**k)
        assert weights[1] == 0
    received[0] = base + 0.5 * (honest - base)  # within tau: c = 1
    for k in range(1, 31):
        _, weights, state = clip_and_trust(own, received, world(base, 5), state, None)
        assert state["trust"]["peer1"] == pytest.approx(1 - (1 - 0.8**10) * 0.8**k)
    assert weights[1] > 0.16


def test_a_group_of_duplicates_weighs_as_one():
    base, own, received = draw(2, 8, 5000, spread=1.0)
    received = base + (received - base) * ((own - base).norm() / (received - base).norm(dim=1))[:, None]
    received[1] = received[0]
    received[2] = received[0] + 1e-5 * torch.randn(5000)
    _, weights, state = clip_and_trust(own, received, world(base, 8), None, None)
    trust = state["trust"]
    alone = float(weights[4]) / trust["peer4"]
    assert float(weights[1:4].sum()) / trust["peer1"] == pytest.approx(alone, rel=1e-3)


def test_a_newcomer_begins_with_little_trust():
    base, own, received = draw(3, 4, 50)
    received[3] = base + 0.5 * (received[3] - base)
    context = world(base, 4, founders=("peer1", "peer2", "peer3"))
    _, _, state = clip_and_trust(own, received, context, None, None)
    assert state["trust"]["peer4"] == pytest.approx(0.8 * 0.05 + 0.2)
    _, _, state = clip_and_trust(own, received, context, None, None, newcomer_trust=0.0, memory=0.9)
    assert state["trust"]["peer4"] == pytest.approx(0.1)


@pytest.mark.parametrize("attackers", [1, 3])
def test_sign_flip_times_five_is_gated(attackers):
    base, own, received = draw(4, 9, 500)
    received[:attackers] = base - 5 * (received[:attackers] - base)
    _, weights, state = clip_and_trust(own, received, world(base, 9), None, None)
    assert weights[1 : attackers + 1].tolist() == [0.0] * attackers
    assert all(state["trust"][f"peer{j}"] == pytest.approx(0.8) for j in range(1, attackers + 1))
    assert bool((weights[attackers + 1 :] > 0).all())


def test_a_peer_not_heard_keeps_its_trust_and_the_old_state_is_untouched():
    base, own, received = draw(5, 3, 50)
    old = {"trust": {"peer1": 0.5, "elsewhere": 0.25}}
    before = copy.deepcopy(old)
    _, _, new = clip_and_trust(own, received, world(base, 3), old, None)
    assert old == before
    assert new["trust"]["elsewhere"] == 0.25
    assert set(new["trust"]) == {"peer1", "peer2", "peer3", "elsewhere"}


@pytest.mark.parametrize("rule", [clip_and_trust, clip_and_trust_root])
@pytest.mark.parametrize("count", [0, 1, 6])
@pytest.mark.parametrize("moved", [False, True])
def test_identical_models_stay_as_they_are(rule, count, moved):
    base = torch.randn(100)
    own = base + 1 if moved else base.clone()
    judge = Root(torch.zeros(100))
    result = aggregate(rule, own, own.repeat(count, 1), world(base, count), None, judge)
    assert torch.allclose(result.vector, own, atol=1e-6)


def test_without_any_weight_own_is_kept():
    base, own, received = draw(6, 2, 20)
    received = base + 100 * (received - base)
    context = world(base, 2, weights=torch.tensor([0.0, 0.5, 0.5]), founders=())
    vector, weights, _ = clip_and_trust(own, received, context, None, None, newcomer_trust=0.0, memory=0.0, gate=1.0)
    assert bool(vector.isfinite().all())
    assert float(weights.sum()) == pytest.approx(1)


@given(
    seed=some.integers(0, 10_000),
    scales=some.lists(moves, min_size=1, max_size=7),
    curvature=some.sampled_from([0.0, 0.01, 1.0, 100.0]),
)
@settings(deadline=None)
def test_root_agrees_with_loops_over_rounds(seed, scales, curvature):
    """Where the loss rises within tau, where it falls all the way, and where it is flat (curvature 0)."""
    rounds, state = [], None
    for number in range(3):
        base, own, received = scene(seed + number, scales)
        noise = torch.randn(30, generator=torch.Generator().manual_seed(seed + number))
        bottom = own + 0.003 * noise
        wide = bottom.double().numpy()
        rounds.append((own, received, base, lambda at, bottom=wide: curvature * (at - bottom)))
        context = world(base, len(received))
        vector, weights, state = clip_and_trust_root(own, received, context, state, Bowl(bottom, curvature))
        expected, shares = slow_root(rounds)
        np.testing.assert_allclose(weights.numpy(), shares, rtol=2e-3, atol=2e-5)
        np.testing.assert_allclose(vector.numpy(), expected, atol=2e-5)


def test_root_keeps_those_who_go_downhill():
    base, _, _ = draw(7, 0, 200)
    downhill = torch.randn(200)
    noise = 0.5 * torch.randn(7, 200)
    received = base + 0.01 * (downhill + noise)
    received[:3] = base - 0.01 * (downhill + noise[:3])
    own = base + 0.01 * downhill
    state = None
    for _ in range(3):
        before = copy.deepcopy(state)
        kept = state
        _, weights, state = clip_and_trust_root(own, received, world(base, 7), state, Root(-downhill))
        if before is not None:
            assert all(torch.equal(kept["moves"][peer], before["moves"][peer]) for peer in before["moves"])
            assert torch.equal(kept["root"], before["root"])
    assert weights[1:4].tolist() == [0.0] * 3
    assert state["trust"]["peer1"] == 0.0
    assert state["trust"]["peer7"] == 1.0
    _, _, later = clip_and_trust_root(own, received[3:4], world(base, 1, ids=("peer4",)), state, Root(-downhill))
    assert later["trust"]["peer7"] == 1.0
    assert torch.equal(later["moves"]["peer7"], state["moves"]["peer7"])


def test_root_goes_downhill_by_itself_when_nobody_else_does():
    base, own, _ = draw(8, 0, 20)
    received = own.repeat(3, 1)
    step = float((own - base).norm())
    result = aggregate(clip_and_trust_root, own, received, world(base, 3), None, Root(own - base))
    assert torch.allclose(result.vector, 2 * base - own, atol=1e-6)
    assert result.weights == {"own": 0.0, "peer1": 0.0, "peer2": 0.0, "peer3": 0.0}
    near = base - 0.25 * (own - base)
    result = aggregate(clip_and_trust_root, own, received, world(base, 3), None, Bowl(near, 7.0))
    assert torch.allclose(result.vector, near, atol=1e-3 * step)


class Cliff(Root):
    """A root gradient that is finite at one place only."""

    def __init__(self, gradient, place):
        self.given, self.place = gradient, place

    def root_gradient(self, vector):
        return self.given.clone() if torch.equal(vector, self.place) else torch.full_like(self.given, torch.nan)


def test_root_does_not_step_where_its_gradient_is_not_finite():
    base, own, _ = draw(8, 0, 20)
    result = aggregate(clip_and_trust_root, own, own.repeat(3, 1), world(base, 3), None, Cliff(own - base, base))
    assert torch.equal(result.vector, base)


def test_a_root_sample_that_is_learned_drives_nobody_apart():
    """At a loss of all but 0, rounding decides which way the gradient points."""
    base, own, _ = draw(10, 0, 50)
    received = own.repeat(3, 1)
    step = float((own - base).norm())
    ends = []
    for seed in (1, 2):
        noise = torch.randn(50, generator=torch.Generator().manual_seed(seed))
        bottom = base - 1e-6 * step * (own - base + 0.1 * step * noise) / step
        vector = aggregate(clip_and_trust_root, own, received, world(base, 3), None, Bowl(bottom, 1.0)).vector
        ends.append(vector)
    assert float((ends[0] - ends[1]).norm()) < 1e-4 * step


def test_colluders_cannot_hold_a_network_on_its_plateau():
    """The root loss is a long slope; honest moves are about other things and seem to go up, the colluders' hardly down.

    Whoever weighs by cosines alone follows the colluders, who are all that is left.
    """
    size, state, vector = 400, None, torch.zeros(400)
    random = torch.Generator().manual_seed(3)
    downhill = torch.zeros(size)
    downhill[0] = 1.0
    astray = torch.randn(size, generator=random)
    astray[0] = 0.0
    astray = astray / astray.norm() + 0.01 * downhill
    for number in range(30):
        base = vector
        honest = torch.randn(7, size, generator=random)
        honest[:, 0] = -3.0
        rows = base + torch.cat((honest / honest.norm(dim=1, keepdim=True), astray.repeat(3, 1)))
        vector, _, state = clip_and_trust_root(rows[0], rows[1:], world(base, 9, number=number), state, Root(-downhill))
    assert float(vector[0]) > 0.6 * 30 * 0.5
    assert float(vector[1:].norm()) < float(vector[0])


@pytest.mark.parametrize("steep", [1e-45, 1e-30, 1e-8])
def test_huge_moves_beside_a_gradient_that_is_all_but_zero(steep):
    """Two liars, and a peer that has not moved: so many lengths of the gradient float32 cannot count."""
    own = torch.zeros(20)
    received = torch.tensor([3e38, 1e38])[:, None].expand(2, 20).contiguous()
    judge = Root(torch.full((20,), steep))
    state = None
    for number in range(3):
        found = aggregate(clip_and_trust_root, own, received, world(own, 2, number=number), state, judge)
        state = found.state
        assert bool(state["root"].isfinite().all())


def test_root_needs_a_root_sample_with_a_finite_gradient():
    base, own, received = draw(9, 2, 20)
    with pytest.raises(SpecError, match=r"data\.root"):
        aggregate(clip_and_trust_root, own, received, world(base, 2), None, None)
    with pytest.raises(TrainingDiverged):
        aggregate(clip_and_trust_root, own, received, world(base, 2), None, Root(torch.full((20,), torch.nan)))


def test_a_majority_of_attackers_moves_a_peer_by_no_more_than_its_reach():
    base, own, received = draw(5, 3, 50)
    received[:2] = base + 1e6 * torch.randn(2, 50, generator=torch.Generator().manual_seed(1))
    vector, _, _ = clip_and_trust(own, received, world(base, 3), None, None)
    step = float((own - base).norm())
    assert float((vector - base).norm()) <= 10 * step * 1.001
    nearer, _, _ = clip_and_trust(own, received, world(base, 3), None, None, reach=2.0)
    assert float((nearer - base).norm()) <= 2 * step * 1.001
