"""Each rule of the state machine on the bench, by what it does and what it refuses."""

import pytest
from consensus_world import GENESIS, identity
from simplex_bench import DELAY, Bench, bench_led_by_others

from coterie.errors import LedgerError
from coterie.ledger.shared import FullSharedBlock, QuorumRule, SharedBlock, Vote
from coterie.protocols.consensus import steps

FOUR = [1, 1, 1, 1]
NAMES = ["p0", "p1", "p2", "p3"]


def seconds(bench, kind="height", did=None):
    return [timer.seconds for timer in bench.of(steps.Timer, did) if timer.fired.kind == kind]


def test_rule_2_a_weight_of_exactly_two_thirds_is_no_quorum():
    """Weights 2, 2, 1, 1: p0 and p1 have 4 of 6."""
    bench = bench_led_by_others([2, 2, 1, 1])
    full = bench.block(1)
    bench.propose(full)  # p0 has voted
    bench.votes(["p1"], "block", 1, full.block.id)
    assert bench.machine.height == 1
    bench.votes(["p2"], "block", 1, full.block.id)
    assert bench.machine.height == 2


def test_rule_2_a_voter_counts_once():
    bench = bench_led_by_others(FOUR)
    full = bench.block(1)
    bench.propose(full)
    bench.votes(["p1", "p1", "p1"], "block", 1, full.block.id)
    assert bench.machine.height == 1


def test_rule_3_only_the_leader_proposes():
    bench = bench_led_by_others(FOUR)
    other = next(name for name in NAMES if name != bench.leader(1))
    block = SharedBlock.make(
        identity(other), genesis=GENESIS, epoch=0, height=1, parent_height=0, parent=bench.state.anchor
    )
    with pytest.raises(LedgerError, match="not the leader"):
        bench.propose(FullSharedBlock(block, ()))
    assert bench.told(did=bench.propose(bench.block(1)))


def test_rule_4_the_timer_is_three_d_doubles_with_each_dummy_and_is_capped():
    bench = bench_led_by_others(FOUR, range(1, 7))
    grown = []
    for height in range(1, 7):
        grown += seconds(bench, did=bench.step(steps.Due(height)))
        bench.step(steps.Certified(bench.certificate(NAMES[1:], "dummy", height)))
    assert grown == [3 * DELAY, 6 * DELAY, 12 * DELAY, 24 * DELAY, 24 * DELAY, 24 * DELAY]


def led_by(*pattern):
    """A bench on which others than p0 lead the first heights, the same where the pattern has the same number."""
    for number in range(10_000):
        bench = Bench(FOUR, beacon=b"led %d" % number)
        leaders = [bench.leader(height + 1) for height in range(len(pattern))]
        same = all((a == b) == (pattern[i] == pattern[j]) for i, a in enumerate(leaders) for j, b in enumerate(leaders))
        if same and bench.own not in leaders:
            return bench
    raise AssertionError("no such leaders")


def test_rule_4_who_was_silent_as_leader_is_given_d_until_it_leads_well():
    """Only as long as the others are enough, which three of four voters are and two are not."""
    bench = led_by(0, 0, 1, 0, 0, 2)
    grown = [seconds(bench, did=bench.step(steps.Due(1)))]
    dummies = [bench.certificate(NAMES[1:], "dummy", height) for height in (1, 2)]
    for dummy in dummies:
        bench.step(steps.Certified(dummy))
        grown.append(seconds(bench, did=bench.step(steps.Due(dummy.height + 1))))
    assert grown == [[3 * DELAY], [DELAY], [12 * DELAY]]
    blocks = []
    for height in (3, 4):
        blocks.append(bench.block(height, *blocks[-1:]))
        certificate = bench.machine.at(3).certificates.get("block") if height == 4 else None
        bench.propose(blocks[-1], certificate, dummies if height == 3 else ())
        bench.votes(NAMES[1:], "block", height, blocks[-1].block.id)
    assert bench.machine.height == 5
    assert seconds(bench, did=bench.step(steps.Due(5))) == [12 * DELAY]


def test_rule_4_everybody_is_given_time_where_too_few_have_led_well():
    bench = led_by(0, 1, 0, 1)
    for height in (1, 2):
        bench.step(steps.Due(height))
        bench.step(steps.Certified(bench.certificate(NAMES[1:], "dummy", height)))
    assert seconds(bench, did=bench.step(steps.Due(3))) == [12 * DELAY]


