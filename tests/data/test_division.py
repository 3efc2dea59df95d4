from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.data import divide, load
from coterie.errors import DataError, PluginError
from coterie.registry import datasets


def same(a, b):
    pairs = [*zip(a.train, b.train, strict=True), *zip(a.validation, b.validation, strict=True), (a.root, b.root)]
    return all(np.array_equal(x, y) for x, y in pairs)


@pytest.fixture
def plugin(tmp_path, make_spec):
    """A spec whose partition is a user's own function with this body."""

    def make(body, **more):
        (tmp_path / "mine.py").write_text(
            f"import numpy as np\n\ndef part(dataset, peers, rng, *, step: int = 1):\n    {body}\n"
        )
        return make_spec(partition="mine.py:part", base=tmp_path, **more)

    return make


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_index_twice_and_every_peer_can_work(data, make_spec, make_dataset):
    y = data.draw(st.lists(st.integers(0, 3), min_size=40, max_size=300))
    dataset = make_dataset([*y, 3])
    peers = data.draw(st.integers(1, 10))
    cap = data.draw(st.none() | st.integers(2, 30))
    share = data.draw(st.sampled_from([0.0, 0.01, 0.1, 0.5, 0.99]))
    root = data.draw(st.integers(0, 8))
    spec = make_spec(
        peers=peers,
        seed=data.draw(st.integers(0, 99)),
        partition=data.draw(st.sampled_from(["iid", "quantity"])),
        samples_per_peer=cap,
        validation=share,
        root=root,
    )
    try:
        division = divide(spec, dataset)
    except DataError as error:
        assert error.where in {"data.root", "federation.peers"}
        return
    everything = np.concatenate([*division.train, *division.validation, division.root])
    assert len(np.unique(everything)) == len(everything)
    assert everything.min() >= 0
    assert everything.max() < len(dataset.y_train)
    assert len(division.root) == root
    for train, held_out in zip(division.train, division.validation, strict=True):
        n = len(train) + len(held_out)
        assert train.dtype == held_out.dtype == np.int64
        assert 2 <= n <= (cap or n)
        assert len(train) >= 1
        expected = 0 if share == 0 else min(max(1, np.floor(share * n + 0.5)), n - 1)
        assert len(held_out) == expected


def test_everything_is_used_without_a_cap(make_spec, make_dataset):
    division = divide(make_spec(peers=7, root=6), make_dataset(np.arange(200) % 4))
    everything = np.concatenate([*division.train, *division.validation, division.root])
    assert np.array_equal(np.sort(everything), np.arange(200))


@pytest.mark.parametrize("partition", ["iid", "dirichlet", "labels", "quantity"])
def test_the_seed_decides(make_spec, make_dataset, partition):
    dataset = make_dataset(np.arange(400) % 5)
    more = {"partition": partition, "samples_per_peer": 30, "root": 12}
    first = divide(make_spec(seed=1, **more), dataset)
    assert same(first, divide(make_spec(seed=1, **more), dataset))
    other = divide(make_spec(seed=2, **more), dataset)
    assert not np.array_equal(first.root, other.root)
    assert not any(np.array_equal(a, b) for a, b in zip(first.train, other.train, strict=True))


def test_the_test_set_does_not_depend_on_the_seed(make_spec):
    component = datasets.resolve("digits", Path(), "data.dataset")
    loaded = []
    for seed in (1, 2):
        dataset = load(component, None)
        divide(make_spec(seed=seed), dataset)
        loaded.append(dataset)
    assert np.array_equal(loaded[0].x_test, loaded[1].x_test)
    assert np.array_equal(loaded[0].x_train, loaded[1].x_train)


def test_the_root_is_balanced_and_random(make_spec, make_dataset):
    dataset = make_dataset(np.repeat([0, 1, 2], [100, 50, 20]))
    root = divide(make_spec(root=11), dataset).root
    assert np.bincount(dataset.y_train[root]).tolist() == [4, 4, 3]
    seen = {tuple(divide(make_spec(root=11, seed=s), dataset).root) for s in range(10)}
    assert len(seen) == 10


def test_the_root_does_not_reach_the_partition(plugin, make_dataset):
    spec = plugin("return np.array_split(np.flatnonzero(dataset.x_train[:, 0] >= 0), peers)", root=8)
    division = divide(spec, make_dataset(np.arange(60) % 4))
    assert not set(division.root) & set(np.concatenate([*division.train, *division.validation]))
    assert sum(map(len, division.train)) + sum(map(len, division.validation)) == 52


