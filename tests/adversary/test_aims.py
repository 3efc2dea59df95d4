"""What an attack falsifies, what it aims at, and noise in place of samples."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from coterie import registry
from coterie.adversary import falsifies, targets
from coterie.errors import PluginError
from coterie.registry import Component
from coterie.spec import Choice


def chosen(name, **settings):
    component = registry.attacks.resolve(name, Path(), "attack.kind")
    return SimpleNamespace(choices={"attack": Choice(component, component.settings(settings, "attack"))})


def test_the_trait_says_the_same_as_the_first_parameter():
    for component in registry.attacks:
        kind = "model" if falsifies(component) == "own" else "data"
        assert component.traits["poisons"] == kind, component.name


def test_a_users_attack_says_it_by_its_first_parameter():
    def mine(samples, labels, rng): ...
    def other(x, y): ...

    assert falsifies(Component("a.py:mine", mine)) == "samples"
    with pytest.raises(PluginError, match="'x'"):
        falsifies(Component("a.py:other", other))


def test_who_aims_at_what():
    assert targets(chosen("label_flip")) == {1: 7}
    assert targets(chosen("label_flip", map={0: 1, 3: 3, "x": 1, "2": 0})) == {0: 1, 2: 0}
    assert targets(chosen("shuffled_labels")) is None
    assert targets(chosen("alie")) is None
    assert targets(SimpleNamespace(choices={})) is None


@pytest.mark.parametrize("shape", [(400, 3), (50, 3, 6, 5)])
def test_random_data_keeps_the_range_of_each_channel(shape):
    rng = np.random.default_rng(0)
    axes = (0, *range(2, len(shape)))
    scale = np.array([1.0, 10.0, 0.0]).reshape((1, 3, *[1] * (len(shape) - 2)))
    x = (rng.normal(0, 1, shape) * scale - 4).astype(np.float32)
    before = x.copy()
    labels = np.zeros(len(x), dtype=np.int64)
    attack = registry.attacks.resolve("random_data", Path(), "attack.kind").function
    noise = attack(x, labels, np.random.default_rng(1))
    assert np.array_equal(x, before)
    assert (noise.shape, noise.dtype) == (x.shape, np.float32)
    low, high = x.min(axis=axes), x.max(axis=axes)
    for found, bound in ((noise.min(axis=axes), low), (noise.max(axis=axes), high)):
        assert np.allclose(found, bound, atol=0.05 * (high - low) + 1e-6)
    assert np.allclose(noise.std(axis=axes), (high - low) / 12**0.5, rtol=0.1)
    assert abs(np.corrcoef(x[:, 0].ravel(), noise[:, 0].ravel())[0, 1]) < 0.15, "the noise tells of the samples"
    assert np.array_equal(noise, attack(x, labels, np.random.default_rng(1)))
    assert not np.array_equal(noise, attack(x, labels, np.random.default_rng(2)))
