from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import coterie.data
from coterie.data import Dataset, load
from coterie.data.dataset import admit, split_test
from coterie.errors import DataError, PluginError, SpecError
from coterie.registry import Component, datasets

X = np.arange(24.0).reshape(12, 2)
Y = np.arange(12) % 3


def builtin(name):
    return load(datasets.resolve(name, Path(), "data.dataset"), None)


def factory(function):
    return Component("mine.py:make", function, file="mine.py")


def test_public_names():
    assert coterie.data.__all__ == ["Dataset", "load", "Division", "divide", "scale", "CoterieDataWarning"]
    assert all(hasattr(coterie.data, name) for name in coterie.data.__all__)


def test_components_are_known_by_name():
    assert {c.name for c in datasets} >= {"digits", "breast_cancer", "mnist", "cifar10", "credit", "csv", "npz"}
    with pytest.raises(SpecError, match="breast_cancer"):
        builtin("breast_cancr")


def test_digits():
    data = builtin("digits")
    assert data.shape == (1, 8, 8)
    assert data.classes == 10
    assert len(data.x_train) + len(data.x_test) == 1797
    assert data.x_train.dtype == np.float32
    assert data.y_train.dtype == np.int64
    assert data.x_train.flags.c_contiguous
    assert data.x_train.min() == 0
    assert data.x_train.max() == 1
    share = np.bincount(data.y_test) / np.bincount(np.concatenate([data.y_train, data.y_test]))
    assert np.all(np.abs(share - 0.2) < 0.01)


def test_no_sample_is_in_both_sets():
    data = builtin("digits")
    rows = {row.tobytes() for row in data.x_train}
    assert not any(row.tobytes() in rows for row in data.x_test)


def test_test_set_is_the_same_every_time():
    assert np.array_equal(builtin("digits").x_test, builtin("digits").x_test)
    kept, test = split_test(np.arange(100) % 10, "here")
    again = split_test(np.arange(100) % 10, "here")
    assert np.array_equal(test, again[1])
    assert np.array_equal(np.sort(np.concatenate([kept, test])), np.arange(100))
    assert np.array_equal(np.bincount((np.arange(100) % 10)[test]), np.full(10, 2))


@pytest.mark.parametrize(
    ("sizes", "tests"),
    [
        ([1, 50], [0, 10]),
        ([5, 5], [1, 1]),
        ([2, 2], [1, 0]),
        ([3, 3, 3, 3, 3], [1, 1, 1, 0, 0]),
        ([1, 2], [0, 1]),
        ([1] * 5 + [6], [0] * 5 + [2]),
    ],
)
def test_small_classes_keep_a_training_sample(sizes, tests):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    _, test = split_test(labels, "here")
    assert np.bincount(labels[test], minlength=len(sizes)).tolist() == tests


def test_nothing_to_split_off():
    with pytest.raises(DataError, match="no test set can be split off 3 samples"):
        admit("made", (X[:3], [0, 1, 2]))


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor, lambda a: a.tolist()])
def test_factory_of_two_arrays(convert):
    data = load(factory(lambda: (convert(X), convert(Y))), None)
    assert data.name == "mine.py:make"
    assert (data.shape, data.classes, len(data.x_test)) == ((2,), 3, 2)
    assert data.x_train.dtype == np.float32
    rows = np.concatenate([data.x_train, data.x_test])
    assert sorted(rows[:, 0]) == X[:, 0].tolist()
    assert np.array_equal(np.concatenate([data.y_train, data.y_test]), (rows[:, 0] / 2).astype(int) % 3)


def test_factory_of_four_arrays_and_of_a_dataset():
    four = load(factory(lambda: (X, Y, X[:4], Y[:4])), None)
    assert np.array_equal(four.x_test, X[:4])
    given = Dataset("own", X, Y, X[:4], Y[:4], classes=5, groups=np.arange(12) % 2)
    data = load(factory(lambda: given), None)
    assert (data.name, data.classes, data.x_train.dtype) == ("own", 5, np.float32)
    assert np.array_equal(data.groups, given.groups)


def test_torch_tensors_with_gradients_and_short_floats():
    x = torch.tensor(X, dtype=torch.bfloat16, requires_grad=True)
    data = admit("made", (x, torch.tensor(Y)))
    assert data.x_train.dtype == np.float32


