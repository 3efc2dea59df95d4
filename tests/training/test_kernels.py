"""The kernels against autograd, in float64 or in arithmetic without rounding, and what they leave to autograd."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, weight_norm

from coterie.errors import StorageReplaced
from coterie.spec import TrainingTable
from coterie.training import FitState, Learner, losses, models
from coterie.training.engine import Engine
from coterie.training.sequences import recognise
from coterie.training.span import Descent
from coterie.training.vector import VectorModule

torch.set_num_threads(1)
PLAIN = {"clip": 0.0, "quasi_global_momentum": 0.0, "batch_size": 16}


def image_net(*layers: nn.Module, shape: tuple[int, ...] = (2, 9, 7), channels_last: bool = True) -> nn.Module:
    """``layers``, flattened, and a linear layer to three classes."""
    with torch.no_grad():
        features = nn.Sequential(*layers, nn.Flatten())(torch.zeros(1, *shape)).shape[1]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, 3))
    return net.to(memory_format=torch.channels_last) if channels_last else net


SMALL = (2, 9, 7)
NETS = {
    "softmax": ((1, 28, 28), lambda: models.softmax((1, 28, 28), 10)),
    "mlp": ((1, 28, 28), lambda: models.mlp((1, 28, 28), 10)),
    "cnn": ((1, 28, 28), lambda: models.cnn((1, 28, 28), 10)),
    "lenet": ((1, 28, 28), lambda: models.lenet((1, 28, 28), 10)),
    "caffe_lenet": ((1, 28, 28), lambda: models.caffe_lenet((1, 28, 28), 10)),
    "cnn_odd": ((3, 13, 17), lambda: models.cnn((3, 13, 17), 4)),
    "lenet_odd": ((3, 15, 21), lambda: models.lenet((3, 15, 21), 4)),
    "linear": ((5,), lambda: nn.Linear(5, 3)),
    "two_classes_of_one_feature": ((1,), lambda: nn.Linear(1, 2, bias=False)),
    "nested": ((6,), lambda: nn.Sequential(nn.Sequential(nn.Linear(6, 4), nn.Identity()), nn.ReLU(), nn.Linear(4, 3))),
    "no_bias": (SMALL, lambda: image_net(nn.Conv2d(2, 3, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2))),
    "strides": (SMALL, lambda: image_net(nn.Conv2d(2, 3, (3, 2), stride=(2, 3), padding=(1, 0)), nn.ReLU())),
    "two_strides": (SMALL, lambda: image_net(nn.Conv2d(2, 3, 2, stride=2), nn.Conv2d(3, 4, 2, stride=3, padding=1))),
    "gaps": (SMALL, lambda: image_net(nn.Conv2d(2, 3, 1), nn.Conv2d(3, 4, 2, stride=4), nn.ReLU())),
    "wide_padding": (SMALL, lambda: image_net(nn.Conv2d(2, 3, 5, padding=6), nn.Conv2d(3, 2, 3, padding=4), nn.ReLU())),
    "same": (SMALL, lambda: image_net(nn.Conv2d(2, 4, (3, 5), padding="same"), nn.Conv2d(4, 3, 3, padding="valid"))),
    "pools": (SMALL, lambda: image_net(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1))),
    "two_pools": (SMALL, lambda: image_net(nn.Conv2d(2, 4, 1), nn.MaxPool2d((2, 1)), nn.ReLU(), nn.MaxPool2d(2))),
    "channels_first": (
        SMALL,
        lambda: image_net(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), channels_last=False),
    ),
}


def samples(shape: tuple[int, ...], count: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(count, *shape, generator=generator), torch.randint(classes, (count,), generator=generator)


def build(name: str) -> tuple[tuple[int, ...], nn.Module, int]:
    shape, factory = NETS[name]
    torch.manual_seed(3)
    net = factory()
    return shape, net, net(torch.zeros(1, *shape)).shape[1]


def flat(layout, tensors) -> torch.Tensor:
    vector = torch.zeros(layout.size, dtype=torch.float64)
    for slot, tensor in zip(layout.slots, tensors, strict=True):
        vector.as_strided(slot.shape, slot.stride, slot.offset).copy_(tensor)
    return vector


def by_hand(net: nn.Module, loss, x, y, batch) -> tuple[float, torch.Tensor]:
    bound = VectorModule(net)
    engine = Engine(bound, loss)
    bound.gradient.fill_(float("nan"))
    steps = engine.losses(x, y, torch.arange(len(y)), [batch])
    assert steps is not None
    assert not steps.moved
    (value,) = steps.losses
    return float(value), bound.gradient


# Values


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("batch", [1, 13])
@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.mse])
def test_loss_and_gradient_are_those_of_autograd_in_float64(name, batch, loss):
    shape, net, classes = build(name)
    x, y = samples(shape, 20, classes)
    chosen = torch.randperm(20, generator=torch.Generator().manual_seed(1))[:batch]
    reference = copy.deepcopy(net).double()
    expected = loss(reference(x[chosen].double()), y[chosen])
    wanted = flat(VectorModule(net).layout, torch.autograd.grad(expected, list(reference.parameters())))
    value, gradient = by_hand(net, loss, x, y, chosen)
    assert value == pytest.approx(expected.item(), rel=2e-6)
    assert float((gradient - wanted).norm() / wanted.norm()) < 2e-6


@pytest.mark.parametrize("name", NETS)
def test_going_down_at_once_is_going_down_the_gradient(name):
    shape, net, classes = build(name)
    x, y = samples(shape, 20, classes)
    chosen = torch.arange(13)
    reference = copy.deepcopy(net).double()
    losses.cross_entropy(reference(x[chosen].double()), y[chosen]).backward()
    bound = VectorModule(net)
    gradient = flat(bound.layout, [p.grad for p in reference.parameters()])
    wanted = bound.vector.double() - 0.1 * gradient
    steps = Engine(bound, losses.cross_entropy).losses(x, y, torch.arange(20), [chosen], Descent(0.1))
    assert steps is not None
    assert steps.moved
    assert len(list(steps.losses)) == 1
    assert float((bound.vector - wanted).norm() / (0.1 * gradient).norm()) < 1e-5


TABLES = [
    {},
    {"quasi_global_momentum": 0.9},
    {"clip": 0.2, "quasi_global_momentum": 0.9},
    {"momentum": 0.9, "clip": 0.5},
    {"optimizer": "adam", "local_epochs": 2},
    {"proximal": 0.5},
]


@pytest.mark.parametrize("name", ["mlp", "lenet_odd", "pools"])
@pytest.mark.parametrize("values", TABLES)
def test_a_fit_is_that_of_autograd(name, values):
    results = []
    for exact in (True, False):
        shape, net, classes = build(name)
        x, y = samples(shape, 50, classes)
        learner = Learner(net, losses.cross_entropy, TrainingTable(**PLAIN | values), exact_kernels=exact)
        start = learner.vector.clone()
        steps = None if "local_epochs" in values else 6
        velocity = 0.01 * torch.ones_like(start) if "quasi_global_momentum" in values else None
        report = learner.fit(
            x,
            y,
            torch.arange(3, 50),
            steps=steps,
            lr=0.01,
            seed=2,
            state=FitState(velocity),
            base=torch.zeros_like(start),
        )
        results.append((learner.vector - start, report, learner.evaluate(x, y)))
    (move, report, seen), (other_move, other_report, other_seen) = results
    tolerance = 1e-3 if "optimizer" in values else 2e-5  # Adam divides by gradients near 0
    assert float((move - other_move).norm() / move.norm()) < tolerance
    assert float(move.norm()) > 1e-3
    assert other_report.steps == report.steps
    assert other_report.loss == pytest.approx(report.loss, rel=1e-5)
    assert other_seen.loss == pytest.approx(seen.loss, rel=1e-5)
    assert other_seen.accuracy == seen.accuracy


def test_equal_elements_of_a_window_and_zeros_are_torchs():
    """Small whole numbers and batches of four: nothing is rounded, so the results are equal, ties included."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 2, 2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(2, 2, 2),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8, 2),
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randint(-1, 2, parameter.shape, generator=generator))
        net[0].bias[0] = 0
    x = torch.randint(-1, 2, (4, 1, 11, 11), generator=generator).float()
    x[:, :, :6] = 0
    y = torch.tensor([0, 1, 1, 0])
    hidden = net[0](x)
    ties = functional.max_pool2d(hidden, 2).repeat_interleave(2, 2).repeat_interleave(2, 3) == hidden
    assert ties.sum() > 1.5 * hidden[:, :, ::2, ::2].numel()
    assert (hidden == 0).any()
    wanted = torch.autograd.grad(losses.mse(net(x), y), list(net.parameters()))
    expected = flat(VectorModule(copy.deepcopy(net)).layout, wanted)
    _, gradient = by_hand(net, losses.mse, x, y, torch.arange(4))
    assert expected.abs().max() > 0
    assert torch.equal(gradient.double(), expected)


