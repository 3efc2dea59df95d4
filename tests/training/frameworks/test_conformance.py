"""The conformance test: all four adapters pass it, and each kind of broken adapter is caught by name."""

import contextlib
import warnings
from functools import partial

import conformance_makers as makers
import numpy as np
import pytest
import torch
from torch import nn

from coterie.errors import ModelError
from coterie.layout import Layout, Slot
from coterie.training.frameworks import Figures, Functions, ModelAdapter, conformance
from coterie.training.frameworks.base import dense_layout
from coterie.training.frameworks.pytorch import PyTorchAdapter
from coterie.training.vector import view_of

pytestmark = pytest.mark.filterwarnings("ignore")


class Scaled(nn.Module):
    """A 0-d parameter, a tied one, a frozen one, an integer buffer."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.first = nn.Linear(64, 10)
        self.second = nn.Linear(64, 10)
        self.second.weight = self.first.weight
        self.fixed = nn.Parameter(torch.ones(3), requires_grad=False)
        self.register_buffer("count", torch.tensor(3))

    def forward(self, x):
        return self.scale * (self.first(x) + self.second(x))


def convolutions():
    layers = [nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


MAKERS = {
    "pytorch": (makers.pytorch, makers.FEW),
    "pytorch, 0-d and tied": (partial(makers.pytorch, Scaled), makers.FEW),
    "pytorch, channels last": (partial(makers.pytorch, convolutions), makers.FEW),
    "pytorch, bfloat16": (partial(makers.pytorch, lambda: nn.Linear(64, 10), torch.bfloat16), None),
    "pytorch, float64": (partial(makers.pytorch, dtype=torch.float64), None),
    "keras": (makers.keras, makers.FEW),
    "keras, bfloat16": (partial(makers.keras, "bfloat16"), makers.FEW),
    "keras, float64": (partial(makers.keras, "float64"), makers.FEW),
    "linear classifier": (makers.sgd, makers.FEW),
    "perceptron": (makers.perceptron_layers, makers.FEW),
    "regressor": (makers.regressor, (makers.X[:50], makers.Y[:50] / 10)),
    "hugging face": (makers.huggingface, makers.samples()),
    "peft": (partial(makers.huggingface, "peft"), makers.samples()),
}


@pytest.mark.parametrize("name", MAKERS)
def test_adapter_conforms(name):
    make, validation = MAKERS[name]
    conformance.check(make, validation, batch_size=64)


class Good(PyTorchAdapter):
    """What the broken ones are broken from."""


def make(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 12), nn.Dropout(0.2), nn.Linear(12, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step():
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.from_numpy(makers.X[:32])), torch.from_numpy(makers.Y[:32])).backward()
        optimizer.step()

    return kind(model, Functions(loss="CrossEntropyLoss")), step


class LeavesOut(Good):
    def save_weights(self, vector):
        kept = vector[-10:].clone()
        super().save_weights(vector)
        vector[-10:] = kept


class Forgets(Good):
    """Keys that silently load nothing."""

    def load_weights(self, vector):
        kept = self.module[2].bias.detach().clone()
        super().load_weights(vector)
        with torch.no_grad():
            self.module[2].bias.copy_(kept)


class Transposes(Good):
    def load_weights(self, vector):
        swapped = vector.clone()
        swapped[: 64 * 12] = swapped[: 64 * 12].reshape(12, 64).T.reshape(-1)
        super().load_weights(swapped)


class Replaces(Good):
    """Weights come back, but the optimizer holds other parameters."""

    def load_weights(self, vector):
        self.check_vector(vector)
        for place in self._held[0]:
            owner, leaf = place.homes[0]
            setattr(owner, leaf, nn.Parameter(view_of(vector, place.slot).clone()))
        self._surveyed = None


class Aliases(Good):
    def load_weights(self, vector):
        self.check_vector(vector)
        for place in self._held[0]:
            place.tensor.data = view_of(vector, place.slot)


class SavesViews(Good):
    def save_weights(self, vector):
        super().save_weights(vector)
        for place in self._held[0]:
            place.tensor.data = view_of(vector, place.slot)


class TakesAnyLength(Good):
    def check_vector(self, vector):
        pass


class WritesToVector(Good):
    def load_weights(self, vector):
        super().load_weights(vector)
        vector.zero_()


class Widens(Good):
    """Changes the dtype of the user's parameters."""

    def load_weights(self, vector):
        self.check_vector(vector)
        self.module.double()
        super().load_weights(vector)


class Numbered(Good):
    made = iter(range(1000))

    @property
    def layout(self):
        if not hasattr(self, "_numbered"):
            slots = tuple(
                Slot(f"{s.name}_{next(self.made)}", *list(vars(s).values())[1:]) for s in super().layout.slots
            )
            self._numbered = Layout(slots, super().layout.size, super().layout.trainable)
        return self._numbered


