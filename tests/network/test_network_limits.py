"""Limits as values, rates and deadlines, by a clock that the test moves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.errors import SpecError
from coterie.network.codec import CHUNK_BYTES, MAX_HEADER_BYTES
from coterie.network.limits import Limits, Progress, TokenBucket


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_each_limit_has_a_default_above_zero():
    limits = Limits()
    for name in limits.__dataclass_fields__:
        assert name == "snapshot_elements" or getattr(limits, name) > 0


@pytest.mark.parametrize("name", [n for n in Limits.__dataclass_fields__ if n != "snapshot_elements"])
def test_limits_of_zero_are_refused(name):
    with pytest.raises(SpecError, match=name):
        Limits(**{name: 0})


def test_limits_beyond_the_wire_are_refused():
    with pytest.raises(SpecError, match="header_bytes"):
        Limits(header_bytes=MAX_HEADER_BYTES + 1)
    with pytest.raises(SpecError, match="snapshots"):
        Limits(snapshots=65)
    with pytest.raises(SpecError, match="receiving_bytes_in_all"):
        Limits(receiving_bytes=2, receiving_bytes_in_all=1)


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(1, 4)), max_size=60))
def test_never_more_than_the_rate_and_the_first_heap(steps):
    clock = Clock()
    bucket = TokenBucket(2.0, 5.0, clock)
    taken = 0
    for pause, amount in steps:
        clock.now += pause
        taken += amount if bucket.take(amount) else 0
        assert taken <= 5.0 + 2.0 * (clock.now - 100.0) + 1e-6


def test_a_bucket_fills_again_and_not_beyond_its_size():
    clock = Clock()
    bucket = TokenBucket(2.0, 4.0, clock)
    assert [bucket.take() for _ in range(5)] == [True] * 4 + [False]
    clock.now += 1.0
    assert [bucket.take() for _ in range(3)] == [True, True, False]
    clock.now += 1000.0
    assert [bucket.take() for _ in range(5)] == [True] * 4 + [False]


def test_what_is_borrowed_is_waited_for():
    clock = Clock()
    bucket = TokenBucket(2.0, 4.0, clock)
    assert bucket.borrow(4.0) == 0.0
    assert bucket.borrow(3.0) == pytest.approx(1.5)
    assert bucket.borrow(1.0) == pytest.approx(2.0)
    clock.now += 2.0
    assert bucket.borrow(2.0) == pytest.approx(1.0)


def drip(nbytes, pause, limits, most=1000.0):
    """Seconds until a sender of so many bytes after each pause is cut off; None if it is not within ``most``."""
    now = 0.0
    progress = Progress(limits, now)
    while now < most:
        if now + pause > progress.deadline:
            return progress.deadline
        now += pause
        progress.moved(nbytes, now)
    return None


def test_a_drip_is_cut_off_and_a_slow_but_steady_sender_is_not():
    limits = Limits(stall_seconds=10.0, minimum_bytes_a_second=CHUNK_BYTES / 20)
    assert drip(CHUNK_BYTES, 19.0, limits) is None
    assert drip(1000, 0.001, limits) is None
    assert drip(1, 1.0, limits) == pytest.approx(30.0, abs=1.0)
    assert drip(CHUNK_BYTES, 31.0, limits) == 30.0
    assert 30.0 < drip(CHUNK_BYTES, 25.0, limits) < 120.0


def test_speed_is_not_saved_up():
    limits = Limits(stall_seconds=10.0, minimum_bytes_a_second=CHUNK_BYTES / 20)
    progress = Progress(limits, 0.0)
    for second in range(5):
        progress.moved(1000 * CHUNK_BYTES, float(second))
    assert progress.deadline == 4.0 + 30.0
