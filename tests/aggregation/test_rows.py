import itertools

import numpy as np
import pytest
import torch
from aggregation_worlds import draw, median
from hypothesis import given, settings
from hypothesis import strategies as some

from coterie.aggregation import rows


def slow_near(own, received, tolerance):
    vectors = [row.double() for row in (own, *received)]
    distance = {
        (j, k): float((vectors[j] - vectors[k]).norm()) for j, k in itertools.combinations(range(len(vectors)), 2)
    }
    limit = tolerance * median(distance.values())
    near = np.eye(len(vectors), dtype=bool)
    for (j, k), value in distance.items():
        near[j, k] = near[k, j] = value <= limit
    return near


def near(base, own, received, tolerance=1e-3):
    return rows.near_rows(own, received, base, rows.distances((own, *received), base), tolerance)


@given(
    seed=some.integers(0, 10_000),
    count=some.integers(0, 9),
    size=some.sampled_from([1, 7, 40, 5000]),
    closeness=some.sampled_from([0.0, 1e-7, 1e-5, 3e-4, 5e-3, 0.1]),
    spread=some.sampled_from([1e-3, 1.0, 1e4]),
)
@settings(deadline=None)
def test_near_rows_agree_with_subtraction(seed, count, size, closeness, spread):
    base, own, received = draw(seed, count, size, spread)
    random = np.random.default_rng(seed)
    for j in range(count):  # some rows follow another, at a distance of about `closeness`
        if random.random() < 0.5:
            leader = int(random.integers(0, count))
            received[j] = received[leader] + closeness * spread * torch.randn(size)
    np.testing.assert_array_equal(near(base, own, received), slow_near(own, received, 1e-3))


@pytest.mark.parametrize("count", [5, 40])
def test_tight_clusters_are_seen_through_cancellation(count):
    """All moves agree to 1 in 10,000: float32 products alone would see only rounding."""
    base = torch.randn(3000)
    move = torch.randn(3000)
    received = (base + move).repeat(count, 1)
    received += 1e-4 * torch.randn(count, 3000)
    received[1] = received[0]
    own = received[2] + 1e-4 * torch.randn(3000)
    found = near(base, own, received)
    np.testing.assert_array_equal(found, slow_near(own, received, 1e-3))
    assert found.sum() == count + 1 + 2


@pytest.mark.parametrize("count", [4, 40])
@pytest.mark.parametrize("moved", [0.0, 1.0])
def test_identical_rows_are_all_near(count, moved):
    base = torch.randn(1000)
    own = base + moved
    assert near(base, own, own.repeat(count, 1)).all()


def test_huge_rows_do_not_disturb():
    base, own, received = draw(3, 8, 5000)
    received[0] = 3e38
    received[1] = 3e38
    received[2] = -3e38
    np.testing.assert_array_equal(near(base, own, received), slow_near(own, received, 1e-3))


@pytest.mark.parametrize("size", [1, 1000, 200_000])
def test_distances_are_exact(size):
    base, own, received = draw(4, 3, size, spread=1e-3)
    received[2] = 2e38
    expected = (torch.cat((own[None], received)).double() - base.double()).norm(dim=1)
    np.testing.assert_allclose(rows.distances((own, *received), base), expected.numpy(), rtol=2e-6)


def test_tiny_distances_do_not_underflow():
    base = torch.zeros(10)
    assert rows.distances([torch.full((10,), 1e-22)], base)[0] == pytest.approx(10**0.5 * 1e-22, rel=1e-5)


def test_combine_around_a_base():
    base, own, received = draw(5, 6, 100)
    weights = np.array([0.1, 0.2, 0.05, 0.0, 0.1, 0.1, 0.2])
    moves = torch.cat((own[None], received)).double() - base.double()
    expected = base.double() + torch.from_numpy(weights) @ moves
    np.testing.assert_allclose(rows.combine(own, received, weights, base).numpy(), expected.numpy(), atol=1e-6)
