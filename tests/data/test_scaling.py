"""The scale that peers agree on, against the pooled statistics."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from coterie import data
from coterie.data import Dataset, builtin, divide, load, scale, scaling
from coterie.errors import DataError
from coterie.registry import datasets


def table(x, test=None):
    x = np.asarray(x, dtype=np.float64)
    y = np.arange(len(x)) % 2
    test = x[:2] if test is None else np.asarray(test, dtype=np.float64)
    return Dataset("made", x, y, test, np.arange(len(test)) % 2, 2, unscaled=True)


@given(st.integers(0, 10_000), st.integers(1, 6), st.sampled_from([0.0, 1e3, -1e7]), st.sampled_from([1e-3, 1.0, 1e6]))
def test_sums_of_peers_give_the_pooled_statistics(seed, peers, offset, spread):
    rng = np.random.default_rng(seed)
    x = rng.normal(offset, spread, (60, 3))
    cuts = np.sort(rng.integers(0, 61, peers - 1))  # a peer may hold nothing
    mean, deviation = scaling.agree(np.split(x, cuts))
    assert np.allclose(mean, x.mean(axis=0), rtol=1e-12, atol=1e-9 * spread)
    assert np.allclose(deviation, x.std(axis=0), rtol=1e-6)


def test_a_table_of_peers_is_that_of_a_standard_scaler(make_spec):
    dataset = load(datasets.resolve("breast_cancer", None, ""), None)
    assert dataset.unscaled
    spec = make_spec(peers=7, partition="dirichlet", alpha=0.5)
    division = divide(spec, dataset)
    held = [np.concatenate(pair) for pair in zip(division.train, division.validation, strict=True)]
    scaled = scale(dataset, held, "pooled")
    reference = StandardScaler().fit(dataset.x_train)
    assert (scaled.x_train.dtype, scaled.x_test.dtype, scaled.unscaled) == (np.float32, np.float32, False)
    assert np.allclose(scaled.x_train, reference.transform(dataset.x_train), atol=1e-5)
    assert np.allclose(scaled.x_test, reference.transform(dataset.x_test), atol=1e-5)
    assert np.array_equal(scaled.y_train, dataset.y_train)


def test_only_what_peers_hold_counts():
    x = np.array([[0.0], [2.0], [100.0], [-50.0]])
    scaled = scale(table(x), [np.array([0]), np.array([1])], "pooled")
    assert scaled.x_train.ravel().tolist() == [-1, 1, 99, -51]
    assert scaled.x_test.ravel().tolist() == [-1, 1]


def test_none_leaves_the_columns_as_they_are():
    x = np.array([[1.5, 1e6], [2.5, -3.0], [0.1, 0.0]])
    scaled = scale(table(x), [np.arange(3)], "none")
    assert np.array_equal(scaled.x_train, x.astype(np.float32))


def test_what_is_no_table_stays_the_very_same():
    dataset = data.dataset.admit("digits", builtin.digits("", None))
    assert scale(dataset, [np.arange(10)], "pooled") is dataset


def test_digits_lost_by_float32_are_kept():
    """Seconds since 1970 in a column: float32 would know them to two minutes."""
    x = 1.7e9 + np.arange(10.0)[:, None]
    scaled = scale(table(x), [np.arange(5), np.arange(5, 10)], "pooled")
    assert np.allclose(scaled.x_train[:, 0], (np.arange(10) - 4.5) / np.arange(10).std(), atol=1e-5)


def test_constant_columns_become_zero():
    x = np.column_stack([np.full(6, 0.1), np.full(6, 1e12), np.zeros(6), np.arange(6)])
    scaled = scale(table(x, test=[[5, 5, 5, 5.0], [0.1, 1, 1, 1]]), [np.arange(3), np.arange(3, 6)], "pooled")
    assert not scaled.x_train[:, :3].any()
    assert not scaled.x_test[:, :3].any()
    assert scaled.x_train[:, 3].any()


@pytest.mark.parametrize("how", ["pooled", "none"])
def test_a_column_too_large_is_named(how):
    x = np.array([[1.0, 1e300], [2.0, -1e300], [3.0, 0.0]])
    with pytest.raises(DataError, match=r"column 1 .*too large"):
        scale(table(x), [np.arange(3)], how)
