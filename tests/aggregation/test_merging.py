"""Merges against straightforward ones: numpy in float64, exact fractions, scipy's direct minimisation."""

import os
from contextlib import ExitStack
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from coterie.aggregation.merging import Readers, Vectors, merge, merge_by_rule, passes
from coterie.errors import LayoutMismatch, PluginError, RunError, SpecError, TrainingDiverged
from coterie.files import read_into
from coterie.layout import Layout


def named(matrix):
    return Vectors({f"peer {j}": torch.from_numpy(row) for j, row in enumerate(np.asarray(matrix, np.float32))})


def drawn(count, size, seed=0):
    return np.random.default_rng(seed).standard_normal((count, size)).astype(np.float32)


def quantile(column, weights):
    """The middle of the lower and the upper weighted median, in exact arithmetic."""
    pairs = sorted(zip(column, map(Fraction, weights), strict=True))
    half, below, lower = sum(weight for _, weight in pairs) / Fraction(2), Fraction(0), None
    for value, weight in pairs:
        below += weight
        if lower is None and below >= half:
            lower = value
        if below > half:
            return (float(lower) + float(value)) / 2
    raise AssertionError


def cost(z, rows, weights):
    return float(weights @ np.linalg.norm(rows - z, axis=1) / weights.sum())


def minimised(rows, weights):
    """The least cost that scipy finds from several starts, and at the rows themselves."""
    starts = [weights @ rows / weights.sum(), np.median(rows, axis=0)]
    found = [optimize.minimize(cost, start, (rows, weights), method="BFGS").fun for start in starts]
    return min([*found, *(cost(row, rows, weights) for row in rows)])


whole = st.lists(st.integers(0, 4), min_size=1, max_size=9).filter(any)


@given(whole, st.integers(0, 2**32 - 1), st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_mean_and_coordmedian_are_those_of_plain_arithmetic(weights, seed, size):
    rows = np.random.default_rng(seed).integers(-3, 4, (len(weights), size)).astype(np.float32)  # many equal values
    rows += np.float32(0.1)
    found = merge(named(rows), weights, "mean").vector.numpy()
    expected = np.average(rows.astype(np.float64), axis=0, weights=weights)
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-7)
    found = merge(named(rows), weights, "coordmedian").vector.numpy()
    kept = [j for j, weight in enumerate(weights) if weight]
    expected = [quantile(column[kept], [weights[j] for j in kept]) for column in rows.T]
    np.testing.assert_array_equal(found, np.array(expected, np.float32))


@pytest.mark.parametrize("count", [1, 2, 3, 8, 33, 100])
def test_coordmedian_of_equal_weights_is_the_ordinary_median(count):
    rows = drawn(count, 203, count)
    found = merge(named(rows), [1 / 3] * count, "coordmedian").vector.numpy()
    np.testing.assert_array_equal(found, np.median(rows.astype(np.float64), axis=0).astype(np.float32))


def test_coordmedian_ties_worked_by_hand():
    rows = [[1.0], [2.0], [5.0]]
    assert merge(named(rows), [1, 1, 2], "coordmedian").vector.item() == 3.5  # 1 + 1 is half: the middle of 2 and 5
    assert merge(named(rows), [0.1, 0.2, 0.3], "coordmedian").vector.item() == 3.5  # as well, though 0.1 + 0.2 > 0.3
    assert merge(named(rows), [1, 1, 1.9], "coordmedian").vector.item() == 2.0
    assert merge(named(rows), [1, 1, 2.1], "coordmedian").vector.item() == 5.0


def test_coordmedian_with_weights_of_any_sort():
    rows, weights = drawn(11, 500), np.random.default_rng(1).random(11).tolist()
    expected = np.array([quantile(column, weights) for column in rows.T], np.float32)
    np.testing.assert_array_equal(merge(named(rows), weights, "coordmedian").vector.numpy(), expected)


@given(
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0, 100.0]), min_size=1, max_size=7).filter(any),
    st.integers(0, 2**32 - 1),
    st.integers(1, 3),
)
@settings(max_examples=80, deadline=None)
def test_geomedian_costs_no_more_than_what_scipy_finds(weights, seed, size):
    """On a small grid rows coincide, lie on a line, and the mean lies on one of them."""
    rows = np.random.default_rng(seed).integers(-2, 3, (len(weights), size)).astype(np.float64)
    merged = merge(named(rows), weights, "geomedian")
    shares = np.array(weights)
    least = minimised(rows[shares > 0], shares[shares > 0])
    assert cost(merged.vector.double().numpy(), rows, shares) <= least + 2e-5
    assert sum(merged.weights.values()) == pytest.approx(1)
    recorded = np.array(list(merged.weights.values()))
    np.testing.assert_allclose(recorded @ rows, merged.vector.numpy(), atol=1e-6)


