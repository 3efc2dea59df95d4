"""Optimisers on flat vectors, against torch.optim and against the formulas in float64."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from coterie.spec import TrainingTable
from coterie.training import FitState, Learner, losses, models, optimizers

torch.set_num_threads(1)
STEPS = 8


def table_of(**values) -> TrainingTable:
    """Plain gradient descent, whatever the spec's defaults, with ``values`` over it."""
    return TrainingTable(**{"lr": 0.1, "clip": 0.0, "quasi_global_momentum": 0.0, "batch_size": 16, **values})


def build(name: str) -> nn.Module:
    torch.manual_seed(11)
    if name == "mlp":
        return models.mlp((1, 8, 8), 5, hidden=(16, 8))
    return models.cnn((1, 8, 8), 5, channels=(4, 6), hidden=(8,))


def data(samples: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(samples, 1, 8, 8, generator=generator)
    return x, torch.randint(5, (samples,), generator=generator)


def flat(module: nn.Module, learner: Learner) -> torch.Tensor:
    vector, parameters = torch.zeros(learner.layout.size), dict(module.named_parameters())
    for slot in learner.layout.slots:
        vector.as_strided(slot.shape, slot.stride, slot.offset).copy_(parameters[slot.name].detach())
    return vector


def torch_optimizer(table: TrainingTable, module: nn.Module, lr: float) -> torch.optim.Optimizer:
    if table.optimizer == "adam":
        betas = (table.momentum or 0.9, table.beta2)
        return torch.optim.Adam(module.parameters(), lr=lr, betas=betas, weight_decay=table.weight_decay)
    return torch.optim.SGD(module.parameters(), lr=lr, momentum=table.momentum, weight_decay=table.weight_decay)


def torch_fit(table, module, optimizer, x, y, batches) -> list[float]:
    values = []
    for positions in batches:
        optimizer.zero_grad()
        loss = losses.cross_entropy(module(x[positions]), y[positions])
        loss.backward()
        if table.clip:
            nn.utils.clip_grad_norm_(module.parameters(), table.clip)
        optimizer.step()
        values.append(loss.item())
    return values


def assert_near(vector: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-6) -> None:
    assert float((vector - expected).norm() / expected.norm()) < tolerance


TABLES = {
    "sgd": {"lr": 0.1},
    "momentum": {"lr": 0.05, "momentum": 0.9},
    "sgd_decay": {"lr": 0.1, "weight_decay": 0.01},
    "momentum_decay_clip": {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01, "clip": 0.5},
    "clip": {"lr": 0.1, "clip": 0.1},
    "clip_never_reached": {"lr": 0.1, "clip": 1e6},
    "adam": {"optimizer": "adam", "lr": 0.003},
    "adam_decay_clip": {"optimizer": "adam", "lr": 0.003, "weight_decay": 0.01, "clip": 0.5},
    "adam_betas": {"optimizer": "adam", "lr": 0.003, "momentum": 0.8, "beta2": 0.95},
}


@pytest.mark.parametrize("model", ["mlp", "cnn"])
@pytest.mark.parametrize("values", TABLES.values(), ids=TABLES.keys())
def test_a_fit_is_that_of_torch(model, values):
    table = table_of(**values)
    module = build(model)
    plain = copy.deepcopy(module)
    learner = Learner(module, losses.cross_entropy, table)
    start = learner.vector.clone()
    if model == "cnn":
        assert learner.layout.slots[2].stride[1] == 1  # channels-last
    x, y = data()
    indices = torch.arange(len(y)).flip(0)
    batches = [indices[positions] for positions in learner.batches(len(y), STEPS, 3)]
    report = learner.fit(x, y, indices, steps=STEPS, lr=table.lr, seed=3)
    expected = torch_fit(table, plain, torch_optimizer(table, plain, table.lr), x, y, batches)
    assert_near(learner.vector, flat(plain, learner))
    assert float((learner.vector - start).norm()) > 0.01
    assert report.steps == STEPS
    assert report.loss == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_reset_starts_a_fresh_optimizer_each_fit(name):
    table = table_of(**TABLES[name])
    module = build("mlp")
    plain = copy.deepcopy(module)
    learner, state = Learner(module, losses.cross_entropy, table), FitState()
    x, y = data()
    for seed in (1, 2):
        learner.fit(x, y, torch.arange(len(y)), steps=5, lr=table.lr, seed=seed, state=state)
        torch_fit(table, plain, torch_optimizer(table, plain, table.lr), x, y, learner.batches(len(y), 5, seed))
        assert state.count == 5
    assert_near(learner.vector, flat(plain, learner))


class Scripted(Learner):
    """A learner whose minibatches are given."""

    script: list[torch.Tensor]

    def batches(self, samples: int, steps: int | None, seed: int) -> Sequence[torch.Tensor]:
        chosen, self.script = self.script[:steps], self.script[steps:]
        return chosen


def scripted(table: TrainingTable, pieces: list[int]) -> tuple[torch.Tensor, FitState]:
    learner, state = Scripted(build("mlp"), losses.cross_entropy, table), FitState()
    x, y = data()
    learner.script = list(torch.randperm(60, generator=torch.Generator().manual_seed(1)).split(6))
    for steps in pieces:
        learner.fit(x, y, torch.arange(60), steps=steps, lr=table.lr, seed=0, state=state)
    return learner.vector, state


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam_decay_clip"])
def test_keep_makes_two_fits_one(name):
    table = table_of(optimizer_state="keep", **TABLES[name])
    (halves, state), (whole, _) = scripted(table, [5, 5]), scripted(table, [10])
    assert torch.equal(halves, whole)
    assert state.count == 10
    assert len(state.optimizer) == optimizers.state_rows(table)
    reset, _ = scripted(table_of(**TABLES[name]), [5, 5])
    assert torch.equal(reset, whole) == (name == "sgd")


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_kept_states_of_one_learner_do_not_meet(name):
    table = table_of(optimizer_state="keep", **TABLES[name])
    learner = Learner(build("mlp"), losses.cross_entropy, table)
    x, y = data()
    start, indices = learner.vector.clone(), torch.arange(60)

    def two_fits(between):
        learner.vector.copy_(start)
        state = FitState()
        learner.fit(x, y, indices, steps=3, lr=table.lr, seed=1, state=state)
        if between:
            saved = learner.vector.clone()
            learner.fit(x, y, indices, steps=4, lr=table.lr, seed=9, state=FitState())
            learner.vector.copy_(saved)
        learner.fit(x, y, indices, steps=3, lr=table.lr, seed=2, state=state)
        return learner.vector.clone()

    assert torch.equal(two_fits(False), two_fits(True))


def test_frozen_parameters_do_not_decay():
    module = build("mlp")
    module[1].requires_grad_(False)
    before = module[1].weight.detach().clone()
    table = table_of(weight_decay=0.5, momentum=0.9, clip=1.0)
    x, y = data()
    Learner(module, losses.cross_entropy, table).fit(x, y, torch.arange(60), steps=3, lr=0.1, seed=1)
    assert torch.equal(module[1].weight, before)


# FedProx and quasi-global momentum, against the formula in float64


def softmax_gradient(weight: np.ndarray, bias: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Gradient of the mean cross-entropy of a linear model: (p - onehot)^T x / B and its column of sums."""
    logits = x @ weight.T + bias
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    shares[np.arange(len(y)), y] -= 1
    return np.concatenate([(shares.T @ x).ravel(), shares.sum(0)]) / len(y)


@pytest.mark.parametrize(
    ("mu", "beta", "clip"),
    [(0.0, 0.0, 0.0), (0.5, 0.0, 0.0), (0.0, 0.9, 0.0), (0.5, 0.9, 0.0), (0.5, 0.9, 0.3), (2.0, 0.5, 0.05)],
)
def test_proximal_term_and_quasi_global_momentum_follow_the_formula(mu, beta, clip):
    """theta <- theta - lr (clip(g + mu (theta - base)) + beta V); V <- beta V + (1 - beta)(x_old - x_new)/(lr H)."""
    classes, features, steps, lr = 3, 4, 6, 0.2
    table = table_of(batch_size=10, proximal=mu, quasi_global_momentum=beta, clip=clip)
    torch.manual_seed(2)
    learner = Learner(nn.Linear(features, classes), losses.cross_entropy, table)
    x, y = torch.randn(40, features), torch.randint(classes, (40,))
    theta = learner.vector.double().numpy().copy()
    velocity, state = np.zeros_like(theta), FitState(velocity=torch.zeros(learner.layout.trainable))
    for round_ in range(3):
        base, mixed = theta.copy(), np.linspace(-0.1, 0.1, len(theta)) * (round_ + 1)
        for positions in learner.batches(40, steps, round_):
            weight, bias = theta[:12].reshape(classes, features), theta[12:]
            g = softmax_gradient(weight, bias, x[positions].double().numpy(), y[positions].numpy())
            g = g + mu * (theta - base)
            norm = np.linalg.norm(g)
            if clip and norm > clip:
                g = g * clip / norm
            theta = theta - lr * (g + beta * velocity)
        theta = (theta + mixed) / 2
        velocity = beta * velocity + (1 - beta) * (base - theta) / (lr * steps)

        old = learner.vector.clone()
        learner.fit(x, y, torch.arange(40), steps=steps, lr=lr, seed=round_, state=state, base=old)
        learner.vector.add_(torch.from_numpy(mixed).float()).div_(2)
        optimizers.update_velocity(state.velocity, old, learner.vector, lr=lr, steps=steps, beta=beta)
        np.testing.assert_allclose(learner.vector.numpy(), theta, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(state.velocity.numpy(), velocity, rtol=1e-5, atol=2e-6)
    assert np.abs(velocity).max() > 0.01


# The pieces


@pytest.mark.parametrize("limit", [0.1, 1.0, 4.9, 5.0, 5.1, 100.0])
def test_clip_is_that_of_torch(limit):
    gradient = torch.tensor([3.0, 0.0, -4.0])
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = gradient.clone()
    nn.utils.clip_grad_norm_([parameter], limit)
    gradient.mul_(optimizers.clip_scale(gradient, limit))
    torch.testing.assert_close(gradient, parameter.grad, rtol=1e-6, atol=0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=8), st.floats(1e-3, 1e3))
def test_clip_bounds_the_norm_and_keeps_the_direction(values, limit):
    gradient = torch.tensor(values)
    clipped = gradient.clone()
    clipped.mul_(optimizers.clip_scale(clipped, limit))
    norm = float(gradient.norm())
    assert float(clipped.norm()) <= limit * (1 + 1e-6)
    if norm <= limit:
        assert torch.equal(clipped, gradient)
    else:
        torch.testing.assert_close(clipped, gradient * (limit / norm))


def test_a_limit_of_zero_does_not_clip():
    gradient = torch.tensor([1e6, 2.0])
    assert optimizers.clip_scale(gradient, 0.0) == 1


def test_state_rows():
    assert optimizers.state_rows(table_of()) == 0
    assert optimizers.state_rows(table_of(momentum=0.5)) == 1
    assert optimizers.state_rows(table_of(optimizer="adam")) == 2


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
def test_the_first_step_forgets_what_the_rows_held(name):
    table = table_of(**TABLES[name])
    results = []
    for junk in (0.0, math.nan):
        rows = [torch.full((3,), junk) for _ in range(optimizers.state_rows(table))]
        parameters = torch.ones(3)
        optimizers.step(table, parameters, torch.tensor([1.0, -2.0, 0.0]), rows, 1, table.lr)
        results.append(parameters)
    assert torch.equal(*results)
    assert results[0][2] == 1.0


def test_schedules_have_closed_forms():
    rounds, floor = 8, 0.1
    tables = {name: table_of(lr=0.4, schedule=name, lr_floor=floor) for name in ("constant", "linear", "cosine")}
    for t in range(rounds):
        rates = {name: optimizers.learning_rate(table, t, rounds) for name, table in tables.items()}
        assert rates["constant"] == 0.4
        assert rates["linear"] == pytest.approx(0.4 * (floor + (1 - floor) * (1 - t / rounds)))
        cosine = 0.4 * floor + 0.5 * (0.4 - 0.4 * floor) * (1 + math.cos(math.pi * t / rounds))
        assert rates["cosine"] == pytest.approx(cosine)
    for name in ("linear", "cosine"):
        assert optimizers.learning_rate(tables[name], 0, rounds) == pytest.approx(0.4)
        assert optimizers.learning_rate(tables[name], rounds // 2, rounds) == pytest.approx(0.4 * 0.55)
        for t in (rounds, rounds + 5):  # what follows the schedule stays at the floor
            assert optimizers.learning_rate(tables[name], t, rounds) == pytest.approx(0.04)
        assert optimizers.learning_rate(tables[name], 0, 1) == pytest.approx(0.4)
