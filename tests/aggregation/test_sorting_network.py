import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats

from coterie.aggregation import kernels


def rows(count, size, seed=0):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def through(pairs, column):
    wires = list(column)
    for low, high in pairs:
        if wires[low] > wires[high]:
            wires[low], wires[high] = wires[high], wires[low]
    return wires


@pytest.mark.parametrize("count", range(1, 11))
def test_the_network_sorts_all_zeros_and_ones(count):
    """By the zero-one principle it then sorts everything; with a trim the kept wires hold the right set."""
    for column in itertools.product((0, 1), repeat=count):
        assert through(kernels.network(count, -1), column) == sorted(column)
        for trim in range((count + 1) // 2):
            kept = slice(trim, count - trim)
            assert sorted(through(kernels.network(count, trim), column)[kept]) == sorted(column)[kept]


def test_what_is_dropped_from_the_network_is_worth_it():
    assert len(kernels.network(100, 20)) < len(kernels.network(100, -1))
    assert len(kernels.network(100, 0)) == 0


@pytest.mark.parametrize("count", range(1, 131))
def test_medians_and_trimmed_means_are_those_of_numpy_and_scipy(count):
    data = rows(count, 2 * 64 + 33 + count % 5, seed=count)
    wide = data.double().numpy()
    median = kernels.trimmed_mean(data[0], data[1:], (count - 1) // 2)
    np.testing.assert_array_equal(median.numpy(), np.median(wide, axis=0).astype(np.float32))
    for trim in {0, min(1, (count - 1) // 2), count // 5, (count - 1) // 3}:
        found = kernels.trimmed_mean(data[0], data[1:], trim).numpy()
        np.testing.assert_allclose(found, stats.trim_mean(wide, trim / count + 1e-9, axis=0), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 12, 40])
def test_the_values_nearest_to_the_median(count):
    data = rows(count + 3, 70, seed=count)
    for keep in range(1, count + 1):
        chosen = [k for k in range(count + 3) if k not in (count % 2, count, count + 2)][:count]
        found = kernels.near_median(data[0], data[1:], chosen, keep).numpy()
        for j, column in enumerate(data[chosen].double().numpy().T):
            middle = np.median(column)
            near = sorted(column, key=lambda value: (abs(value - middle), value))[:keep]
            assert found[j] == pytest.approx(np.mean(near), rel=1e-6, abs=1e-7)


def test_threads_change_no_bit():
    data = rows(23, 3 * kernels._PART + 77)
    assert data.numel() >= kernels._WORTH_A_THREAD, "one thread would do it all"
    alone = kernels.trimmed_mean(data[0], data[1:], 4)
    torch.set_num_threads(3)
    try:
        assert torch.equal(kernels.trimmed_mean(data[0], data[1:], 4), alone)
    finally:
        torch.set_num_threads(1)


def test_equal_huge_and_negative_zero_values():
    data = torch.tensor([[3e38, 1.0, -0.0], [3e38, 1.0, 0.0], [-3e38, 1.0, -0.0], [3e38, 1.0, 0.0]])
    assert kernels.trimmed_mean(data[0], data[1:], 1).tolist() == pytest.approx([3e38, 1.0, 0.0])
    assert kernels.trimmed_mean(data[0], data[1:], 0).tolist() == pytest.approx([1.5e38, 1.0, 0.0])


def test_rows_that_do_not_lie_side_by_side():
    data = rows(50, 9).t()  # (9, 50), by columns
    expected = np.median(data.double().numpy(), axis=0).astype(np.float32)
    np.testing.assert_array_equal(kernels.trimmed_mean(data[0], data[1:], 4).numpy(), expected)


def test_numba_comes_with_the_first_use_and_needs_no_folder(monkeypatch):
    code = (
        "import sys, torch, coterie, coterie.runtime.catalog\n"
        "from coterie.aggregation import kernels\n"
        "assert 'numba' not in sys.modules\n"
        "import numba.core.caching as caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "print(kernels.trimmed_mean(torch.ones(3), 2 * torch.ones(2, 3), 1).tolist())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "[2.0, 2.0, 2.0]", done.stderr
