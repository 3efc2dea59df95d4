from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from coterie.data import partitions
from coterie.data.partitions import dirichlet, files, iid, labels, quantity
from coterie.errors import DataError, SpecError
from coterie.registry import partitions as registered


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="session")
def balanced(make_dataset):
    """A dataset of so many classes with so many samples each."""
    return lambda classes, each: make_dataset(np.tile(np.arange(classes), each))


def shares(dataset, parts):
    """(peers, classes): the share of each class that each peer holds."""
    counts = np.array([np.bincount(dataset.y_train[part], minlength=dataset.classes) for part in parts])
    return counts / np.maximum(1, counts.sum(axis=0))


def assert_divides(parts, samples, peers):
    assert len(parts) == peers
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(samples))
    assert all(part.dtype == np.int64 for part in parts)


@settings(max_examples=60, deadline=None)
@given(
    y=st.lists(st.integers(0, 4), min_size=2, max_size=200),
    peers=st.integers(1, 12),
    seed=st.integers(0, 99),
    alpha=st.floats(1e-3, 1e6),
)
def test_each_sample_goes_to_one_peer(y, peers, seed, alpha, make_dataset):
    dataset = make_dataset(y)
    parts = iid(dataset, peers, rng(seed))
    assert_divides(parts, len(y), peers)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    if len(y) >= 2 * peers:
        parts = quantity(dataset, peers, rng(seed), alpha=alpha)
        assert_divides(parts, len(y), peers)
        assert min(map(len, parts)) >= 2
    try:
        parts = dirichlet(dataset, peers, rng(seed), alpha=alpha)
    except DataError:
        return
    assert_divides(parts, len(y), peers)
    assert min(map(len, parts)) >= 2


@settings(max_examples=60, deadline=None)
@given(
    classes=st.integers(2, 8),
    peers=st.integers(1, 20),
    per_peer=st.integers(1, 8),
    each=st.integers(20, 40),
    s=st.integers(0, 99),
)
def test_every_peer_holds_so_many_labels(classes, peers, per_peer, each, s, balanced):
    dataset = balanced(classes, each)
    if per_peer > classes:
        with pytest.raises(DataError, match="labels a peer, but the training data has"):
            labels(dataset, peers, rng(s), labels_per_peer=per_peer)
        return
    parts = labels(dataset, peers, rng(s), labels_per_peer=per_peer)
    held = shares(dataset, parts)
    assert np.array_equal((held > 0).sum(axis=1), np.full(peers, per_peer))
    holders = (held > 0).sum(axis=0)
    assert holders.max() - holders.min() <= 1
    if peers * per_peer >= classes:
        assert_divides(parts, classes * each, peers)
        counts = held * each
        for label in range(classes):
            mine = counts[:, label][counts[:, label] > 0]
            assert mine.max() - mine.min() < 1.5


def test_labels_are_not_dealt_in_the_same_order_to_everybody(balanced):
    dataset = balanced(10, 40)
    seen = {tuple(np.unique(dataset.y_train[labels(dataset, 5, rng(s))[0]])) for s in range(40)}
    assert len(seen) > 20


def test_a_label_with_fewer_samples_than_holders(make_dataset):
    dataset = make_dataset([0] * 30 + [1] * 3)
    with pytest.raises(DataError, match="label 1 has 3 samples for 5 peers"):
        labels(dataset, 5, rng(), labels_per_peer=2)


def test_iid_labels_are_hypergeometric(balanced):
    """The chi-square statistic of a random table with fixed margins has mean (r - 1)(c - 1) n / (n - 1)."""
    dataset = balanced(5, 60)
    found = []
    for seed in range(200):
        table = np.array([np.bincount(dataset.y_train[p], minlength=5) for p in iid(dataset, 6, rng(seed))])
        found.append(stats.chi2_contingency(table).statistic)
    assert np.mean(found) == pytest.approx(20 * 300 / 299, rel=0.05)