@pytest.mark.parametrize("name", ["softmax", "lenet", "cnn_odd"])
@pytest.mark.parametrize("count", [1, 250, 307])
def test_evaluation_is_that_of_autograd(name, count):
    shape, net, classes = build(name)
    x, y = samples(shape, count, classes)
    with torch.no_grad():
        outputs = copy.deepcopy(net)(x)
    seen = Learner(net, losses.cross_entropy, TrainingTable()).evaluate(x, y)
    assert seen.loss == pytest.approx(float(functional.cross_entropy(outputs, y)), rel=1e-5)
    assert seen.accuracy == pytest.approx(float((outputs.argmax(1) == y).double().mean()))


def test_evaluation_takes_any_loss():
    shape, net, classes = build("linear")
    x, y = samples(shape, 20, classes)
    with torch.no_grad():
        expected = float(net(x).abs().sum(1).mean())
    learner = Learner(net, lambda outputs, labels: outputs.abs().sum(1).mean(), TrainingTable())
    assert learner.evaluate(x, y).loss == pytest.approx(expected)


@pytest.mark.parametrize("count", [1, 40, 251])
def test_the_gradient_over_held_out_samples_is_that_of_autograd(count):
    shape, net, classes = build("lenet_odd")
    x, y = samples(shape, count, classes)
    reference = copy.deepcopy(net).double()
    loss = functional.cross_entropy(reference(x.double()), y)
    learner = Learner(net, losses.cross_entropy, TrainingTable())
    wanted = flat(learner.layout, torch.autograd.grad(loss, list(reference.parameters())))
    gradient = learner.gradient(x, y)
    assert float((gradient - wanted).norm() / wanted.norm()) < 2e-6
    learner.vector.zero_()
    assert gradient.abs().max() > 0


