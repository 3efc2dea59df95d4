import numpy as np
import pytest
import robust_references as slow
import torch

from coterie.aggregation.byzantine import attackers
from coterie.aggregation.geometry import geometry


def check(data, tolerance=2e-3):
    shape = geometry(data[0], data[1:])
    wide = data.double().numpy()
    np.testing.assert_allclose(shape.squares, slow.squares(wide), rtol=tolerance)
    assert np.median(slow.squares(wide)[shape.centre]) == pytest.approx(
        np.median(slow.squares(wide), axis=1).min(), rel=tolerance
    )
    moves = wide - wide[shape.centre]
    norms = np.linalg.norm(moves, axis=1)
    error = np.abs(shape.products - moves @ moves.T)
    others = np.arange(len(wide)) != shape.centre
    assert (error <= 1e-3 * np.outer(norms, norms))[np.ix_(others, others)].all()
    assert error.max(initial=0) <= 1e-5 * norms.max() ** 2


@pytest.mark.parametrize("count", [1, 2, 3, 10, 40])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_distances_survive_a_common_offset(count, offset):
    check(offset + torch.randn(count, 500, generator=torch.Generator().manual_seed(count)), 1e-4)


@pytest.mark.parametrize("count", [4, 40])
def test_an_own_row_far_from_the_others_costs_no_digits(count):
    data = torch.randn(count, 300, generator=torch.Generator().manual_seed(1))
    data[0] += 1e6
    check(data)


@pytest.mark.parametrize("count", [3, 4, 11, 12])
@pytest.mark.parametrize("size", [1e6, 1e20, 1e30])
def test_an_own_row_among_as_many_far_ones_as_may_be_costs_no_digits(count, size):
    data = torch.randn(count, 300, generator=torch.Generator().manual_seed(1))
    far = (count - 1) // 2
    data[:far] = size * torch.randn(far, 300, generator=torch.Generator().manual_seed(2))
    check(data)


@pytest.mark.parametrize("count", [3, 8, 40])
@pytest.mark.parametrize("size", [1e5, 1e20, 1e30])
def test_far_rows_cost_the_others_no_digits(count, size):
    data = torch.randn(count, 300, generator=torch.Generator().manual_seed(2))
    data[1] = size
    if count > 4:
        data[2], data[3] = -size, size
        data[4] = data[5] + 1e-6
    check(data)


def test_many_near_duplicates():
    data = torch.randn(40, 300, generator=torch.Generator().manual_seed(3))
    data[10:35] = data[10] + 1e-4 * torch.randn(25, 300, generator=torch.Generator().manual_seed(4))
    check(data)


@pytest.mark.parametrize(
    ("share", "rows", "expected"),
    [(0.3, 1, 0), (0.3, 2, 0), (0.3, 3, 1), (0.3, 4, 1), (0.3, 10, 3), (0.3, 100, 30), (0.07, 100, 7), (0, 9, 0)]
    + [(0.49, rows, (rows - 1) // 2) for rows in range(1, 12)],
)
def test_how_many_may_be_malicious(share, rows, expected):
    assert attackers(share, rows) == expected