def test_rule_4_the_timer_is_short_again_after_finality():
    bench = bench_led_by_others(FOUR, range(1, 4))
    dummy = bench.certificate(NAMES[1:], "dummy", 1)
    bench.step(steps.Certified(dummy))
    full = bench.block(2)
    bench.propose(full, None, [dummy])
    bench.votes(NAMES[1:], "block", 2, full.block.id)
    bench.votes(NAMES[1:], "final", 2, full.block.id)
    assert bench.machine.final == 2
    assert seconds(bench, did=bench.step(steps.Due(3))) == [3 * DELAY]


def test_rule_4_the_timer_waits_for_the_application_but_not_where_a_third_does_not():
    bench = bench_led_by_others(FOUR)
    assert seconds(bench) == []
    assert len(bench.of(steps.AskDue)) == 1
    assert seconds(bench, did=bench.votes(["p1"], "dummy", 1)) == []
    assert seconds(bench, did=bench.votes(["p2"], "dummy", 1)) == [3 * DELAY]


@pytest.mark.parametrize("kind", ["stake", "two thirds"])
def test_rule_4_exactly_a_third_starts_no_timer(kind):
    bench = bench_led_by_others([1] * 6, rule=QuorumRule(kind))
    assert seconds(bench, did=bench.votes(["p1", "p2"], "dummy", 1)) == []
    assert seconds(bench, did=bench.votes(["p3"], "dummy", 1)) == [3 * DELAY]


def test_rule_5_a_proposal_without_its_parent_or_a_dummy_is_refused():
    bench = bench_led_by_others(FOUR, range(1, 4))
    first = bench.block(1)
    notarised = bench.certificate(NAMES[1:], "block", 1, first.block.id)
    second = bench.block(3, first)
    with pytest.raises(LedgerError, match="dummy certificates"):
        bench.propose(second, notarised)
    with pytest.raises(LedgerError, match="parent's certificate"):
        bench.propose(second, None, [bench.certificate(NAMES[1:], "dummy", 2)])
    with pytest.raises(LedgerError, match="quorum"):
        bench.propose(second, notarised, [bench.certificate(NAMES[2:], "dummy", 2)])
    assert bench.machine.height == 1


def test_rule_5_a_block_is_voted_for_once_its_parent_is_here():
    bench = bench_led_by_others(FOUR, (1, 2))
    first, second = bench.block(1), bench.block(2, bench.block(1))
    bench.propose(second, bench.certificate(NAMES[1:], "block", 1, first.block.id))
    assert bench.machine.height == 2
    assert bench.machine.lacking() == [first.block.id]
    assert bench.of(steps.Pull)
    assert not bench.told(Vote) or all(vote.kind != "block" for vote in bench.told(Vote))
    bench.step(steps.Fetched(first))
    assert [judge.full for judge in bench.of(steps.Judge)] == [second]


def test_rule_5_a_block_on_another_parent_than_the_certified_one_gets_no_vote():
    """Of a height that has a certificate no second one is checked: what is in the proposal may be made up."""
    bench = bench_led_by_others(FOUR, (1, 2))
    shown, other = bench.block(1, time=1), bench.block(1, time=2)
    bench.propose(shown)
    bench.step(steps.Certified(bench.certificate(NAMES[1:], "block", 1, other.block.id)))
    made_up = bench.certificate(["p3"], "block", 1, shown.block.id)
    assert bench.told(did=bench.propose(bench.block(2, shown), made_up)) == []
    assert bench.machine.height == 2


def test_rule_5_a_fetched_block_that_nobody_asked_for_is_forgotten():
    bench = bench_led_by_others(FOUR)
    bench.step(steps.Fetched(bench.block(1)))
    assert bench.machine.tallies[1].blocks == {}


def test_rule_5_a_draft_that_does_not_follow_what_is_final_by_now_is_made_anew():
    bench = next(
        bench
        for bench in (Bench(FOUR, beacon=b"%d" % number) for number in range(1000))
        if "p0" not in (bench.leader(1), bench.leader(2)) and bench.leader(3) == "p0"
    )
    first = bench.block(1)
    second = bench.block(2, first)
    bench.propose(first)
    bench.votes(NAMES[1:], "block", 1, first.block.id)
    bench.step(steps.Certified(bench.certificate(NAMES[1:], "dummy", 2)))
    (draft,) = bench.of(steps.Draft, bench.step(steps.Due(3)))
    assert draft.parent == first.block.id
    bench.step(steps.Certified(bench.certificate(NAMES[1:], "final", 2, second.block.id)))  # two quorums, that lie
    bench.step(steps.Fetched(second))
    (draft,) = bench.of(steps.Draft, bench.step(steps.Drafted(bench.block(3, first))))
    assert (draft.parent, bench.of(steps.Tell)) == (second.block.id, [])


