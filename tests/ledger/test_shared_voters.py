"""Voters, the leaders' draw and quorums against independent integers."""

import hashlib
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_worlds import PEERS, VRF, voter

from coterie.errors import LedgerError
from coterie.ledger.shared import QuorumRule, Voter, Voters

VOTERS = Voters.of(voter(peer, weight) for peer, weight in zip(PEERS, [5, 1, 3, 2, 7, 4, 1], strict=True))


def test_voters_are_sorted_and_have_one_encoding():
    shuffled = list(VOTERS.members)
    random.Random(1).shuffle(shuffled)
    assert Voters.of(shuffled) == VOTERS
    assert Voters.decode(VOTERS.encode()) == VOTERS
    assert [member.key for member in VOTERS.members] == sorted(peer.id for peer in PEERS)
    assert VOTERS.total == 23
    assert VOTERS.hash == hashlib.sha256(b"coterie voters" + VOTERS.encode()).digest()
    for place, member in enumerate(VOTERS.members):
        assert VOTERS.index(member.key) == place
        assert VOTERS.get(member.key) == member
        assert member.key in VOTERS
    assert (VOTERS.index("0" * 64), VOTERS.get("0" * 64)) == (None, None)


@pytest.mark.parametrize(
    "members",
    [
        [],
        [voter(PEERS[0]), voter(PEERS[0], 2)],
        [Voter("0" * 64, VRF[PEERS[0].id].public, 1)],
        [Voter(PEERS[0].id, bytes(32), 1)],
        [Voter(PEERS[0].id, VRF[PEERS[0].id].public, 0)],
        [Voter(PEERS[0].id, VRF[PEERS[0].id].public, 1 << 49)],
    ],
)
def test_what_are_no_voters(members):
    with pytest.raises(LedgerError):
        Voters.of(members)


def test_voters_out_of_order_are_refused():
    with pytest.raises(LedgerError, match="sorted"):
        Voters.decode(Voters(VOTERS.members[::-1]).encode())


@given(st.binary(min_size=32, max_size=32), st.integers(1, 2**53 - 1))
def test_the_leader_by_hand(beacon, height):
    """The point in [0, 1) of the hash, as a fraction, against each voter's share of the cumulative weight."""
    digest = hashlib.sha256(b"coterie leader" + beacon + height.to_bytes(8, "big")).digest()
    point = Fraction(int.from_bytes(digest, "big"), 2**256)
    end = Fraction(0)
    for member in VOTERS.members:
        end += Fraction(member.weight, 23)
        if point < end:
            break
    assert VOTERS.leader(beacon, height) == member.key


def test_each_leads_as_often_as_its_weight_says():
    """Chi-square over 23,000 heights; 6 degrees of freedom, 22.46 at p = 0.001. The draw is fixed, so is the result."""
    counts = dict.fromkeys((member.key for member in VOTERS.members), 0)
    for height in range(1, 23_001):
        counts[VOTERS.leader(bytes(32), height)] += 1
    square = sum((counts[m.key] - 1000 * m.weight) ** 2 / (1000 * m.weight) for m in VOTERS.members)
    assert square < 22.46


@settings(max_examples=200)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=7), st.randoms())
def test_more_than_two_thirds_of_the_stake(weights, draw):
    voters = Voters.of(voter(peer, weight) for peer, weight in zip(PEERS, weights, strict=False))
    signers = [place for place in range(len(weights)) if draw.random() < 0.7]
    share = Fraction(sum(voters.members[place].weight for place in signers), sum(weights))
    assert QuorumRule().reached(voters, signers) == (share > Fraction(2, 3))
    assert QuorumRule().reached(voters, signers * 2) == (share > Fraction(2, 3))


def test_exactly_two_thirds_is_no_quorum():
    voters = Voters.of(voter(peer) for peer in PEERS[:6])
    assert not QuorumRule().reached(voters, range(4))
    assert QuorumRule().reached(voters, range(5))


@pytest.mark.parametrize(
    ("rule", "enough"),
    [
        (QuorumRule("majority"), [1, 2, 2, 3, 3, 4, 4]),
        (QuorumRule("majority", 3), [3, 3, 3, 3, 3, 4, 4]),
        (QuorumRule("two thirds"), [1, 2, 3, 3, 4, 5, 5]),
        (QuorumRule("two thirds", 5), [5, 5, 5, 5, 5, 5, 5]),
    ],
)
def test_quorums_by_heads(rule, enough):
    """max(min_peers, floor(n / 2) + 1) and max(min_peers, floor(2 n / 3) + 1), whatever the weights."""
    for n in range(1, 8):
        voters = Voters.of(voter(peer, 10**number) for number, peer in enumerate(PEERS[:n]))
        for count in range(n + 1):
            assert rule.reached(voters, range(count)) == (count >= enough[n - 1])
            assert rule.reached(voters, [0] * 20) == (enough[n - 1] <= 1)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=7), st.sampled_from(["stake", "two thirds"]))
def test_two_quorums_share_more_than_a_third(weights, kind):
    """What keeps two blocks from being final at once: by stake, or by heads."""
    voters = Voters.of(voter(peer, weight) for peer, weight in zip(PEERS, weights, strict=False))
    rule, n = QuorumRule(kind), len(weights)
    size = [member.weight if kind == "stake" else 1 for member in voters.members]
    sets = [{place for place in range(n) if mask >> place & 1} for mask in range(1 << n)]
    quorums = [found for found in sets if rule.reached(voters, found)]
    for one in quorums:
        for other in quorums[:20]:
            assert 3 * sum(size[place] for place in one & other) > sum(size)
