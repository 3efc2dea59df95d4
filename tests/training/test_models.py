import pickle
from pathlib import Path

import pytest
import torch

from coterie import registry
from coterie.errors import ModelError, SpecError
from coterie.training import losses, models

IMAGES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 9, 17)]


def make(name, shape, classes, **settings):
    component = registry.models.resolve(name, Path(), "model.name")
    return component.function(shape, classes, **component.settings(settings, "model"))


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("softmax", [(30,), *IMAGES]),
        ("mlp", [(30,), *IMAGES]),
        ("cnn", IMAGES),
        ("lenet", [(1, 12, 12), (1, 28, 28), (3, 32, 32), (3, 17, 40)]),
        ("caffe_lenet", [(1, 16, 16), (1, 28, 28), (3, 32, 32), (3, 17, 40)]),
    ],
)
def test_models_give_logits_and_gradients(name, shapes):
    for shape in shapes:
        module = make(name, shape, 7)
        outputs = module(torch.randn(5, *shape))
        assert outputs.shape == (5, 7)
        assert outputs.dtype == torch.float32
        losses.cross_entropy(outputs, torch.arange(5)).backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in module.parameters())
        assert not list(module.buffers())
        pickle.dumps(module)


def test_published_sizes():
    assert parameters(make("lenet", (1, 28, 28), 10)) == 61_706
    assert parameters(make("caffe_lenet", (1, 28, 28), 10)) == 431_080
    assert parameters(make("softmax", (64,), 10)) == 650


def test_widths_come_from_the_spec():
    module = make("mlp", (4,), 3, hidden=[5, 6])
    assert [tuple(p.shape) for p in module.parameters() if p.dim() == 2] == [(5, 4), (6, 5), (3, 6)]
    assert parameters(make("mlp", (4,), 3, hidden=[])) == parameters(make("softmax", (4,), 3))
    assert [p.shape[0] for p in make("mlp", (4,), 3).parameters() if p.dim() == 2] == [128, 64, 3]
    assert make("cnn", (1, 8, 8), 3, channels=[4, 4, 4], hidden=[])(torch.randn(2, 1, 8, 8)).shape == (2, 3)


@pytest.mark.parametrize("settings", [{"hidden": [0]}, {"hidden": 5}, {"hidden": ["5"]}, {"hiden": [5]}])
def test_wrong_widths_are_named(settings):
    with pytest.raises(SpecError, match=r"model\.hid"):
        make("mlp", (4,), 3, **settings)


@pytest.mark.parametrize("name", ["cnn", "lenet", "caffe_lenet"])
def test_convolutions_are_channels_last(name):
    weights = [p for p in make(name, (3, 32, 32), 10).parameters() if p.dim() == 4]
    assert weights
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("softmax", ()),
        ("mlp", (0,)),
        ("cnn", (64,)),
        ("cnn", (1, 7, 8)),
        ("lenet", (1, 11, 28)),
        ("lenet", (28, 28)),
        ("caffe_lenet", (1, 15, 15)),
        ("caffe_lenet", (0, 28, 28)),
    ],
)
def test_a_shape_the_model_cannot_take(name, shape):
    with pytest.raises(ModelError) as caught:
        make(name, shape, 10)
    assert caught.value.remedy


@pytest.mark.parametrize("name", ["softmax", "mlp", "cnn", "lenet", "caffe_lenet"])
def test_the_seed_decides_the_parameters(name):
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(torch.cat([p.detach().flatten() for p in getattr(models, name)((1, 16, 16), 4).parameters()]))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_losses_by_their_formulas():
    outputs, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 3, 0])
    entropy = square = 0.0
    for row, label in zip(outputs.double().tolist(), labels.tolist(), strict=True):
        entropy -= row[label] - torch.tensor(row, dtype=torch.float64).logsumexp(0).item()
        square += sum((value - (c == label)) ** 2 for c, value in enumerate(row))
    assert registry.losses.resolve("cross_entropy", Path(), "").function(outputs, labels).item() == pytest.approx(
        entropy / 6, rel=1e-5
    )
    assert registry.losses.resolve("mse", Path(), "").function(outputs, labels).item() == pytest.approx(
        square / 24, rel=1e-5
    )