def test_rule_6_one_block_vote_a_height_for_the_first_proposal():
    bench = bench_led_by_others(FOUR)
    one, two = bench.block(1, time=1), bench.block(1, time=2)
    votes = bench.told(did=bench.propose(one))
    assert [(vote.kind, vote.hash) for vote in votes] == [("block", one.block.id)]
    assert bench.told(did=bench.propose(two)) == []


def test_rule_6_not_for_a_height_that_is_left():
    bench = bench_led_by_others(FOUR, (1, 2))
    bench.step(steps.Certified(bench.certificate(NAMES[1:], "dummy", 1)))
    assert bench.told(did=bench.propose(bench.block(1))) == []


def test_rule_7_the_timer_fires_and_the_vote_is_repeated_while_stuck():
    bench = bench_led_by_others(FOUR)
    bench.step(steps.Due(1))
    assert [vote.kind for vote in bench.told(did=bench.fire("height"))] == ["dummy"]
    assert seconds(bench, "resend") == [2 * DELAY]
    assert [vote.kind for vote in bench.told(did=bench.fire("resend", 1))] == ["dummy"]
    assert bench.of(steps.Stuck) == [steps.Stuck(1)]


def test_rule_7_a_final_vote_is_repeated_while_its_block_is_not_final():
    bench = bench_led_by_others(FOUR, (1, 2))
    full = bench.block(1)
    bench.propose(full)
    bench.votes(["p1", "p2"], "block", 1, full.block.id)
    bench.step(steps.Due(2))
    bench.fire("height")
    told = bench.told(did=bench.fire("resend", 1))
    assert [(vote.kind, vote.height) for vote in told] == [("final", 1), ("dummy", 2)]


def test_rule_7_a_block_is_still_voted_for_after_the_timer():
    """And that is no contradiction: nobody is accused of it."""
    bench = bench_led_by_others(FOUR)
    bench.step(steps.Due(1))
    bench.fire("height")
    assert [vote.kind for vote in bench.told(did=bench.propose(bench.block(1)))] == ["block"]


def test_rule_8_final_on_a_notarised_block_and_not_after_a_dummy_vote():
    bench = bench_led_by_others(FOUR, (1, 2))
    full = bench.block(1)
    bench.propose(full)
    did = bench.votes(["p1", "p2"], "block", 1, full.block.id)
    assert [(vote.kind, vote.height, vote.hash) for vote in bench.told(did=did)] == [("final", 1, full.block.id)]
    other = bench_led_by_others(FOUR, (1, 2))
    other.step(steps.Due(1))
    other.fire("height")
    assert other.told(did=other.step(steps.Certified(other.certificate(NAMES[1:], "block", 1, full.block.id)))) == []
    assert other.machine.height == 2


def test_rule_8_no_final_vote_without_a_quorum():
    bench = bench_led_by_others(FOUR)
    full = bench.block(1)
    did = bench.propose(full) + bench.votes(["p1"], "block", 1, full.block.id)
    assert [vote.kind for vote in bench.told(did=did)] == ["block"]


def test_rule_8_the_certificate_goes_to_those_who_have_not_shown_that_they_know():
    bench = bench_led_by_others(FOUR, (1, 2))
    full = bench.block(1)
    bench.propose(full)
    bench.votes(["p1", "p2"], "block", 1, full.block.id)
    bench.votes(["p1"], "final", 1, full.block.id)
    (relay,) = bench.of(steps.Tell, bench.fire("relay"))
    told = [bench.names_of[bench.state.voters.members[place].key] for place in relay.to]
    assert (relay.what.kind, sorted(told)) == ("block", ["p2", "p3"])


def test_rule_8_eight_voters_tell_each_and_then_all_others():
    bench = bench_led_by_others([1] * 12, (1, 2))
    bench.step(steps.Certified(bench.certificate(bench.names[1:], "dummy", 1)))
    (first,), (rest,) = (bench.of(steps.Tell, bench.fire("relay", stage)) for stage in (0, 1))
    assert len(first.to) == 8
    assert sorted(first.to + rest.to) == [place for place in range(12) if place != bench.machine.place]


