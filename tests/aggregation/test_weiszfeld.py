import sys

import numpy as np
import pytest

from coterie.aggregation.merging import weiszfeld


def gram(rows, about=0.0):
    moved = np.asarray(rows, float) - about
    return moved @ moved.T


def equal(count):
    return np.full(count, 1 / count)


def subgradient(rows, shares, z):
    """Of the cost at a z that is at no row."""
    away = z - np.asarray(rows, float)
    return np.linalg.norm((shares / np.linalg.norm(away, axis=1)) @ away)


def test_a_triangles_fermat_point():
    """Angles below 120 degrees: from the point where the cost is least, the corners are seen at 120 degrees."""
    corners = np.array([[0.0, 0.0], [4.0, 0.0], [1.0, 3.0]])
    found = weiszfeld(gram(corners), equal(3), 1e-9)
    away = corners - found.weights @ corners
    away /= np.linalg.norm(away, axis=1)[:, None]
    assert found.ended == "tolerance"
    np.testing.assert_allclose([away[0] @ away[1], away[1] @ away[2], away[2] @ away[0]], -0.5, atol=1e-8)


def test_a_row_that_is_the_median_is_found_at_once():
    """An angle of more than 120 degrees: its corner."""
    found = weiszfeld(gram([[-5.0, 1.0], [0.0, 0.0], [5.0, 1.0]]), equal(3))
    assert (found.ended, found.steps) == ("at a row", 0)
    np.testing.assert_array_equal(found.weights, [0, 1, 0])


def test_equal_rows_share_their_weight():
    found = weiszfeld(gram([[0.0, 0.0], [0.0, 0.0], [3.0, 1.0]]), np.array([0.2, 0.4, 0.4]))
    np.testing.assert_allclose(found.weights, [1 / 3, 2 / 3, 0])
    everywhere = weiszfeld(np.zeros((3, 3)), equal(3))
    np.testing.assert_array_equal(everywhere.weights, equal(3))
    assert everywhere.gradient == 0


def test_a_search_that_begins_on_a_row_leaves_it(monkeypatch):
    """The mean is the row at 0, and 0 is not the median: the plain algorithm would divide by zero there."""
    rows = np.array([[0.0, 0.0], [4.0, 1.0], [4.0, -1.0], [-8.0, 0.0]])
    shares = np.array([0.2, 0.3, 0.3, 0.3]) / 1.1
    found = weiszfeld(gram(rows), shares, 1e-9)
    z = found.weights @ rows
    assert found.steps > 0
    assert np.linalg.norm(z) > 0.1
    assert subgradient(rows, shares, z) < 1e-7
    # The first step is Vardi and Zhang's, here from their formula in vectors.
    pulls = shares[1:] / np.linalg.norm(rows[1:], axis=1)
    force = pulls @ rows[1:]
    first = (1 - shares[0] / np.linalg.norm(force)) * force / pulls.sum()
    monkeypatch.setattr(sys.modules["coterie.aggregation.merging.weiszfeld"], "_LIMIT", 2)
    stopped = weiszfeld(gram(rows), shares, 1e-9)
    assert stopped.ended == "limit"
    np.testing.assert_allclose(stopped.weights @ rows, first, atol=1e-12)


def test_a_mean_on_a_row_that_is_one_of_many_medians_stays():
    """On a line, -2 | 0 | 1 with a quarter, a quarter and a half: all from 0 to 1 cost the same, and 0 is the mean."""
    found = weiszfeld(gram([[-2.0], [0.0], [1.0]]), np.array([0.25, 0.25, 0.5]))
    assert (found.steps, found.gradient) == (0, 0.0)
    np.testing.assert_array_equal(found.weights, [0.25, 0.25, 0.5])


def test_rows_on_a_line_end_between_the_middle_two():
    rows = np.array([[0.0], [1.0], [2.0], [30.0]])
    assert 1 - 1e-6 <= (weiszfeld(gram(rows), equal(4)).weights @ rows).item() <= 2 + 1e-6


@pytest.mark.parametrize("count", [4, 9, 50])
def test_the_gradient_that_is_told_is_the_gradient(count):
    rows = np.random.default_rng(count).standard_normal((count, 30))
    shares = np.random.default_rng(count).random(count)
    shares /= shares.sum()
    found = weiszfeld(gram(rows, rows[0]), shares)
    assert found.ended == "tolerance"
    assert found.gradient <= 1e-6
    assert subgradient(rows, shares, found.weights @ rows) == pytest.approx(found.gradient, abs=1e-9)


def test_what_cannot_be_reached_ends_in_a_stall():
    rows = np.random.default_rng(3).standard_normal((7, 12))
    found = weiszfeld(gram(rows), equal(7), 1e-300)
    assert found.ended in ("stall", "tolerance")
    assert found.gradient < 1e-12
    assert found.steps < 5000


def test_a_colluding_minority_near_half_is_left_behind():
    honest = np.random.default_rng(4).standard_normal((6, 20))
    rows = np.concatenate([honest, np.full((5, 20), 1e30)])
    found = weiszfeld(gram(rows), equal(11))
    assert found.ended == "tolerance"
    assert np.abs(found.weights @ rows).max() < 10
