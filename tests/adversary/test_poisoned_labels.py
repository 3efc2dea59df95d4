import tomllib
from pathlib import Path

import numpy as np
import pytest

from coterie import adversary, registry
from coterie.errors import SpecError

LABELS = np.random.default_rng(0).integers(0, 10, 500)


def attack(name, labels=LABELS, classes=10, seed=1, **settings):
    component = registry.attacks.resolve(name, Path(), "attack.kind")
    assert component.traits["poisons"] == "data"
    before = labels.copy()
    checked = component.settings(settings, "attack")
    result = component.function(labels, classes, np.random.default_rng(seed), **checked)
    assert np.array_equal(labels, before)
    assert result is not labels
    assert result.shape == labels.shape
    assert result.dtype == np.int64
    return result


def test_it_is_exported():
    assert set(adversary.__all__) <= set(vars(adversary))


def test_random_labels_keep_their_counts():
    result = attack("shuffled_labels")
    assert np.array_equal(np.bincount(result), np.bincount(LABELS))
    assert (result == LABELS).mean() < 0.2
    assert np.array_equal(result, attack("shuffled_labels"))
    assert not np.array_equal(result, attack("shuffled_labels", seed=2))


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_a_permutation_makes_every_label_wrong_in_one_way(classes):
    labels = LABELS % classes
    found = set()
    for seed in range(20):
        result = attack("shuffled_labels", labels, classes, seed, form="permutation")
        assert not (result == labels).any()
        relabelling = dict(zip(labels.tolist(), result.tolist(), strict=True))
        assert sorted(relabelling.values()) == list(range(classes))
        assert all(relabelling[a] == b for a, b in zip(labels.tolist(), result.tolist(), strict=True))
        found.add(tuple(sorted(relabelling.items())))
    assert len(found) == {2: 1, 3: 2}.get(classes, len(found))


def test_one_class_cannot_be_relabelled():
    with pytest.raises(SpecError, match="form"):
        attack("shuffled_labels", np.zeros(5, dtype=np.int64), 1, form="permutation")


def test_label_flip_is_one_to_seven_unless_said():
    result = attack("label_flip")
    assert (result[LABELS == 1] == 7).all()
    assert np.array_equal(result[LABELS != 1], LABELS[LABELS != 1])


def test_label_flip_follows_its_map():
    table = tomllib.loads("map = { 0 = 1, 1 = 0, 2 = 9 }")
    result = attack("label_flip", **table)
    expected = LABELS.copy()
    for source, target in ((0, 1), (1, 0), (2, 9)):
        expected[source == LABELS] = target
    assert np.array_equal(result, expected)
    assert np.array_equal(attack("label_flip", map={0: 1, 1: 0, 2: 9}), expected)


@pytest.mark.parametrize("mapping", [{"10": 0}, {"0": 10}, {"-1": 0}, {"one": 7}, {"1": -7}])
def test_classes_that_are_not_there(mapping):
    with pytest.raises(SpecError, match=r"attack\.map"):
        attack("label_flip", map=mapping)


@pytest.mark.parametrize("mapping", [{"1": "7"}, {"1": 7.5}, [1, 7], "1=7"])
def test_maps_that_are_none(mapping):
    with pytest.raises(SpecError, match=r"attack\.map"):
        attack("label_flip", map=mapping)


def test_two_classes_need_a_map_of_their_own():
    with pytest.raises(SpecError, match="0 to 1"):
        attack("label_flip", LABELS % 2, 2)
    assert (attack("label_flip", LABELS % 2, 2, map={"1": 0}) == 0).all()