def test_rule_9_a_quorum_of_final_votes_makes_ancestors_final():
    bench = bench_led_by_others(FOUR, (1, 2, 3))
    first = bench.block(1)
    second = bench.block(2, first)
    bench.propose(first)
    bench.votes(NAMES[1:], "block", 1, first.block.id)
    bench.propose(second, bench.certificate(NAMES[1:], "block", 1, first.block.id))
    bench.votes(NAMES[1:], "block", 2, second.block.id)
    (final,) = bench.of(steps.Final, bench.votes(NAMES[1:], "final", 2, second.block.id))
    assert final.blocks == (first, second)
    assert (bench.machine.final, bench.machine.tallies.keys() & {1, 2}) == (2, set())


def test_rule_9_one_voter_alone_enters_the_next_height_once():
    bench = Bench([1])
    bench.step(steps.Due(1))
    bench.step(steps.Drafted(bench.block(1)))
    assert (bench.machine.final, bench.machine.height) == (1, 2)
    assert [ask.view.height for ask in bench.of(steps.AskDue)] == [2]


def test_rule_10_never_a_dummy_after_a_final_vote_nor_the_other_way():
    bench = bench_led_by_others(FOUR, (1, 2))
    full = bench.block(1)
    bench.propose(full)
    bench.votes(["p1", "p2"], "block", 1, full.block.id)
    machine = bench.machine
    assert "final" in machine.tallies[1].mine
    machine.height = 1  # as if it had gone back
    machine._vote("dummy", machine.tallies[1], bytes(32))
    assert "dummy" not in machine.tallies[1].mine


def test_rule_10_the_log_comes_before_every_vote_and_proposal():
    bench = bench_led_by_others(FOUR, (1, 2))
    full = bench.block(1)
    did = bench.propose(full) + bench.votes(["p1", "p2"], "block", 1, full.block.id)
    bench.step(steps.Due(2))
    did += bench.fire("height")
    kinds = [type(action) for action in did if isinstance(action, steps.Log | steps.Tell)]
    for number, kind in enumerate(kinds):
        if kind is steps.Tell:
            assert steps.Log in kinds[:number]
    voted = [index for index, a in enumerate(did) if isinstance(a, steps.Tell) and isinstance(a.what, Vote)]
    assert len(voted) == 3
    assert all(isinstance(did[index - 1], steps.Log) for index in voted)


@pytest.mark.parametrize(
    ("one", "two", "guilty"),
    [
        (("block", b"a"), ("block", b"b"), True),
        (("final", b"a"), ("dummy", b""), True),
        (("dummy", b""), ("final", b"a"), True),
        (("block", b"a"), ("dummy", b""), False),
        (("block", b"a"), ("final", b"a"), False),
        (("block", b"a"), ("block", b"a"), False),
    ],
)
def test_rule_11_what_is_evidence_and_what_is_not(one, two, guilty):
    bench = bench_led_by_others(FOUR)
    did = []
    for kind, name in (one, two):
        did += bench.votes(["p1"], kind, 1, name.ljust(32, b"\0") if name else bytes(32))
    accused = bench.of(steps.Accuse, did)
    assert len(accused) == guilty
    for action in accused:
        action.evidence.check(GENESIS)
        assert bench.names_of[action.evidence.voter] == "p1"


def test_rule_11_two_proposals():
    bench = bench_led_by_others(FOUR)
    bench.propose(bench.block(1, time=1))
    (accusation,) = bench.of(steps.Accuse, bench.propose(bench.block(1, time=2)))
    accusation.evidence.check(GENESIS)
    assert bench.names_of[accusation.evidence.voter] == bench.leader(1)
    assert bench.of(steps.Accuse, bench.propose(bench.block(1, time=3))) == []  # once is enough


def test_rule_11_a_forged_second_vote_accuses_nobody():
    bench = bench_led_by_others(FOUR)
    good = bench.vote("p1", "block", 1, bytes([1]) * 32)
    forged = Vote(good.voter, 0, 1, "block", bytes([2]) * 32, good.signature)
    bench.step(steps.Voted(good))
    with pytest.raises(LedgerError, match="not signed"):
        bench.step(steps.Voted(forged))