class Gaps(Good):
    @property
    def layout(self):
        slots = super().layout.slots
        return Layout((slots[0], *slots[2:]), super().layout.size, super().layout.trainable)


class SameNames(Good):
    @property
    def layout(self):
        entries = [("weight", slot.shape, slot.dtype) for slot in super().layout.slots]
        return dense_layout(entries, len(entries), "here")


class LossIsStub(Good):
    def evaluate(self, batches):
        return Figures(0.0)


class TrainsOnValidation(Good):
    def evaluate(self, batches):
        with torch.no_grad():
            self.module[0].weight.mul_(0.99)
        return super().evaluate(batches)


class KeepsDropout(Good):
    def evaluate(self, batches):
        ((x, y), *_) = batches
        with torch.no_grad():
            return Figures(float(nn.functional.cross_entropy(self.module(x), y)))


class OneShot(Good):
    def unpack_validation(self, data, batch_size):
        return iter(super().unpack_validation(data, batch_size))


class TakesAnything(Good):
    def unpack_validation(self, data, batch_size):
        with contextlib.suppress(Exception):
            return super().unpack_validation(data, batch_size)
        return []


class FigureOnly(Good):
    def evaluate(self, batches):
        return super().evaluate(batches).loss


class Raises(Good):
    def save_weights(self, vector):
        raise ValueError("no weights today")


class Nameless(Good):
    platform = None


SHARED = nn.Linear(64, 10)


class Shares(Good):
    def __init__(self, model, functions):
        super().__init__(SHARED, functions)


BROKEN = {
    LeavesOut: "save_weights left 10 elements unwritten, of 2.bias first",
    Forgets: "what was loaded does not come back: 2.bias differs, ",
    Transposes: "what was loaded does not come back: 0.weight differs, ",
    Replaces: "after load_weights a training step no longer changes what save_weights reads",
    Aliases: "the model lives in the vector it was loaded from: 0.weight differs",
    SavesViews: "the model lives in the vector it was saved to",
    TakesAnyLength: "load_weights takes a vector that is too long",
    WritesToVector: "load_weights changed the vector it was given",
    Widens: "load_weights raised StorageReplaced: Sequential: 0.weight changed from float32 to float64",
    Numbered: "two adapters of the same model have different layouts",
    Gaps: "2.weight begins at 780, not at 768",
    SameNames: "two slots have one name",
    LossIsStub: "the loss is 0.0 whatever the weights are",
    TrainsOnValidation: "evaluate changed the model: 0.weight differs",
    KeepsDropout: "evaluate twice gives two figures",
    OneShot: "the validation data give 4 batches, then 0",
    TakesAnything: "unpack_validation takes an object that is no data",
    FigureOnly: "evaluate returned a float",
    Raises: "save_weights raised ValueError: no weights today",
    Nameless: "it has no platform",
    Shares: "loading one adapter changed another",
}


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_a_broken_adapter_is_caught(kind):
    with pytest.raises(ModelError) as caught:
        conformance.check(partial(make, kind), makers.FEW, batch_size=50)
    assert BROKEN[kind] in caught.value.what
    assert caught.value.where == f"conformance of {kind.__name__}"
    assert caught.value.remedy


def test_the_unbroken_one_passes():
    conformance.check(partial(make, Good), makers.FEW, batch_size=50)


def test_what_is_no_adapter_is_named():
    with pytest.raises(ModelError, match="make returned a Linear"):
        conformance.check(lambda: (nn.Linear(2, 2), lambda: None))


class Polynomial(ModelAdapter):
    """An adapter of one's own, for what no framework made."""

    platform = "NUMPY"

    def check_platform(self):
        pass

    @property
    def layout(self):
        return dense_layout([("a", (), "float64"), ("b", (2,), "float64")], 2, "polynomial")

    def save_weights(self, vector):
        self.check_vector(vector)
        vector.copy_(torch.from_numpy(self.model))

    def load_weights(self, vector):
        self.check_vector(vector)
        self.model[:] = vector.numpy()

    def unpack_validation(self, data, batch_size):
        if not isinstance(data, tuple):
            raise ModelError("it is no tuple")
        return [data]

    def evaluate(self, batches):
        ((x, y),) = batches
        return Figures(float(np.square(np.polyval(self.model, x) - y).mean()))


def test_an_adapter_of_ones_own():
    x = np.linspace(-1, 1, 20)

    def make():
        model = np.array([0.5, -0.5, 0.25])

        def step():
            error = np.polyval(model, x) - x
            model[:] -= 0.1 * np.array([(error * x**2).mean(), (error * x).mean(), error.mean()])

        return Polynomial(model), step

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conformance.check(make, (x, x))
