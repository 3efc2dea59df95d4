"""A learner: its batches, fits, evaluations and gradients, and what it refuses."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from coterie.errors import ModelError, StorageReplaced, TrainingDiverged, VectorBusy
from coterie.spec import TrainingTable
from coterie.training import FitState, Learner, losses

torch.set_num_threads(1)


def module(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(4 * 36, 3),
    ).to(memory_format=torch.channels_last)


def data(samples: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(samples, 1, 6, 6, generator=generator)
    return x, torch.randint(3, (samples,), generator=generator)


def learner(net: nn.Module | None = None, loss=losses.cross_entropy, **values) -> Learner:
    plain = {"clip": 0.0, "quasi_global_momentum": 0.0, "batch_size": 16}
    return Learner(net or module(), loss, TrainingTable(**plain | values))


def fit(subject: Learner, steps: int | None = 3, seed: int = 1, lr: float = 0.1, **others):
    x, y = data()
    return subject.fit(x, y, torch.arange(len(y)), steps=steps, lr=lr, seed=seed, **others)


def linear(**values) -> Learner:
    return learner(nn.Linear(2, 2), **values)


# Batches

SAMPLES, SIZES, SEEDS = st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**63 - 1)


@settings(max_examples=80, deadline=None)
@given(SAMPLES, SIZES, st.integers(1, 30), SEEDS)
def test_steps_draw_without_replacement_in_each_pass(samples, size, steps, seed):
    batches = list(linear(batch_size=size).batches(samples, steps, seed))
    assert [len(batch) for batch in batches] == [min(size, samples)] * steps
    drawn = torch.cat(batches).tolist()
    for start in range(0, len(drawn), samples):
        one_pass = drawn[start : start + samples]
        assert len(set(one_pass)) == len(one_pass)
        assert set(one_pass) <= set(range(samples))


@settings(max_examples=80, deadline=None)
@given(SAMPLES, SIZES, st.integers(1, 4), SEEDS)
def test_epochs_cover_every_sample_once(samples, size, epochs, seed):
    batches = list(linear(batch_size=size, local_epochs=epochs).batches(samples, None, seed))
    size = min(size, samples)
    per_epoch = math.ceil(samples / size)
    assert len(batches) == epochs * per_epoch
    for start in range(0, len(batches), per_epoch):
        epoch = batches[start : start + per_epoch]
        assert sorted(torch.cat(epoch).tolist()) == list(range(samples))
        assert [len(batch) for batch in epoch[:-1]] == [size] * (per_epoch - 1)
        assert len(epoch[-1]) == samples - size * (per_epoch - 1)


@settings(max_examples=40, deadline=None)
@given(st.integers(12, 40), SIZES, st.sampled_from([None, 9]), SEEDS, SEEDS)
def test_batches_follow_from_the_seed_alone(samples, size, steps, seed, other):
    assume((seed - other) % 2**32)  # torch's generator takes the low 32 bits
    subject = linear(batch_size=size)
    first = torch.cat(list(subject.batches(samples, steps, seed)))
    torch.manual_seed(0)
    again = torch.cat(list(linear(batch_size=size).batches(samples, steps, seed)))
    assert torch.equal(first, again)
    assert first.dtype is torch.int64
    if len(first) >= 12:
        assert not torch.equal(first, torch.cat(list(subject.batches(samples, steps, other))))


def test_passes_are_shuffled_anew():
    first, second = linear(batch_size=30).batches(30, 2, 1)
    assert not torch.equal(first, second)


def test_a_fit_counts_the_steps_of_its_epochs():
    x, y = data()
    subject = learner(local_epochs=2, batch_size=16)
    assert subject.fit(x, y, torch.arange(50), steps=None, lr=0.1, seed=1).steps == 8
    assert learner(batch_size=64).fit(x, y, torch.arange(50), steps=None, lr=0.1, seed=1).steps == 1


def test_a_fit_sees_only_its_own_samples():
    x, y = data()
    x[::2] = math.nan
    learner().fit(x, y, torch.arange(1, 50, 2), steps=5, lr=0.1, seed=1)


def test_a_fit_is_in_training_mode():
    subject = learner()
    subject.bound.module.eval()
    fit(subject, steps=3)
    assert subject.bound.local_state() == {"1.num_batches_tracked": torch.tensor(3)}


# Evaluation and gradient


@pytest.mark.parametrize("samples", [1, 249, 250, 251, 777])
@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.mse])
def test_evaluation_is_that_of_torch(samples, loss):
    subject = learner(module(dropout=0.5), loss=loss)
    fit(subject)
    plain = copy.deepcopy(subject.bound.module).eval()
    x, y = data(samples)
    result = subject.evaluate(x, y)
    with torch.no_grad():
        outputs = plain(x)
    if loss is losses.cross_entropy:
        assert result.loss == pytest.approx(float(functional.cross_entropy(outputs, y)), rel=1e-5)
    else:
        wanted = torch.eye(3)[y]
        assert result.loss == pytest.approx(float(((outputs - wanted) ** 2).mean()), rel=1e-5)
    assert result.accuracy == pytest.approx(float((outputs.argmax(1) == y).double().mean()))
    assert result.samples == samples
    torch.testing.assert_close(subject.outputs(x), outputs)
    assert not subject.outputs(x).requires_grad


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("action", ["evaluate", "gradient"])
def test_looking_changes_nothing(action, training):
    subject = learner(module(dropout=0.5))
    subject.bound.module.train(training)
    before = subject.vector.clone()
    getattr(subject, action)(*data())
    assert torch.equal(subject.vector, before)
    assert subject.bound.local_state() is None
    assert all(part.training is training for part in subject.bound.module.modules())


def test_the_gradient_is_that_of_autograd():
    net = module(dropout=0.5)
    net[0].weight.requires_grad_(False)
    subject = learner(net)
    plain = copy.deepcopy(net).eval()
    x, y = data()
    gradient = subject.gradient(x, y)
    trained = {name: p for name, p in plain.named_parameters() if p.requires_grad}
    expected = torch.autograd.grad(functional.cross_entropy(plain(x), y), list(trained.values()))
    layout = subject.layout
    assert gradient.shape == (layout.size,)
    assert not gradient[layout.trainable :].any()
    for slot, value in zip(layout.slots, expected, strict=False):
        torch.testing.assert_close(gradient.as_strided(slot.shape, slot.stride, slot.offset), value)
    assert torch.equal(subject.gradient(x, y), gradient)  # not added up


def test_a_cache_filled_in_an_evaluation_can_be_trained_with():
    class Cached(nn.Linear):
        table = None

        def forward(self, x):
            if self.table is None:
                self.table = x.new_ones(self.out_features)
            return super().forward(x.flatten(1)) * self.table

    subject = learner(Cached(36, 3))
    subject.evaluate(*data())
    fit(subject)


# Purity


class Half(nn.Module):
    """Layers of several dtypes, with statistics in float64."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(36, 8).bfloat16(), nn.Linear(8, 3).double()
        self.norm = nn.BatchNorm1d(8, momentum=None).double()

    def forward(self, x):
        hidden = self.first(x.flatten(1).bfloat16())
        return self.second(self.norm(hidden.double())).float()