# Purity


@pytest.mark.parametrize("name", ["mlp", "lenet", "strides"])
def test_the_bits_depend_on_nothing_done_before(name):
    shape, net, classes = build(name)
    x, y = samples(shape, 60, classes)
    start = VectorModule(copy.deepcopy(net)).vector
    stride = -(-len(start) // 16) * 16
    places = torch.empty(3, stride)
    results = []
    for row, disturbed in enumerate((False, True, True)):
        vector = places[row, : len(start)]
        learner = Learner(copy.deepcopy(net), losses.cross_entropy, TrainingTable(momentum=0.9))
        if disturbed:  # other sizes, other samples, other values: in the same buffers
            for count in (1, 5, 9, 20, 40, 60)[row:]:
                learner.fit(x[:count] * 3, y, torch.arange(count), steps=2, lr=0.1, seed=count)
                learner.evaluate(x[:count], y[:count])
        vector.copy_(start)
        learner.bind(vector)
        report = learner.fit(x, y, torch.arange(50), steps=None, lr=0.05, seed=1, state=FitState())
        results.append((vector.clone(), report, learner.evaluate(x, y)))
    for other in results[1:]:
        assert torch.equal(other[0], results[0][0])
        assert other[1:] == results[0][1:]


def test_the_data_stay_as_they_are():
    shape, net, classes = build("lenet")
    x, y = samples(shape, 20, classes)
    before = x.clone()
    learner = Learner(net, losses.cross_entropy, TrainingTable())
    learner.fit(x, y, torch.arange(20), steps=2, lr=0.1, seed=1)
    learner.evaluate(x, y)
    assert torch.equal(x, before)


# What is recognised, and what is left to autograd


@pytest.mark.parametrize("name", NETS)
def test_known_sequences_are_recognised(name):
    shape, net, _ = build(name)
    bound = VectorModule(net)
    assert recognise(net, bound.layout) is not None
    assert Engine(bound, losses.cross_entropy).takes(torch.zeros(2, *shape))


class OwnLinear(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


def sequence(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*(layers or (nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))))


def changed(change) -> nn.Module:
    net = sequence()
    change(net)
    return net


def freeze(net):
    net[0].bias.requires_grad_(False)


def tie(net):
    net[0].weight = net[2].weight = nn.Parameter(torch.ones(4, 4))


CONV = {"in_channels": 2, "out_channels": 4, "kernel_size": 3}
UNKNOWN = {
    "subclass": lambda: sequence(OwnLinear(4, 3)),
    "subclass_of_sequential": lambda: type("Own", (nn.Sequential,), {})(nn.Linear(4, 3)),
    "tanh": lambda: sequence(nn.Linear(4, 3), nn.Tanh()),
    "dropout": lambda: sequence(nn.Linear(4, 3), nn.Dropout()),
    "batch_norm": lambda: sequence(nn.Linear(4, 3), nn.BatchNorm1d(3)),
    "relu_first": lambda: sequence(nn.ReLU(), nn.Linear(4, 3)),
    "pool_first": lambda: sequence(nn.MaxPool2d(2), nn.Conv2d(2, 3, 1)),
    "dilation": lambda: sequence(nn.Conv2d(**CONV, dilation=2)),
    "groups": lambda: sequence(nn.Conv2d(**CONV, groups=2)),
    "reflect": lambda: sequence(nn.Conv2d(**CONV, padding=1, padding_mode="reflect")),
    "same_of_even": lambda: sequence(nn.Conv2d(2, 4, 2, padding="same")),
    "ceil_mode": lambda: sequence(nn.Conv2d(**CONV), nn.MaxPool2d(2, ceil_mode=True)),
    "pool_dilation": lambda: sequence(nn.Conv2d(**CONV), nn.MaxPool2d(2, dilation=2)),
    "pool_indices": lambda: sequence(nn.Conv2d(**CONV), nn.MaxPool2d(2, return_indices=True)),
    "pool_padding": lambda: sequence(nn.Conv2d(**CONV), nn.MaxPool2d(2, padding=2)),
    "part_flatten": lambda: sequence(nn.Conv2d(**CONV), nn.Flatten(2)),
    "float64": lambda: sequence(nn.Linear(4, 3).double()),
    "half": lambda: sequence(nn.Linear(4, 4), nn.Linear(4, 3).bfloat16()),
    "frozen": lambda: changed(freeze),
    "tied": lambda: changed(tie),
    "same_layer_twice": lambda: sequence(*[nn.Linear(4, 4)] * 2),
    "extra_parameter": lambda: changed(lambda net: net.register_parameter("more", nn.Parameter(torch.ones(2)))),
    "extra_buffer": lambda: changed(lambda net: net[0].register_buffer("more", torch.ones(2))),
    "own_forward": lambda: changed(lambda net: setattr(net[0], "forward", net[0].forward)),
    "forward_hook": lambda: changed(lambda net: net[1].register_forward_hook(lambda *_: None)),
    "forward_pre_hook": lambda: changed(lambda net: net.register_forward_pre_hook(lambda *_: None)),
    "backward_hook": lambda: changed(lambda net: net[0].register_full_backward_hook(lambda *_: None)),
    "backward_pre_hook": lambda: changed(lambda net: net[0].register_full_backward_pre_hook(lambda *_: None)),
    "gradient_hook": lambda: changed(lambda net: net[0].weight.register_hook(lambda gradient: gradient * 2)),
    "accumulation_hook": lambda: changed(
        lambda net: net[0].bias.register_post_accumulate_grad_hook(lambda parameter: None)
    ),
    "weight_norm": lambda: sequence(parametrizations.weight_norm(nn.Linear(4, 3))),
    "old_weight_norm": lambda: sequence(weight_norm(nn.Linear(4, 3))),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("factory", UNKNOWN.values(), ids=UNKNOWN.keys())
def test_what_is_not_known_exactly_is_left_alone(factory):
    net = factory()
    assert recognise(net, VectorModule(net).layout) is None


def test_hooks_of_all_modules_are_seen():
    net = sequence()
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert recognise(net, VectorModule(net).layout) is None
    finally:
        handle.remove()
    assert recognise(net, VectorModule(net).layout) is not None


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net[0].__setattr__("stride", (2, 2)),
        lambda net: net[0].__setattr__("padding", (0, 0)),
        lambda net: net.__setitem__(1, nn.Tanh()),
        lambda net: net[1].register_forward_hook(lambda module, inputs, outputs: outputs * 2),
    ],
)
def test_a_change_between_fits_is_seen(change):
    """Each change is made after a first fit; what follows must be as on a learner that never used the kernels."""
    results = []
    for exact in (True, False):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, stride=9), nn.Flatten())
        x, y = samples((1, 7, 7), 30, 4)
        learner = Learner(net, losses.cross_entropy, TrainingTable(**PLAIN), exact_kernels=exact)
        learner.fit(x, y, torch.arange(30), steps=2, lr=0.1, seed=1)
        change(net)
        learner.fit(x, y, torch.arange(30), steps=3, lr=0.1, seed=2)
        results.append((learner.vector.clone(), learner.evaluate(x, y).loss))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-4, atol=1e-6)
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-5)


