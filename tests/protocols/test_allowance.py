"""How often others may ask."""

from hypothesis import given
from hypothesis import strategies as st

from coterie.protocols.allowance import Allowance


def test_what_was_saved_is_spent_at_once_and_earned_again():
    allowance = Allowance(a_second=2.0, burst=3.0)
    assert [allowance.take("a", 10.0) for _ in range(5)] == [True, True, True, False, False]
    assert allowance.take("b", 10.0), "each has its own"
    assert allowance.take("a", 10.5)
    assert not allowance.take("a", 10.75)
    assert not allowance.take("a", 11.0), "what was earned before a refusal is gone with it"
    assert allowance.take("a", 11.5)
    assert [allowance.take("a", 1000.0) for _ in range(4)] == [True, True, True, False]


@given(st.lists(st.floats(0, 0.2), max_size=200))
def test_nobody_asks_more_often_than_that(pauses):
    allowance, now, taken = Allowance(a_second=5.0, burst=4.0), 0.0, 0
    for pause in pauses:
        now += pause
        taken += allowance.take("a", now)
        assert taken <= 4 + 5.0 * now + 1e-6