def test_rule_11_a_certificate_shows_who_told_this_peer_something_else():
    """p1 says FINAL here; its DUMMY went to others, and comes back in a certificate."""
    bench = bench_led_by_others(FOUR)
    bench.votes(["p1"], "final", 1, bytes([1]) * 32)
    did = bench.step(steps.Certified(bench.certificate(NAMES[1:], "dummy", 1)))
    assert [bench.names_of[action.evidence.voter] for action in bench.of(steps.Accuse, did)] == ["p1"]


def test_a_badly_signed_vote_does_not_count_and_is_told():
    bench = bench_led_by_others(FOUR)
    full = bench.block(1)
    bench.propose(full)
    good = bench.vote("p1", "block", 1, full.block.id)
    bad = Vote(good.voter, 0, 1, "block", full.block.id, bytes(64))
    bench.step(steps.Voted(bad))
    did = bench.votes(["p2"], "block", 1, full.block.id)
    assert bench.machine.height == 1
    (refusal,) = bench.of(steps.Refuse, did)
    assert bench.names_of[bench.state.voters.members[refusal.place].key] == "p1"
    bench.votes(["p3"], "block", 1, full.block.id)
    assert bench.machine.height == 2


def closed(bench):
    """A closing block at height 1, notarised and not final; and its certificate."""
    closing = bench.block(1, closes=True)
    bench.propose(closing)
    bench.votes(NAMES[1:], "block", 1, closing.block.id)
    assert bench.machine.height == 2
    assert not bench.machine.over
    return closing, bench.certificate(NAMES[1:], "block", 1, closing.block.id)


def test_rule_13_after_a_notarised_closing_block_only_empty_ones():
    bench = bench_led_by_others(FOUR, (1, 2, 3))
    closing, notarised = closed(bench)
    assert bench.told(did=bench.propose(bench.block(2, closing, closes=True), notarised)) == []
    assert bench.machine.tallies[2].considered


@pytest.mark.parametrize("named", ["nothing", "another block"])
def test_rule_13_a_block_that_does_not_name_the_closing_one_gets_no_vote(named):
    bench = bench_led_by_others(FOUR, (1, 2, 3))
    closing, notarised = closed(bench)
    name = b"" if named == "nothing" else bench.block(1).block.id
    assert bench.told(did=bench.propose(bench.block(2, closing, closed=name), notarised)) == []
    assert bench.machine.tallies[2].considered


def test_rule_13_nothing_is_named_that_does_not_close_the_epoch():
    bench = bench_led_by_others(FOUR, (1, 2, 3))
    first = bench.block(1)
    bench.propose(first)
    bench.votes(NAMES[1:], "block", 1, first.block.id)
    second = bench.block(2, first, closed=first.block.id)
    assert bench.told(did=bench.propose(second, bench.certificate(NAMES[1:], "block", 1, first.block.id))) == []
    assert bench.machine.tallies[2].considered


def test_rule_13_however_long_the_tail_its_last_block_is_enough():
    bench = bench_led_by_others(FOUR, range(1, 6))
    closing, notarised = closed(bench)
    tail = [closing]
    for height in range(2, 6):
        tail.append(bench.block(height, tail[-1], closed=closing.block.id))
        bench.propose(tail[-1], notarised)
        bench.votes(NAMES[1:], "block", height, tail[-1].block.id)
        notarised = bench.certificate(NAMES[1:], "block", height, tail[-1].block.id)
    (final,) = bench.of(steps.Final, bench.votes(NAMES[1:], "final", 5, tail[-1].block.id))
    assert final.blocks == (closing,)
    assert final.finality.headers == (tail[-1].block,)


def test_rule_13_the_tail_makes_the_closing_block_final_and_is_dropped():
    bench = bench_led_by_others(FOUR, (1, 2, 3))
    closing, notarised = closed(bench)
    tail = bench.block(2, closing, closed=closing.block.id)
    did = bench.propose(tail, notarised)
    assert bench.of(steps.Judge, did) == []  # the application is not asked about it
    assert [vote.kind for vote in bench.told(did=did)] == ["block"]
    bench.votes(NAMES[1:], "block", 2, tail.block.id)
    (final,) = bench.of(steps.Final, bench.votes(NAMES[1:], "final", 2, tail.block.id))
    assert final.blocks == (closing,)
    assert final.finality.headers == (tail.block,)
    assert bench.machine.over


