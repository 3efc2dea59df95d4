"""Model attacks as pure functions, against closed forms."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm

from coterie import registry
from coterie.adversary import craft, vectors
from coterie.errors import PluginError, SpecError
from coterie.registry import Component
from coterie.spec import Choice

NAMES = ("random_model", "gaussian", "sign_flip", "scaling", "alie", "inner_product", "duplicate")
D = 1000


def scene(m=7, seed=3):
    """own, base and m others: float32 vectors."""
    rng = np.random.default_rng(seed)
    base = rng.normal(0, 1, D)
    others = base + 0.5 + rng.normal(0, 0.2, (m, D))
    own = base + 0.5 + rng.normal(0, 0.2, D)
    return [torch.from_numpy(a.astype(np.float32)) for a in (own, base, others)]


def attack(name, m=7, attackers=3, seed=1, **settings):
    own, base, others = scene(m)
    component = registry.attacks.resolve(name, Path(), "attack.kind")
    assert component.traits["poisons"] == "model"
    before = own.clone(), base.clone(), others.clone()
    choice = Choice(component, component.settings(settings, "attack"))
    result = craft(choice, own, base, list(others), attackers, np.random.default_rng(seed))
    assert all(map(torch.equal, (own, base, others), before)), "it changed what it was given"
    assert (result.dtype, result.shape) == (torch.float32, (D,))
    assert all(result.data_ptr() != given.data_ptr() for given in (own, base, *others))
    return result.double().numpy()


def arrays(m=7):
    return [tensor.double().numpy() for tensor in scene(m)]


@pytest.mark.parametrize("name", NAMES)
def test_the_generator_decides(name):
    assert np.array_equal(attack(name), attack(name))
    if name not in ("sign_flip", "scaling"):
        assert not np.array_equal(attack(name), attack(name, seed=3))


def test_only_those_that_need_others_see_them():
    seen = {c.name for c in registry.attacks if c.traits.get("sees_others")}
    assert seen == {"alie", "inner_product", "duplicate"}


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.001), (-2.0, 1.0)])
def test_random_model_is_uniform(low, high):
    settings = {} if high == 0.001 else {"low": low, "high": high}
    found = np.sort((attack("random_model", **settings) - low) / (high - low))
    assert found[0] >= 0
    assert found[-1] <= 1
    # Kolmogorov-Smirnov: the largest distance from the uniform distribution, 1.95 / sqrt(n) with probability 0.001
    assert np.abs(found - np.arange(D) / D).max() < 1.95 / math.sqrt(D)


def test_gaussian_moves_by_noise_alone():
    _, base, _ = arrays()
    moved = attack("gaussian", sigma=3.0) - base
    assert abs(moved.mean()) < 3.0 * 4 / math.sqrt(D)
    assert abs(moved.std() - 3.0) < 3.0 * 4 / math.sqrt(2 * D)
    assert np.allclose(attack("gaussian", sigma=0.0), base)


@pytest.mark.parametrize(("name", "factor", "settings"), [
    ("sign_flip", -5, {}), ("sign_flip", -1, {"scale": 1.0}), ("scaling", 10, {}), ("scaling", 2, {"scale": 2.0}),
])  # fmt: skip
def test_the_honest_move_turned_or_lengthened(name, factor, settings):
    own, base, _ = arrays()
    assert np.allclose(attack(name, **settings), base + factor * (own - base), atol=1e-5)


@pytest.mark.parametrize("m", [1, 2, 7])
def test_alie_is_the_mean_less_z_deviations(m):
    _, _, others = arrays(m)
    expected = others.mean(axis=0) - 1.5 * others.std(axis=0)
    assert np.allclose(attack("alie", m, z=1.5, jitter=0.0), expected, atol=1e-5)


def test_moments_in_pieces_are_those_of_the_whole(monkeypatch):
    _, _, others = scene()
    monkeypatch.setattr(vectors, "_ELEMENTS", 7 * 13)
    mean, deviation = vectors.moments(list(others))
    assert np.allclose(mean, others.double().mean(0), atol=1e-6)
    assert np.allclose(deviation, others.double().numpy().std(axis=0), atol=1e-6)


def test_largest_z_is_that_of_the_paper():
    # The authors' own example: 50 workers, 24 of them corrupted: s = 26 - 24 = 2, z = Phi^-1(24/26) = 1.43.
    assert vectors.largest_z(50, 24) == pytest.approx(norm.ppf(24 / 26)) == pytest.approx(1.426, abs=1e-3)
    assert vectors.largest_z(10, 3) == pytest.approx(norm.ppf(4 / 7))
    for peers in range(2, 30):
        for attackers in range(1, peers):
            z = vectors.largest_z(peers, attackers)
            assert 0 <= z < 10
            needed = peers // 2 + 1 - attackers
            if needed >= 1 and z > 0:  # the definition: the largest z with Phi(z) <= (n - f - s) / (n - f)
                assert norm.cdf(z) == pytest.approx((peers - attackers - needed) / (peers - attackers))


def test_alie_finds_its_z_by_how_many_there_are():
    assert np.array_equal(attack("alie", attackers=3, jitter=0.0), attack("alie", z=norm.ppf(4 / 7), jitter=0.0))


def test_inner_product_goes_against_the_mean():
    own, base, others = arrays()
    direction = others.mean(axis=0) - base
    assert np.allclose(attack("inner_product", scale=0.7, jitter=0.0), base - 0.7 * direction, atol=1e-5)
    lengths = np.linalg.norm(others - base, axis=1)
    expected = base - direction / np.linalg.norm(direction) * np.median(lengths)
    found = attack("inner_product", jitter=0.0)
    assert np.allclose(found, expected, atol=1e-5)
    assert (found - base) @ (own - base) < 0


def test_no_direction_no_move():
    _, base, _ = scene()
    component = registry.attacks.resolve("inner_product", Path(), "attack.kind")
    found = component.function(base, base, [base, base], 1, np.random.default_rng(0))
    assert torch.equal(found, base)


@pytest.mark.parametrize("name", ["alie", "inner_product"])
def test_colluders_send_the_same_but_for_their_jitter(name):
    _, base, _ = arrays()
    common = attack(name, jitter=0.0)
    assert np.array_equal(common, attack(name, seed=2, jitter=0.0))
    one, two = attack(name, seed=1) - common, attack(name, seed=2) - common
    length = 0.3 * np.linalg.norm(common - base)
    assert np.linalg.norm(one) == pytest.approx(length, rel=1e-3)
    assert np.linalg.norm(two) == pytest.approx(length, rel=1e-3)
    assert abs(one @ two) < 0.2 * length**2, "independent directions are nearly orthogonal"
    assert np.linalg.norm(attack(name, jitter=2.0) - common) == pytest.approx(length * 2 / 0.3, rel=1e-3)


def test_a_duplicate_is_one_of_the_others():
    _, _, others = arrays()
    drawn = {next(j for j in range(7) if np.array_equal(attack("duplicate", seed=s), others[j])) for s in range(60)}
    assert drawn == set(range(7))


@pytest.mark.parametrize(("name", "settings"), [
    ("sign_flip", {"scale": -1.0}), ("alie", {"z": -1.0}), ("alie", {"jitter": -0.1}), ("gaussian", {"sigma": "1"}),
])  # fmt: skip
def test_settings_are_checked(name, settings):
    with pytest.raises(SpecError, match=r"attack\."):
        attack(name, **settings)


def _of_a_user(function):
    return Choice(Component("mine.py:mine", function, file="mine.py"), {})


def test_a_users_attack_gets_copies():
    def spoil(own, base, others, attackers, rng):
        for vector in (own, base, *others):
            vector.zero_()
        return own

    own, base, others = scene()
    before = others.clone()
    assert not craft(_of_a_user(spoil), own, base, list(others), 1, np.random.default_rng(0)).any()
    assert torch.equal(others, before)
    assert own.any()
    assert base.any()


@pytest.mark.parametrize(
    "function",
    [
        lambda own, *_: own[1:],
        lambda own, *_: own.double(),
        lambda own, *_: own.numpy(),
        lambda own, *_: None,
        lambda own, *_: own.nothing(),
    ],
)
def test_a_users_attack_that_returns_no_vector(function):
    own, base, others = scene()
    with pytest.raises(PluginError, match="mine"):
        craft(_of_a_user(function), own, base, list(others), 1, np.random.default_rng(0))