def test_the_cap_keeps_a_random_subset(make_spec, make_dataset):
    dataset = make_dataset(np.arange(1000) % 2)
    whole = divide(make_spec(peers=2), dataset)
    capped = divide(make_spec(peers=2, samples_per_peer=100), dataset)
    for peer in range(2):
        mine = np.concatenate([capped.train[peer], capped.validation[peer]])
        assert len(mine) == 100
        assert set(mine) <= set(np.concatenate([whole.train[peer], whole.validation[peer]]))
        assert 300 < mine.mean() < 700


def test_cap_and_held_out_part_are_drawn_at_random(make_spec, make_dataset):
    """The partition ``files`` returns sorted parts, so nothing but the division mixes them."""
    dataset = make_dataset(np.arange(1000) % 2, groups=np.arange(1000) // 500)
    division = divide(make_spec(peers=2, partition="files", samples_per_peer=100, validation=0.5), dataset)
    for peer, middle in enumerate((250, 750)):
        assert abs(division.train[peer].mean() - middle) < 80
        assert abs(division.validation[peer].mean() - middle) < 80


def test_files_keep_their_owner(make_spec, make_dataset):
    dataset = make_dataset(np.arange(60) % 2, groups=np.arange(60) // 20)
    division = divide(make_spec(peers=3, partition="files", root=4), dataset)
    for peer in range(3):
        assert set(dataset.groups[division.train[peer]]) == {peer}
        assert set(dataset.groups[division.validation[peer]]) == {peer}


def test_settings_reach_the_partition(make_spec, make_dataset):
    dataset = make_dataset(np.arange(300) % 6)
    division = divide(make_spec(partition="labels", labels_per_peer=3, validation=0.0), dataset)
    assert [len(set(dataset.y_train[part])) for part in division.train] == [3] * 5


@pytest.mark.parametrize(
    ("settings_", "where", "message"),
    [
        ({"peers": 31}, "federation.peers", "31 peers need at least 2 samples each, but there are 60"),
        ({"peers": 29, "root": 4}, "federation.peers", "beside the root sample of 4"),
        ({"samples_per_peer": 1}, "data.samples_per_peer", "peer 0 ends with 1 of the 60 samples"),
        ({"root": 41}, "data.root", "needs 20 samples of class 1, which has 19"),
    ],
)
def test_too_little_data(make_spec, make_dataset, settings_, where, message):
    dataset = make_dataset([0] * 41 + [1] * 19)
    with pytest.raises(DataError, match=message) as caught:
        divide(make_spec(**settings_), dataset)
    assert caught.value.where == where
    assert caught.value.remedy


def test_a_file_too_small(make_spec, make_dataset):
    dataset = make_dataset([0, 1] * 10, groups=[0] * 19 + [1])
    with pytest.raises(DataError, match="peer 1 ends with 1 of the 20 samples"):
        divide(make_spec(peers=2, partition="files"), dataset)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return None", "returned no arrays"),
        ("return [np.arange(3)]", "1 parts for 5 peers"),
        ("return [np.arange(3)] * 5", "peer 1 gets an index given twice"),
        ("return [np.array([1, 1])] * 5", "peer 0 gets an index given twice"),
        ("return [np.arange(-1, 3)] * 5", r"peer 0 gets an index outside 0 \.\. 59"),
        ("return [np.arange(58, 61)] * 5", "peer 0 gets an index outside"),
        ("return [np.ones(3)] * 5", "peer 0 gets float64"),
        ("return [np.ones((3, 1), dtype=int)] * 5", r"peer 0 gets int64 of \(3, 1\)"),
    ],
)
def test_a_partition_of_ones_own_is_checked(plugin, make_dataset, body, message):
    with pytest.raises(PluginError, match=message) as caught:
        divide(plugin(body), make_dataset(np.arange(60) % 2))
    assert caught.value.where == "mine.py:part"


def test_a_partition_of_ones_own_that_fails_is_named(plugin, make_dataset):
    with pytest.raises(PluginError, match=r"data\.partition: 'mine\.py:part' raised KeyError"):
        divide(plugin("raise KeyError('oops')"), make_dataset(np.arange(60) % 2))


def test_a_partition_of_ones_own_with_a_setting(plugin, make_dataset):
    spec = plugin("return [np.arange(p, 60, peers)[::step] for p in range(peers)]", step=2, validation=0.0)
    division = divide(spec, make_dataset(np.arange(60) % 2))
    assert division.train[1].tolist() == [1, 11, 21, 31, 41, 51]
    assert division.validation[1].size == 0