def test_geomedian_of_many_coordinates():
    rows, weights = drawn(8, 300).astype(np.float64), np.arange(1.0, 9.0)
    rows[7] += 50.0
    found = merge(named(rows), weights.tolist(), "geomedian").vector.double().numpy()
    least = optimize.minimize(cost, np.median(rows, axis=0), (rows, weights), method="L-BFGS-B", tol=1e-14)
    np.testing.assert_allclose(found, least.x, atol=2e-3)
    assert cost(found, rows, weights) <= least.fun * (1 + 1e-6)


def test_a_far_minority_takes_no_digits():
    honest = drawn(5, 1000)
    far = np.concatenate([np.full((2, 1000), 3e38, np.float32), honest])
    merged = merge(named(far), [1] * 7, "geomedian").vector
    assert np.abs(merged.numpy()).max() < 5
    mild = np.concatenate([np.full((2, 1000), 1e6, np.float32), honest])  # the pull of a far row has no length
    np.testing.assert_allclose(merged.numpy(), merge(named(mild), [1] * 7, "geomedian").vector.numpy(), atol=1e-4)


@pytest.mark.parametrize("colluders", [2, 4])
@pytest.mark.parametrize("far", [1e3, 1e7, 1e9, 1e12, 1e20, 1e38])
def test_far_rows_that_cancel_do_not_steer_the_geomedian(far, colluders):
    """They put the mean, beside which 1e-7 of ``far`` is nothing, wherever they like."""
    honest, attack = drawn(5, 50), np.zeros((colluders, 50), np.float32)
    attack[: colluders // 2, 0], attack[colluders // 2 :, 0], attack[0, 1] = far, -far, 1e-7 * far
    rows = np.concatenate([attack, honest])
    found = merge(named(rows), [1] * len(rows), "geomedian").vector.double().numpy()
    away = (rows.astype(np.float64) - found).clip(-1e150, 1e150)
    pull = (away / np.linalg.norm(away, axis=1)[:, None]).sum(axis=0)
    assert np.linalg.norm(pull) < 1e-3 * len(rows)
    assert np.linalg.norm(found - honest.mean(axis=0)) < np.linalg.norm(honest - honest.mean(axis=0), axis=1).max()


def test_two_equal_weights_meet_in_the_middle_and_a_heavy_row_wins():
    rows = [[0.0, 0.0], [2.0, 4.0]]
    assert merge(named(rows), [3, 3], "geomedian").vector.tolist() == [1.0, 2.0]
    assert merge(named(rows), [3, 4], "geomedian").vector.tolist() == [2.0, 4.0]


def test_more_than_one_piece_and_any_number_of_threads(monkeypatch):
    rows, weights = drawn(5, 10_007), [1, 2, 3, 4, 5]
    whole = {method: merge(named(rows), weights, method).vector for method in ("mean", "coordmedian", "geomedian")}
    monkeypatch.setattr(passes, "_MOST_WIDTH", 999)
    torch.set_num_threads(1)
    pieces = {method: merge(named(rows), weights, method).vector for method in whole}
    torch.set_num_threads(3)
    try:
        for method, alone in pieces.items():
            torch.testing.assert_close(alone, whole[method], rtol=1e-6, atol=1e-7)
            assert torch.equal(merge(named(rows), weights, method).vector, alone)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("method", ["mean", "coordmedian", "geomedian"])
@pytest.mark.parametrize("fault", [np.nan, np.inf, -np.inf])
def test_a_model_that_is_not_finite_is_left_out_and_named(method, fault):
    rows = drawn(4, 70_001)
    rows[2, 7 if fault == np.inf else 70_000] = fault  # in the first piece, or in the last one
    merged = merge(named(rows), [1, 2, 3, 4], method)
    expected = merge(named(rows[[0, 1, 3]]), [1, 2, 4], method)
    assert merged.refused == ("peer 2",)
    assert merged.weights["peer 2"] == 0.0
    assert torch.equal(merged.vector, expected.vector)
    assert merge(named(rows), [1, 2, 0, 4], method).refused == ()  # it does not count, so it is not looked at
    with pytest.raises(TrainingDiverged, match="not finite"):
        merge(named(rows[2:3]), [1], method)


def test_the_largest_float_is_finite():
    rows = np.full((3, 65), np.finfo(np.float32).max, np.float32)
    for method in ("mean", "coordmedian", "geomedian"):
        assert merge(named(rows), [1, 1, 1], method).vector.tolist() == rows[0].tolist()


@pytest.mark.parametrize("weights", [[1, -1], [1, np.nan], [np.inf, 1], [0, 0]])
def test_weights_that_are_none(weights):
    with pytest.raises(RunError):
        merge(named(drawn(2, 3)), weights)


def test_what_cannot_be_merged_is_named():
    with pytest.raises(LayoutMismatch, match="2 weights"):
        merge(named(drawn(3, 3)), [1, 1])
    with pytest.raises(SpecError, match="geomedian"):
        merge(named(drawn(3, 3)), [1, 1, 1], "geomedain")
    with pytest.raises(LayoutMismatch, match="b: "):
        Vectors({"a": torch.zeros(3), "b": torch.zeros(4)})
    with pytest.raises(LayoutMismatch):
        Vectors({"a": torch.zeros(3, dtype=torch.float64)})


def test_files_give_the_same_bits_as_memory(tmp_path, monkeypatch):
    rows, readers = drawn(3, 100_003), {}
    preadv = os.preadv  # may read less than it was asked for
    monkeypatch.setattr(os, "preadv", lambda file, buffers, at: preadv(file, [buffers[0][:50_001]], at))
    with ExitStack() as opened:
        for j, row in enumerate(rows):
            path = tmp_path / f"{j}.f32"
            path.write_bytes(b"12 bytes ..." + row.tobytes())
            file = opened.enter_context(path.open("rb"))
            readers[f"peer {j}"] = lambda start, out, file=file: read_into(
                out.view(np.uint8).data, file.fileno(), 12 + 4 * start
            )
        for method in ("mean", "coordmedian", "geomedian"):
            merged = merge(Readers(100_003, readers), [1, 2, 2], method)
            expected = merge(named(rows), [1, 2, 2], method)
            assert torch.equal(merged.vector, expected.vector)
            assert merged.weights == expected.weights
        os.truncate(path, 1000)
        assert not read_into(memoryview(bytearray(4000)), file.fileno(), 0)


def by_rule(rule, rows, weights, **settings):
    size = np.shape(rows)[1]
    given = {"base": torch.zeros(size), "layout": Layout((), size, size), "samples": range(1, len(rows) + 1)}
    return merge_by_rule(rule, named(rows), weights, round=3, rounds=9, **given | settings)


def test_a_rule_of_aggregation_merges_what_is_finite_and_counts():
    rows = drawn(5, 40)
    rows[0, 3] = np.nan
    seen = []

    def rule(own, received, context, state, judge):
        seen.append((own, received, context, state))
        weights = context.graph_weights
        return weights @ torch.cat([own[None], received]), weights, {"merges": 1}

    merged = by_rule(rule, rows, [1, 2, 0, 2, 4])
    expected = merge(named(rows), [1, 2, 0, 2, 4])
    torch.testing.assert_close(merged.vector, expected.vector)
    assert merged.refused == ("peer 0",)
    assert merged.weights == pytest.approx(expected.weights)
    own, received, context, state = seen[0]
    assert state is None
    assert own.tolist() == rows[1].tolist()
    assert received.tolist() == rows[3:].tolist()
    assert (context.own_id, context.peer_ids, context.samples) == ("peer 1", ("peer 3", "peer 4"), (2, 4, 5))
    with pytest.raises(TrainingDiverged):
        by_rule(rule, rows[:1], [1])


def test_a_rule_of_the_registry_and_one_that_fails():
    from coterie.aggregation.coordinates import median

    rows = drawn(4, 40)
    merged = by_rule(median, rows, [1] * 4)
    assert torch.equal(merged.vector, merge(named(rows), [1] * 4, "coordmedian").vector)
    with pytest.raises(PluginError, match="ZeroDivisionError"):
        by_rule(lambda *_: 1 / 0, rows, [1] * 4)
