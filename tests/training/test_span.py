"""Descent within the span of few samples, against ordinary descent in float64 and in whole numbers."""

from __future__ import annotations

import copy
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from coterie.spec import TrainingTable
from coterie.training import FitState, Learner, losses
from coterie.training.engine import Engine
from coterie.training.span import Descent, Span, pays
from coterie.training.vector import VectorModule

torch.set_num_threads(1)


def net(*, bias: bool = True) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(40, 24, bias=bias), nn.ReLU(), nn.Linear(24, 7), nn.Linear(7, 3))


def samples() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(30, 5, 8, generator=generator), torch.randint(3, (30,), generator=generator)


def descended(module, x, y, batches, *, lr, clip, velocity, beta) -> torch.Tensor:
    """Ordinary descent in float64 with autograd: the whole move, in the order of the parameters."""
    module = copy.deepcopy(module).double()
    parameters = list(module.parameters())
    start = [p.detach().clone() for p in parameters]
    drifts = velocity.double().split([p.numel() for p in parameters])
    for batch in batches:
        gradients = torch.autograd.grad(losses.cross_entropy(module(x[batch].double()), y[batch]), parameters)
        norm = float(torch.cat([g.reshape(-1) for g in gradients]).norm())
        scale = min(1.0, clip / norm) if clip else 1.0
        with torch.no_grad():
            for parameter, gradient, drift in zip(parameters, gradients, drifts, strict=True):
                parameter -= lr * (scale * gradient + beta * drift.view_as(parameter))
    return torch.cat([(p.detach() - s).reshape(-1) for p, s in zip(parameters, start, strict=True)])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("clip", [0.0, 0.05, 0.8, 100.0])
@pytest.mark.parametrize("beta", [0.0, 0.9])
@pytest.mark.parametrize("how", [{"steps": 12}, {"steps": None, "epochs": 5}])
def test_a_fit_goes_where_ordinary_descent_goes(bias, clip, beta, how):
    """21 samples in batches of 8: batches cross from one pass to the next, or the last one of a pass is short."""
    table = TrainingTable(
        clip=clip, quasi_global_momentum=beta, batch_size=8, local_epochs=how.get("epochs"), **{"local_steps": None}
    )
    module, (x, y), indices = net(bias=bias), samples(), torch.arange(29, 8, -1)
    learner = Learner(copy.deepcopy(module), losses.cross_entropy, table)
    start = learner.vector.clone()
    velocity = 0.03 * torch.randn(len(start), generator=torch.Generator().manual_seed(5))
    drawn = learner.batches(21, how["steps"], 2)
    batches = [indices[batch] for batch in drawn]
    assert len(set(map(len, batches))) == (1 if how["steps"] else 2)
    wanted = descended(module, x, y, batches, lr=0.1, clip=clip, velocity=velocity, beta=beta)
    state = FitState(velocity if beta else None)
    learner.fit(x, y, indices, steps=how["steps"], lr=0.1, seed=2, state=state)
    assert state.count == len(batches)
    move = (learner.vector - start).double()
    assert float((move - wanted).norm()) < 1e-7 * float(start.norm()) + 1e-6 * float(wanted.norm())
    steps = Engine(VectorModule(module), losses.cross_entropy).losses(x, y, indices, drawn, Descent(0.1, 1))
    assert steps is not None
    assert steps.moved  # what was tested here is the span: nothing else goes down at once with a clip


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=5), st.integers(0, 9))
def test_in_whole_numbers_nothing_differs(batches, seed):
    """Samples may be in a batch twice. Rates and numbers are such that float32 rounds nothing."""
    generator = torch.Generator().manual_seed(seed)
    x, weight, velocity = (
        torch.randint(-1, 2, shape, generator=generator).float() for shape in ((4, 3), (2, 3), (2, 3))
    )
    plain = [[Fraction(float(value)) for value in row] for row in weight]
    span = Span(x, weight, Descent(0.25, velocity=velocity, beta=0.5), velocity)
    for positions in batches:
        gradient = torch.randint(-1, 2, (len(positions), 2), generator=generator).float()
        batch = torch.tensor(positions)
        product = (gradient.t() @ x[batch]).long()
        assert float(span.square(batch, gradient)) == int((product * product).sum())
        span.step(batch, gradient, 0.5)
        for row, moves, drifts in zip(plain, product.tolist(), velocity.tolist(), strict=True):
            row[:] = [
                w - Fraction(1, 8) * move - Fraction(1, 8) * int(drift)
                for w, move, drift in zip(row, moves, drifts, strict=True)
            ]
    span.finish()
    assert [[Fraction(value) for value in row] for row in weight.tolist()] == plain
    assert torch.equal(span.products, x @ weight.t())


def test_it_pays_where_samples_come_again():
    assert pays(60, 160, 128, 784)
    assert not pays(160, 160, 128, 784)  # every sample once
    assert not pays(60, 160, 10, 784)  # the Gram matrix would cost more than ten outputs
    assert not pays(100_000, 1_000_000, 128, 784)  # nor may it grow beyond all memory


def test_a_diverging_fit_is_still_seen():
    from coterie.errors import TrainingDiverged

    x, y = samples()
    for clip in (0.0, 1.0):
        table = TrainingTable(clip=clip, quasi_global_momentum=0.0, batch_size=8)
        with pytest.raises(TrainingDiverged):
            Learner(net(), losses.cross_entropy, table).fit(x * 1e30, y, torch.arange(20), steps=12, lr=1e30, seed=1)
