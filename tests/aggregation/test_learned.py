import copy

import numpy as np
import pytest
import torch
from aggregation_worlds import world
from linear_judge import LinearJudge
from torch.nn import functional

from coterie.aggregation import aggregate
from coterie.aggregation.learned import l2c, papaya
from coterie.errors import SpecError


def scene(seed, count, spread=0.3):
    """A judge, and models near the one that fits its data."""
    judge = LinearJudge(seed)
    random = torch.Generator().manual_seed(seed + 1)
    rows = judge.truth.flatten() + spread * torch.randn(count + 1, judge.size, generator=random)
    return judge, rows[0], rows[1:]


def papaya_by_autograd(judge, own, received, trust, passes, lr):
    """The published update with one batch a pass, by automatic differentiation."""
    w = torch.tensor(trust, dtype=torch.float64, requires_grad=True)
    outputs = [judge.training_outputs(row)[0].double() for row in (own, *received)]
    for _ in range(passes):
        mixed = (1 - w.sum()).detach() * outputs[0] + sum(w[j] * outputs[j + 1] for j in range(len(received)))
        loss = functional.cross_entropy(mixed, judge.labels)
        (slope,) = torch.autograd.grad(loss, w)
        w = (w - lr * slope).detach().requires_grad_()
    w = w.detach()
    rows = torch.stack([own, *received]).double()
    return torch.cat([1 - w.sum(dim=0, keepdim=True), w]) @ rows, w


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("lr", [1e-4, 0.05])
def test_papaya_is_the_published_update(seed, lr):
    judge, own, received = scene(seed, 4)
    context = world(own, 4)
    vector, weights, state = papaya(own, received, context, None, judge, trust_lr=lr)
    expected, trust = papaya_by_autograd(judge, own, received, [0.2] * 4, 4, lr)
    np.testing.assert_allclose(list(state["trust"].values()), trust.numpy(), rtol=1e-9)
    np.testing.assert_allclose(vector.numpy(), expected.numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(weights[1:].numpy(), trust.numpy(), rtol=1e-6)
    # the trust is kept from round to round, each partner its own
    vector, _, state = papaya(own, received[1:3], world(own, 2, ids=("peer2", "peer3")), state, judge, trust_lr=lr)
    expected, again = papaya_by_autograd(judge, own, received[1:3], trust[1:3].tolist(), 4, lr)
    assert list(state["trust"]) == ["peer1", "peer2", "peer3", "peer4"]
    np.testing.assert_allclose(
        list(state["trust"].values()), [trust[0], *again.tolist(), trust[3]], rtol=1e-9, atol=1e-12
    )
    np.testing.assert_allclose(vector.numpy(), expected.numpy(), rtol=1e-5, atol=1e-5)


def test_papaya_makes_a_step_for_every_batch():
    judge, own, received = scene(1, 3)
    whole, *_ = (papaya(own, received, world(own, 3), None, judge, passes=1, trust_lr=0.01)[2]["trust"],)
    batches = papaya(own, received, world(own, 3), None, judge, passes=1, trust_lr=0.01, trust_batch=20)[2]["trust"]
    moved, more = (np.array(list(trust.values())) - 0.25 for trust in (whole, batches))
    np.testing.assert_allclose(more, 3 * moved, rtol=0.2)  # 60 samples: three steps of about the same slope


def test_papaya_goes_on_trusting_garbage():
    """What is wrong with the published rule: after 20 rounds garbage still has almost the weight of a good model."""
    judge, own, received = scene(2, 3)
    garbage = torch.randn(judge.size, generator=torch.Generator().manual_seed(9))
    received[0] = garbage / garbage.norm() * own.norm()
    assert judge.loss(received[0]) > 10 * judge.loss(own)
    state = None
    for number in range(20):
        vector, _, state = papaya(own, received, world(own, 3, number=number), state, judge)
    assert state["trust"]["peer1"] == pytest.approx(0.25, abs=0.02)
    assert max(state["trust"].values()) - min(state["trust"].values()) < 0.02
    assert judge.loss(vector) > 1.5 * judge.loss(own)
    learned, weights, _ = l2c(own, received, world(own, 3), None, judge, steps=60)
    assert float(weights[1]) < 0.05
    assert judge.loss(learned) < 1.2 * judge.loss(own)


def test_papayas_weights_leave_the_simplex():
    judge, own, received = scene(3, 3)
    rows = torch.stack([20 * judge.truth.flatten(), -20 * judge.truth.flatten(), received[0]])
    state = None
    for number in range(60):
        own = 0.2 * judge.truth.flatten()
        _, weights, state = papaya(own, rows, world(own, 3, number=number), state, judge, trust_lr=1e-2)
    assert float(weights[2]) < 0
    _, weights, _ = papaya(own, rows[[0]], world(own, 1), {"trust": {"peer1": 1.2}}, judge)
    assert float(weights[0]) < 0
    assert float(weights.sum()) == pytest.approx(1, abs=1e-6)


def test_papaya_lives_through_outputs_that_are_not_finite():
    judge, own, received = scene(4, 3)
    received[1] = 3e38
    result = aggregate(papaya, own, received, world(own, 3), {"trust": {"peer2": 0.4}}, judge)
    assert result.weights["peer2"] == 0
    assert result.trust["peer2"] == 0.4
    assert bool(result.vector.isfinite().all())
    result = aggregate(papaya, own, received, world(own, 3), {"trust": {"peer1": 1e39}}, judge)
    assert torch.equal(result.vector, own)
    assert result.state == {"trust": {"peer1": 1e39}}


def l2c_by_autograd(judge, own, received, alpha, steps, lr):
    alpha = torch.tensor(alpha, requires_grad=True)
    adam = torch.optim.Adam([alpha], lr=lr)
    rows = torch.stack([own, *received])
    for _ in range(steps):
        adam.zero_grad()
        judge._loss(torch.softmax(alpha, 0) @ rows).backward()
        adam.step()
    alpha = alpha.detach()
    return torch.softmax(alpha, 0) @ rows, alpha


@pytest.mark.parametrize("seed", range(4))
def test_l2c_is_adam_on_the_held_out_loss_of_the_mixture(seed):
    judge, own, received = scene(seed, 4, spread=2.0)
    vector, weights, state = l2c(own, received, world(own, 4), None, judge, steps=7)
    expected, alpha = l2c_by_autograd(judge, own, received, [0.0] * 5, 7, 0.1)
    np.testing.assert_allclose(list(state["alpha"].values()), alpha.numpy(), atol=1e-4)
    np.testing.assert_allclose(vector.numpy(), expected.numpy(), atol=1e-3)
    # the next round goes on from there
    before = copy.deepcopy(state)
    vector, weights, later = l2c(own, received[:2], world(own, 2), state, judge)
    expected, again = l2c_by_autograd(judge, own, received[:2], alpha[:3].tolist(), 3, 0.1)
    assert state == before
    assert later["alpha"]["peer4"] == before["alpha"]["peer4"]
    np.testing.assert_allclose([later["alpha"][p] for p in ("own", "peer1", "peer2")], again.numpy(), atol=1e-4)
    np.testing.assert_allclose(weights.numpy(), torch.softmax(again, 0).numpy(), atol=1e-4)
    assert later["trust"]["peer1"] == pytest.approx(float(weights[1]), abs=1e-6)


def test_l2c_leaves_out_what_has_no_finite_loss():
    judge, own, received = scene(5, 3)
    received[1] = 3e38
    result = aggregate(l2c, own, received, world(own, 3), None, judge)
    assert result.weights["peer2"] == 0
    assert result.weights["peer1"] > 0.1
    assert float((result.vector - own).norm()) < 2

    class Silent(LinearJudge):
        def gradient(self, vector):
            return torch.full_like(vector, float("nan"))

    result = aggregate(l2c, own, received, world(own, 3), None, Silent(5))
    assert torch.equal(result.vector, own)
    assert result.weights == {"own": 1, "peer1": 0, "peer2": 0, "peer3": 0}


@pytest.mark.parametrize("rule", [papaya, l2c])
def test_they_keep_own_alone_and_need_a_judge(rule):
    judge, own, received = scene(6, 2)
    vector, weights, state = rule(own, received[:0], world(own, 0), {"trust": {}}, judge)
    assert torch.equal(vector, own)
    assert weights.tolist() == [1]
    assert state == {"trust": {}}
    with pytest.raises(SpecError):
        rule(own, received, world(own, 2), None, None)