def test_rule_13_a_leader_proposes_an_empty_block_after_the_closing_one():
    bench = next(b for b in (Bench(FOUR, beacon=b"%d" % n) for n in range(99)) if b.leader(1) != "p0" == b.leader(2))
    closed(bench)
    (draft,) = bench.of(steps.Draft, bench.did)
    assert draft.closed == bench.machine.at(1).certificates["block"].hash


def test_rule_18_a_majority_by_heads_where_nobody_lies():
    bench = bench_led_by_others([9, 1, 1], rule=QuorumRule("majority", 2))
    full = bench.block(1)
    bench.propose(full)
    assert bench.machine.height == 1  # nine of eleven by weight, one of three by heads
    bench.votes(["p1"], "block", 1, full.block.id)
    assert bench.machine.height == 2


def test_a_certificate_of_another_epoch_is_refused():
    bench = bench_led_by_others(FOUR)
    votes = [bench.vote(name, "dummy", 1, epoch=1) for name in NAMES[1:]]
    stale = bench.certificate(NAMES[1:], "dummy", 1)
    places = tuple(sorted((bench.state.voters.index(vote.voter), vote.signature) for vote in votes))
    with pytest.raises(LedgerError, match="another epoch"):
        bench.step(steps.Certified(type(stale)(1, 1, "dummy", bytes(32), places)))
    with pytest.raises(LedgerError, match="not signed"):  # nor with its epoch's number changed
        bench.step(steps.Certified(type(stale)(0, 1, "dummy", bytes(32), places)))
    assert bench.machine.height == 1


def test_votes_far_ahead_are_not_kept():
    bench = bench_led_by_others(FOUR)
    for height in range(2, 1000):
        bench.votes(["p1"], "block", height, bytes([1]) * 32)
    assert len(bench.machine.tallies) <= 10
    assert bench.of(steps.Pull)


def test_of_a_voter_three_votes_a_height_are_kept():
    bench = bench_led_by_others(FOUR)
    for number in range(1, 50):
        bench.votes(["p1"], "block", 1, bytes([number]) * 32)
    bench.votes(["p1"], "dummy", 1)
    bench.votes(["p1"], "final", 1, bytes([1]) * 32)
    tally = bench.machine.tallies[1]
    assert sum(len(votes) for votes in tally.votes.values()) == 3
    assert len(tally.weight) <= 3


def test_a_certificate_with_an_unknown_vote_of_this_peer_silences_it():
    """Its log is not what it was: put back from a back-up, say."""
    bench = bench_led_by_others(FOUR, (1, 2))
    did = bench.step(steps.Certified(bench.certificate(["p0", "p1", "p2"], "dummy", 1)))
    assert bench.of(steps.Forgot, did)
    assert not bench.machine.votes
    bench.step(steps.Due(2))
    assert bench.told(did=bench.fire("height")) == []


def test_final_blocks_from_others_whose_certificate_names_a_later_one():
    """A batch may end before the certified block: it is asked for, and final as soon as it is here."""
    bench = bench_led_by_others(FOUR, (1, 2, 3))
    first = bench.block(1)
    second = bench.block(2, first)
    final = bench.certificate(NAMES[1:], "final", 2, second.block.id)
    bench.step(steps.Adopted(1, first.block.id, final))
    assert (bench.machine.final, bench.machine.height) == (1, 3)
    assert bench.machine.lacking() == [second.block.id]
    (action,) = bench.of(steps.Final, bench.step(steps.Fetched(second)))
    assert action.blocks == (second,)
    assert bench.machine.final == 2


def test_a_proposal_after_a_final_parent_may_bear_its_final_certificate():
    bench = bench_led_by_others(FOUR, (1, 2))
    first = bench.block(1)
    final = bench.certificate(NAMES[1:], "final", 1, first.block.id)
    bench.step(steps.Adopted(1, first.block.id, final))
    assert [vote.kind for vote in bench.told(did=bench.propose(bench.block(2, first), final))] == ["block"]


def test_a_proposal_that_would_undo_what_is_final_gets_no_vote():
    bench = bench_led_by_others(FOUR, (1, 2, 3))
    first = bench.block(1)
    bench.step(steps.Adopted(1, first.block.id, bench.certificate(NAMES[1:], "final", 1, first.block.id)))
    dummies = [bench.certificate(NAMES[1:], "dummy", height) for height in (1, 2)]  # 1: only two quorums that lie
    assert bench.told(did=bench.propose(bench.block(3), None, dummies)) == []