NETS = {
    "batch_norm": lambda: module(),
    "dropout": lambda: module(dropout=0.5),
    "cumulative": lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36, momentum=None), nn.Linear(36, 3)),
    "dtypes": Half,
}


@pytest.mark.parametrize("factory", NETS.values(), ids=NETS.keys())
@pytest.mark.parametrize("values", [{"momentum": 0.9, "clip": 1.0}, {"optimizer": "adam", "optimizer_state": "keep"}])
def test_a_fit_depends_on_its_inputs_alone(factory, values):
    torch.manual_seed(0)
    subject = learner(factory(), **values)
    matrix = torch.stack([subject.vector.clone() for _ in range(3)])
    elsewhere = learner(module(dropout=0.2))

    def two_fits(row, disturb):
        subject.bind(matrix[row])
        state, local, lost = FitState(), None, []
        for seed in (5, 6):
            torch.manual_seed(seed)
            subject.bind(matrix[row])
            subject.bound.restore_local(local)
            lost.append(fit(subject, seed=seed, lr=0.05, state=state).loss)
            local = subject.bound.local_state()
            if disturb:
                fit(elsewhere)
                subject.bind(torch.rand(subject.layout.size))
                fit(subject, steps=2, seed=9, lr=0.01, state=FitState())
                subject.evaluate(*data())
        return lost, local

    start = matrix[0].clone()
    losses_, local = two_fits(0, False)
    others = [two_fits(1, False), two_fits(2, True)]
    assert not torch.equal(matrix[0], start)
    assert torch.equal(matrix[0], matrix[1])
    assert torch.equal(matrix[0], matrix[2])
    assert all(other == losses_ for other, _ in others)
    assert local is not None
    assert all(torch.equal(local[name], value) for _, other in others for name, value in other.items())


def test_statistics_of_another_dtype_travel():
    subject = learner(Half())
    fit(subject)
    net = subject.bound.module
    slot = next(slot for slot in subject.layout.slots if slot.name == "norm.running_mean")
    mean = subject.vector[slot.offset : slot.offset + slot.size]
    assert mean.abs().min() > 0
    assert torch.equal(net.norm.running_mean, mean.double())


@pytest.mark.parametrize("action", ["fit", "evaluate", "gradient"])
def test_what_is_written_into_the_vector_reaches_other_dtypes(action):
    first, second = learner(Half()), learner(Half())
    wanted = torch.rand(first.layout.size)
    first.bind(wanted.clone())
    second.vector.copy_(wanted)  # in place, with no bind
    results = [fit(each) if action == "fit" else getattr(each, action)(*data()) for each in (first, second)]
    assert torch.equal(*results) if action == "gradient" else results[0] == results[1]
    assert torch.equal(first.vector, second.vector)