def test_another_shape_of_samples_is_seen():
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(4, stride=50), nn.Flatten())
    learner = Learner(net, losses.cross_entropy, TrainingTable(**PLAIN))
    for size in (6, 9, 6):
        x, y = samples((1, size, size), 20, 3)
        with torch.no_grad():
            expected = float(functional.cross_entropy(net(x), y))
        assert learner.evaluate(x, y).loss == pytest.approx(expected, rel=1e-5)
        learner.fit(x, y, torch.arange(20), steps=1, lr=0.1, seed=1)


def test_samples_that_do_not_fit_raise_what_the_module_raises():
    learner = Learner(nn.Linear(4, 3), losses.cross_entropy, TrainingTable(**PLAIN))
    x, y = torch.zeros(20, 5), torch.zeros(20, dtype=torch.int64)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        learner.fit(x, y, torch.arange(20), steps=1, lr=0.1, seed=1)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        learner.evaluate(x, y)


def test_labels_mean_what_they_mean_to_torch():
    results = []
    for exact in (True, False):
        torch.manual_seed(0)
        learner = Learner(nn.Linear(4, 3), losses.cross_entropy, TrainingTable(**PLAIN), exact_kernels=exact)
        x, y = samples((4,), 16, 3)
        with pytest.raises(IndexError):
            learner.fit(x, y + 1, torch.arange(16), steps=1, lr=0.1, seed=1)
        y[::3] = -100  # torch leaves these out
        results.append((learner.fit(x, y, torch.arange(16), steps=2, lr=0.1, seed=1), learner.vector))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