@pytest.mark.parametrize(("alpha", "peers"), [(0.5, 20), (5.0, 20), (0.3, 5)])
def test_dirichlet_has_the_closed_form_of_its_marginals(alpha, peers, balanced):
    """A share of Dir(alpha) over P peers is Beta(alpha, alpha (P - 1))."""
    dataset = balanced(300, 800)
    found = shares(dataset, dirichlet(dataset, peers, rng(3), alpha=alpha)).ravel()
    mean = 1 / peers
    assert found.mean() == pytest.approx(mean)
    assert found.var() == pytest.approx(mean * (1 - mean) / (alpha * peers + 1), rel=0.12)
    law = stats.beta(alpha, alpha * (peers - 1))
    for level in (0.3, 0.5, 0.8, 0.95):
        assert np.mean(found <= law.ppf(level) + 1 / 1600) == pytest.approx(level, abs=0.03)


def test_dirichlet_approaches_iid_and_one_peer_a_class(balanced):
    dataset = balanced(10, 500)
    assert np.allclose(shares(dataset, dirichlet(dataset, 10, rng(), alpha=1e6)), 0.1, atol=0.01)
    concentrated = shares(dataset, dirichlet(dataset, 2, rng(1), alpha=0.01))
    assert np.mean(concentrated.max(axis=0)) > 0.95


def test_dirichlet_mixes_the_samples_of_a_class(balanced):
    dataset = balanced(2, 1000)
    part = dirichlet(dataset, 2, rng(), alpha=100.0)[0]
    assert stats.kstest(part / 2000, "uniform").pvalue > 0.01


def test_dirichlet_gives_up_with_a_remedy(balanced):
    with pytest.raises(
        DataError, match=r"needs 2 samples.* 100 draws with alpha = 0\.01 only \d+ of 40 peers"
    ) as caught:
        dirichlet(balanced(2, 60), 40, rng(), alpha=0.01)
    assert "Raise data.alpha" in caught.value.remedy


def test_dirichlet_draws_again_until_everybody_has_enough(monkeypatch, balanced):
    dataset = balanced(3, 40)
    monkeypatch.setattr(partitions, "REDRAWS", 1)
    failing = [s for s in range(60) if _fails(dataset, s)]
    assert failing
    monkeypatch.setattr(partitions, "REDRAWS", 100)
    assert not any(_fails(dataset, s) for s in failing)


def _fails(dataset, seed):
    try:
        dirichlet(dataset, 6, rng(seed), alpha=0.5)
    except DataError:
        return True
    return False


def test_quantity_sizes_follow_their_law(balanced):
    """Size = 2 + share x (n - 2 P) to rounding; the share is Beta(alpha, alpha (P - 1))."""
    dataset, peers, alpha = balanced(2, 250), 5, 0.7
    sizes = np.array([[len(p) for p in quantity(dataset, peers, rng(s), alpha=alpha)] for s in range(1500)])
    assert sizes.mean(axis=0) == pytest.approx(np.full(peers, 100), rel=0.06)
    expected = 0.2 * 0.8 / (alpha * peers + 1)
    assert ((sizes - 2) / 490).var(axis=0) == pytest.approx(np.full(peers, expected), rel=0.12)


def test_quantity_labels_are_iid(balanced):
    dataset = balanced(2, 5000)
    part = max(quantity(dataset, 4, rng(2), alpha=0.5), key=len)
    ones = dataset.y_train[part].sum()
    assert stats.binomtest(int(ones), len(part)).pvalue > 0.001


def test_files_gives_one_group_a_peer(make_dataset):
    dataset = make_dataset([0, 1] * 6, groups=[2, 0, 1] * 4)
    parts = files(dataset, 3, rng())
    assert [set(dataset.groups[part]) for part in parts] == [{0}, {1}, {2}]
    assert_divides(parts, 12, 3)
    with pytest.raises(DataError, match="3 files with training samples for 4 peers"):
        files(dataset, 4, rng())
    with pytest.raises(DataError, match="does not come from several files"):
        files(make_dataset([0, 1]), 1, rng())


@pytest.mark.parametrize(
    ("partition", "given_settings"),
    [
        ("dirichlet", {"alpha": 0.0}),
        ("dirichlet", {"alpha": -1.0}),
        ("quantity", {"alpha": "big"}),
        ("labels", {"labels_per_peer": 0}),
        ("labels", {"labels_per_peer": 1.5}),
        ("iid", {"alpha": 0.5}),
    ],
)
def test_settings_are_checked(partition, given_settings):
    with pytest.raises(SpecError, match="data\\."):
        next(c for c in registered if c.name == partition).settings(given_settings, "data")
