"""Roles that a peer draws for itself: what is proved, and what is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.errors import SpecError
from coterie.identity import VrfKey, vrf_output
from coterie.protocols.committees import Stakes, check_pick, draw, pick

KEY = VrfKey.from_seed(bytes(32))
STAKES: Stakes = {"me": 10, **{f"peer {i}": 1 + i % 3 for i in range(20)}}


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=64), st.text(max_size=8), st.integers(1, 20))
def test_a_pick_is_checked_by_anybody(beacon, role, seats):
    made = pick(KEY, "me", beacon, role, STAKES, seats)
    assert check_pick(KEY.public, made.proof, "me", beacon, role, STAKES, seats) == made.peers
    assert len(set(made.peers)) == seats
    assert "me" not in made.peers


def test_a_pick_is_a_draw_from_the_output():
    alpha = b"coterie pick" + b"\x00\x06" + b"noiser" + b"beacon"
    output = vrf_output(KEY.public, alpha, KEY.prove(alpha))
    others = {peer: stake for peer, stake in STAKES.items() if peer != "me"}
    assert pick(KEY, "me", b"beacon", "noiser", STAKES, 3).peers == draw(output, "noiser", others, 3, most=1)


def test_a_proof_holds_for_one_key_one_beacon_and_one_role():
    made = pick(KEY, "me", b"beacon", "noiser", STAKES, 3)
    other = VrfKey.from_seed(bytes(31) + b"1")
    assert check_pick(other.public, made.proof, "me", b"beacon", "noiser", STAKES, 3) is None
    assert check_pick(KEY.public, made.proof, "me", b"other", "noiser", STAKES, 3) is None
    assert check_pick(KEY.public, made.proof, "me", b"beacon", "verifier", STAKES, 3) is None
    assert check_pick(KEY.public, made.proof, "me", b"rbeacon", "noise", STAKES, 3) is None
    assert check_pick(KEY.public, bytes(80), "me", b"beacon", "noiser", STAKES, 3) is None
    assert pick(KEY, "me", b"other", "noiser", STAKES, 3).peers != made.peers


def test_a_proof_does_not_hold_for_other_peers():
    made = pick(KEY, "me", b"beacon", "noiser", STAKES, 3)
    lie = tuple(sorted(STAKES)[:3])
    assert check_pick(KEY.public, made.proof, "me", b"beacon", "noiser", STAKES, 3) != lie


def test_too_few_others_are_refused():
    with pytest.raises(SpecError, match="2 peers with stake cannot fill 3 seats"):
        pick(KEY, "me", b"beacon", "noiser", {"me": 5, "a": 1, "b": 1, "c": 0}, 3)