@pytest.mark.parametrize("labels", [Y.astype(float), Y[:, None], Y.astype(np.uint8), Y.astype(np.int8), (Y > 0)])
def test_labels_in_other_clothes(labels):
    data = admit("made", (X, labels))
    assert data.y_train.dtype == np.int64
    assert data.y_train.shape == (len(data.x_train),)


@pytest.mark.parametrize(
    ("produced", "message"),
    [
        (None, "returned a NoneType"),
        ((X, Y, X), "returned a tuple of 3"),
        ((X, Y[:-1]), "made train: 12 samples but 11 labels"),
        ((X, Y, X[:3], Y[:2]), "made test: 3 samples but 2 labels"),
        ((X[:0], Y[:0]), "made x_train: no samples"),
        ((X, Y, X[:0], Y[:0]), "made x_test: no samples"),
        ((X[:, 0], Y), r"made x_train: the shape is \(12,\)"),
        ((X, Y, X[:, :1], Y), r"training samples have shape \(2,\), test samples \(1,\)"),
        ((X, Y - 1), "made y_train: row 0 is -1"),
        ((X, Y + 0.5), "made y_train: row 0 is 0.5"),
        ((X, np.where(Y == 2, np.nan, Y)), "made y_train: row 2 is nan"),
        ((X, np.eye(12)), r"made y_train: the shape is \(12, 12\)"),
        ((X, Y * 0), "all training samples have label 0"),
        ((X, Y * 100), "the largest label is 200, with 12 samples"),
        ((X, Y.astype(str)), "made y_train: elements of type <U"),
        ((X.astype(object), Y), "made x_train: elements of type object"),
        ((X * 1j, Y), "made x_train: elements of type complex128"),
        (([[1, 2], [3]], [0, 1]), "made x_train: not an array"),
    ],
)
def test_what_the_door_refuses(produced, message):
    with pytest.raises(DataError, match=message):
        admit("made", produced)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_first_value_that_is_not_finite_is_named(value):
    x = X.copy()
    x[7, 1] = x[9, 0] = value
    with pytest.raises(DataError) as caught:
        admit("made", (x, Y))
    assert f"made x_train: row 7, column 1 is {value}" in str(caught.value)


def test_opposite_infinities_do_not_cancel():
    x = np.zeros((12, 2, 2))
    x[3, 0, 1], x[4, 1, 1] = np.inf, -np.inf
    with pytest.raises(DataError, match=r"row 3, column \[0, 1\] is inf"):
        admit("made", (x, Y))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 2}, "own y_train: sample 2 has label 2 of 2 classes"),
        ({"classes": "3"}, "classes is '3'"),
        ({"groups": np.zeros(5, dtype=int)}, "5 groups for 12 samples"),
        ({"groups": np.full(12, -1)}, "own groups: row 0 is -1"),
    ],
)
def test_a_datasets_own_claims_are_checked(changes, message):
    given = Dataset(**{"name": "own", "x_train": X, "y_train": Y, "x_test": X, "y_test": Y, "classes": 3, **changes})
    with pytest.raises(DataError, match=message):
        load(factory(lambda: given), None)


def test_a_failing_factory_is_named():
    with pytest.raises(PluginError, match=r"data\.dataset: 'mine\.py:make' raised ZeroDivisionError"):
        load(factory(lambda: 1 / 0), None)

    def refuse():
        raise DataError("not today")

    with pytest.raises(DataError, match="not today"):
        load(factory(refuse), None)


@pytest.mark.parametrize(
    "changes",
    [
        {"x_train": X[::-1].copy()},
        {"x_train": X.reshape(len(X), -1, 1)},
        {"y_train": (Y + 1) % 3},
        {"x_test": X[:3], "y_test": Y[:3]},
        {"groups": np.arange(len(X)) % 2},
    ],
)
def test_data_that_have_changed_have_another_fingerprint(changes):
    given = {"name": "own", "x_train": X, "y_train": Y, "x_test": X, "y_test": Y, "classes": 3}
    assert Dataset(**given).fingerprint == Dataset(**{**given, "name": "other"}).fingerprint
    assert Dataset(**given).fingerprint != Dataset(**{**given, **changes}).fingerprint
