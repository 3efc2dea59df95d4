"""What a dataset is, and the one door through which every dataset comes in."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from coterie import seeds
from coterie.errors import DataError

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
TEST_SHARE = 0.2
"""What is split off as the test set where a dataset brings none."""
_TEST_SEED = 0
"""Not the spec's seed: the test set is the same in every run."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification dataset in memory: ``n`` training samples of one shape, and a test set nobody trains on."""

    name: str
    x_train: Array
    """(n, \\*shape), float32, C-contiguous, finite."""
    y_train: Integers
    """(n,), int64, from 0 to classes - 1."""
    x_test: Array
    """(m, \\*shape), float32, C-contiguous, finite."""
    y_test: Integers
    """(m,), int64, from 0 to classes - 1."""
    classes: int
    groups: Integers | None = None
    """(n,), int64: which file a training sample came from, for the partition ``files``."""
    unscaled: bool = False
    """Columns of a table as they were measured: features are float64, and ``scaling.scale`` makes float32 of them."""
    class_names: tuple[str, ...] = ()
    """What each class is called in the data, where it is: at every site the same, or they train against each other."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.x_train.shape[1:])

    @cached_property
    def fingerprint(self) -> int:
        """CRC-32 of all arrays and their shapes: tells data that have changed, by accident and not by malice."""
        found = 0
        for array in (self.x_train, self.y_train, self.x_test, self.y_test, self.groups):
            if array is not None:
                whole = np.ascontiguousarray(array)
                found = zlib.crc32(whole.reshape(-1).view(np.uint8).data, zlib.crc32(repr(whole.shape).encode(), found))
        return found


def admit(name: str, produced: Any) -> Dataset:
    """The checked Dataset of what a factory ``produced``.

    ``produced`` is a Dataset, ``(x_train, y_train)`` or ``(x_train, y_train, x_test, y_test)``, of numpy arrays, torch
    tensors or anything numpy can read. A test set is split off where there is none. Features become float32, labels
    int64. Where the number of classes is not given it is the largest label + 1.

    Raises DataError for anything else, for shapes that do not agree, for no samples, for labels that are not integers
    from 0 to classes - 1, for fewer than two classes, and for the first feature that is not finite.
    """
    if isinstance(produced, Dataset):
        return _admit_dataset(produced)
    if not isinstance(produced, (tuple, list)) or len(produced) not in (2, 4):
        count = f" of {len(produced)}" if isinstance(produced, (tuple, list)) else ""
        raise DataError(
            f"the factory returned a {type(produced).__name__}{count}",
            where=name,
            remedy="Return a Dataset, (x_train, y_train) or (x_train, y_train, x_test, y_test).",
        )
    pairs = [(produced[i], produced[i + 1]) for i in range(0, len(produced), 2)]
    sides = [_side(name, side, x, y) for side, (x, y) in zip(("train", "test"), pairs, strict=False)]
    classes = _infer_classes(name, [y for _, y in sides])
    if len(sides) == 1:
        x, y = sides[0]
        kept, test = split_test(y, name)
        sides = [(x[kept], y[kept]), (x[test], y[test])]
    (x_train, y_train), (x_test, y_test) = sides
    return _agreed(Dataset(name, x_train, y_train, x_test, y_test, classes))


def split_test(labels: Integers, where: str) -> tuple[Integers, Integers]:
    """Indices of the training and of the test samples, both sorted int64: 20 % for the test, by class.

    Class ``c`` gives its share of ``round(0.2 n)`` by largest remainders and always keeps one sample to train on, so a
    class too small to give any gives none. The draw depends on ``labels``, shape (n,), alone.

    Raises DataError where no class can spare a sample.
    """
    present, sizes = np.unique(labels, return_counts=True)
    total = min(max(1, int(TEST_SHARE * len(labels) + 0.5)), int((sizes - 1).sum()))
    if total == 0:
        raise DataError(
            f"no test set can be split off {len(labels)} samples of {len(present)} classes",
            where=where,
            remedy="Give at least two samples of a class, or a test set of your own.",
        )
    taken = np.minimum((TEST_SHARE * sizes).astype(np.int64), sizes - 1)
    remainders = TEST_SHARE * sizes - taken
    while taken.sum() < total:
        best = int(np.argmax(np.where(taken < sizes - 1, remainders, -np.inf)))
        taken[best] += 1
        remainders[best] -= 1
    rng = seeds.generator(_TEST_SEED, "data", "test set")
    chosen = [rng.permutation(np.flatnonzero(labels == c))[:k] for c, k in zip(present, taken, strict=True)]
    test = np.sort(np.concatenate(chosen)).astype(np.int64)
    return np.setdiff1d(np.arange(len(labels), dtype=np.int64), test, assume_unique=True), test


def _admit_dataset(given: Dataset) -> Dataset:
    name = given.name
    kind = np.float64 if given.unscaled else np.float32
    x_train, y_train = _side(name, "train", given.x_train, given.y_train, kind)
    x_test, y_test = _side(name, "test", given.x_test, given.y_test, kind)
    if isinstance(given.classes, bool) or not isinstance(given.classes, (int, np.integer)):
        raise DataError(f"classes is {given.classes!r}", where=name, remedy="Give the number of classes.")
    for side, labels in (("train", y_train), ("test", y_test)):
        if labels.max() >= given.classes:
            row = int(np.argmax(labels >= given.classes))
            raise DataError(
                f"sample {row} has label {labels[row]} of {given.classes} classes",
                where=f"{name} y_{side}",
                remedy="Labels go from 0 to classes - 1.",
            )
    groups = None
    if given.groups is not None:
        groups = _labels(f"{name} groups", given.groups)
        if len(groups) != len(x_train):
            raise DataError(
                f"{len(groups)} groups for {len(x_train)} samples", where=name, remedy="Give one a training sample."
            )
    checked = Dataset(name, x_train, y_train, x_test, y_test, int(given.classes), groups, given.unscaled)
    return _agreed(replace(checked, class_names=given.class_names))


def _agreed(dataset: Dataset) -> Dataset:
    if dataset.x_test.shape[1:] != dataset.shape:
        raise DataError(
            f"training samples have shape {dataset.shape}, test samples {dataset.x_test.shape[1:]}",
            where=dataset.name,
            remedy="Give both the same shape.",
        )
    if len(np.unique(dataset.y_train)) < 2:
        raise DataError(
            f"all training samples have label {dataset.y_train[0]}",
            where=dataset.name,
            remedy="There must be at least two classes to tell apart.",
        )
    return dataset


def _infer_classes(name: str, labels: list[Integers]) -> int:
    largest, samples = max(int(y.max()) for y in labels), sum(len(y) for y in labels)
    if largest >= samples:
        raise DataError(
            f"the largest label is {largest}, with {samples} samples in all",
            where=name,
            remedy="Number the classes from 0, or return a Dataset, which says how many classes there are.",
        )
    return largest + 1


def _side(name: str, side: str, x: Any, y: Any, kind: Any = np.float32) -> tuple[Array, Integers]:
    features, labels = _features(f"{name} x_{side}", x, kind), _labels(f"{name} y_{side}", y)
    if len(features) != len(labels):
        raise DataError(
            f"{len(features)} samples but {len(labels)} labels", where=f"{name} {side}", remedy="Give one label each."
        )
    return features, labels


def _array(where: str, value: Any) -> Array:
    if hasattr(value, "detach"):  # a torch tensor, perhaps on a device, with gradients, or of a dtype numpy lacks
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value
    try:
        array = np.asarray(value)
    except Exception as error:  # array-likes may raise what they please
        raise DataError(f"not an array: {error}", where=where, remedy="Give a numpy array or a torch tensor.") from None
    if array.dtype.kind not in "buif":
        raise DataError(f"elements of type {array.dtype}", where=where, remedy="Give an array of numbers.")
    if array.size == 0:
        raise DataError(f"no samples: the shape is {array.shape}", where=where, remedy="Give at least one.")
    return array


def _features(where: str, value: Any, kind: Any) -> Array:
    array = _array(where, value)
    if array.ndim < 2:
        raise DataError(f"the shape is {array.shape}", where=where, remedy="Give (samples, features) or more axes.")
    with np.errstate(over="ignore", invalid="ignore"):
        result = np.ascontiguousarray(array, dtype=kind)
        # A float64 sum of float32 numbers cannot overflow: it is finite if and only if each of them is.
        finite = np.isfinite(result.sum(dtype=np.float64)) or np.isfinite(result).all()
    if not finite:
        row, *place = (int(i) for i in np.argwhere(~np.isfinite(result))[0])
        column = place[0] if len(place) == 1 else place
        raise DataError(
            f"row {row}, column {column} is {array[(row, *place)]}, which is not a finite {np.dtype(kind)}",
            where=where,
            remedy="Replace or drop such values (both are counted from 0).",
        )
    return result


def _labels(where: str, value: Any) -> Integers:
    array = _array(where, value)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(f"the shape is {array.shape}", where=where, remedy="Give one integer a sample: shape (n,).")
    if array.dtype.kind == "b":
        array = array.astype(np.int64)
    wrong = ~((array >= 0) & (array < 2**62) & (array == np.floor(array)))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"row {row} is {array[row]}, which is not a class", where=where, remedy="Number the classes 0, 1, 2 ..."
        )
    return np.ascontiguousarray(array, dtype=np.int64)