def test_other_dtypes_and_strides_of_samples():
    torch.manual_seed(0)
    net = nn.Linear(4, 3)
    learner = Learner(net, losses.cross_entropy, TrainingTable(**PLAIN))
    x, y = samples((4,), 20, 3)
    expected = learner.evaluate(x, y)
    assert learner.evaluate(x.t().contiguous().t(), y).loss == pytest.approx(expected.loss)
    with pytest.raises(RuntimeError, match="dtype"):
        learner.evaluate(x.double(), y)


def test_a_module_that_left_its_vector_is_named():
    net = sequence()
    learner = Learner(net, losses.cross_entropy, TrainingTable(**PLAIN))
    x, y = samples((4,), 20, 3)
    net[2].bias = nn.Parameter(torch.zeros(3))
    with pytest.raises(StorageReplaced, match=r"2\.bias"):
        learner.fit(x, y, torch.arange(20), steps=1, lr=0.1, seed=1)


def test_exact_kernels_leave_everything_to_autograd(monkeypatch):
    def fail(*_):
        raise AssertionError

    monkeypatch.setattr(Engine, "losses", fail)
    monkeypatch.setattr(Engine, "outputs", fail)
    x, y = samples((4,), 20, 3)
    exact = Learner(sequence(), losses.cross_entropy, TrainingTable(**PLAIN), exact_kernels=True)
    exact.fit(x, y, torch.arange(20), steps=1, lr=0.1, seed=1)
    exact.evaluate(x, y)
    learner = Learner(sequence(), losses.cross_entropy, TrainingTable(**PLAIN))
    with pytest.raises(AssertionError):
        learner.fit(x, y, torch.arange(20), steps=1, lr=0.1, seed=1)
    with pytest.raises(AssertionError):
        learner.evaluate(x, y)