# Touching the vector during a fit


class Meddling(nn.Module):
    """Does something in its forward, once, at the given step."""

    def __init__(self, at: int = 2):
        super().__init__()
        self.layer, self.norm = nn.Linear(36, 3), nn.BatchNorm1d(3)
        self.at, self.meddle = at, None

    def forward(self, x):
        self.at -= 1
        if self.at == 0 and self.meddle is not None:
            self.meddle(self)
        return self.norm(self.layer(x.flatten(1)))


TOUCHES = {
    "vector": lambda subject: subject.vector,
    "bound": lambda subject: subject.bound,
    "bind": lambda subject: subject.bind(torch.zeros(subject.layout.size)),
    "fit": fit,
    "evaluate": lambda subject: subject.evaluate(*data()),
    "gradient": lambda subject: subject.gradient(*data()),
}


@pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES.keys())
@pytest.mark.parametrize("place", ["forward", "loss"])
def test_touching_the_vector_during_a_fit_is_refused(touch, place):
    net, armed = Meddling(), [place == "loss"]

    def loss(outputs, labels):
        if armed[0]:
            touch(subject)
        return losses.cross_entropy(outputs, labels)

    subject = learner(net, loss=loss)
    if place == "forward":
        net.meddle = lambda _: touch(subject)
    with pytest.raises(VectorBusy, match="being trained") as caught:
        fit(subject)
    assert caught.value.remedy
    armed[0], net.meddle = False, None
    before = subject.vector.clone()
    assert fit(subject).steps == 3
    assert not torch.equal(subject.vector, before)
    subject.evaluate(*data())


def test_an_error_of_the_module_passes_and_the_learner_goes_on():
    def fail(_):
        raise ZeroDivisionError

    net = Meddling()
    net.meddle = fail
    subject = learner(net)
    with pytest.raises(ZeroDivisionError):
        fit(subject)
    assert fit(subject).steps == 3


# Leaving the vector


def replace(net):
    net.layer.bias = nn.Parameter(torch.zeros(3))


def point_elsewhere(net):
    net.layer.bias.data = torch.zeros(3)


TRAPS = {
    "half": (lambda net: net.half(), "layer.weight"),
    "to_float64": (lambda net: net.to(torch.float64), "layer.weight"),
    "assign": (lambda net: net.load_state_dict(copy.deepcopy(net.state_dict()), assign=True), "layer.weight"),
    "replace": (replace, "layer.bias"),
    "data": (point_elsewhere, "layer.bias"),
    "buffer": (lambda net: setattr(net.norm, "running_mean", torch.zeros(3)), "norm.running_mean"),
}


@pytest.mark.parametrize(("trap", "name"), TRAPS.values(), ids=TRAPS.keys())
@pytest.mark.parametrize("step", [1, 2, 3])
def test_leaving_the_vector_during_a_fit_is_named(trap, name, step):
    net = Meddling(at=step)
    net.meddle = trap
    subject = learner(net)
    with pytest.raises(StorageReplaced) as caught:
        fit(subject)
    assert caught.value.what.startswith(name + " ")
    assert subject.layout.size == len(subject.vector)  # no longer busy


@pytest.mark.parametrize(("trap", "name"), TRAPS.values(), ids=TRAPS.keys())
@pytest.mark.parametrize("action", ["fit", "evaluate", "gradient"])
def test_leaving_the_vector_between_fits_is_named(trap, name, action):
    subject = learner(Meddling())
    fit(subject)
    trap(subject.bound.module)
    with pytest.raises(StorageReplaced) as caught:
        fit(subject) if action == "fit" else getattr(subject, action)(*data())
    assert caught.value.what.startswith(name + " ")


def test_binding_again_brings_moved_parameters_home():
    subject = learner(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)))
    before = subject.evaluate(*data())
    subject.bound.module.half()
    with pytest.raises(StorageReplaced):
        subject.evaluate(*data())
    subject.bind(subject.vector)
    assert subject.evaluate(*data()) == before


def test_a_vector_of_another_model_is_refused():
    with pytest.raises(ModelError, match="contiguous elements"):
        learner().bind(torch.zeros(3))


# Divergence


@pytest.mark.parametrize("values", [{}, {"momentum": 0.9}, {"proximal": 1.0}])
def test_a_huge_step_size_is_named(values):
    subject = learner(loss=losses.mse, **values)
    start = subject.vector.clone()
    with pytest.raises(TrainingDiverged, match=r"training\.lr"):
        fit(subject, steps=60, lr=1e12, base=start)
    subject.bind(start)
    subject.bound.restore_local(None)
    assert math.isfinite(fit(subject, lr=0.01).loss)


def test_one_element_that_is_not_finite_is_named():
    subject = linear()
    x, y = torch.full((4, 2), 1e38), torch.tensor([0, 1, 0, 1])
    with pytest.raises(TrainingDiverged):
        subject.fit(x, y, torch.arange(4), steps=1, lr=1e6, seed=1)
