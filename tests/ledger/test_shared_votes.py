"""Votes, certificates, evidence, charters and checkpoints: forms, signatures, and what liars send."""

import hashlib
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_worlds import ANN, GENESIS, OTHER_GENESIS, signed_by_hand
from shared_worlds import BEACON, PEERS, Writer, certified, charter, note, voter

from coterie.errors import LedgerError
from coterie.ledger.shared import (
    Certificate,
    Charter,
    Checkpoint,
    Evidence,
    Finality,
    FullSharedBlock,
    Locked,
    Proposal,
    QuorumRule,
    SharedBlock,
    Signatures,
    Vote,
    Voters,
)

replace = msgspec.structs.replace
BLOCK, OTHER = hashlib.sha256(b"one").digest(), hashlib.sha256(b"another").digest()
VOTERS = Voters.of(voter(peer) for peer in PEERS)


def votes(kind="final", block=BLOCK, epoch=2, height=3, peers=PEERS):
    return [Vote.make(peer, GENESIS, epoch, height, kind, block) for peer in peers]


def test_a_vote_signs_everything():
    """Its signature is over (genesis, epoch, height, kind, hash) for the purpose "vote", made here by hand."""
    vote = votes()[0]
    fields = (GENESIS, 2, 3, "final", BLOCK)
    assert signed_by_hand(PEERS[0], "vote", fields) == msgspec.msgpack.encode((*fields, vote.signature))
    assert Vote.decode(vote.encode()) == vote
    vote.check(GENESIS)
    changed = [{"epoch": 1}, {"height": 4}, {"kind": "block"}, {"hash": OTHER}, {"voter": PEERS[1].id}]
    for change in changed:
        with pytest.raises(LedgerError, match="not signed"):
            replace(vote, **change).check(GENESIS)
    with pytest.raises(LedgerError, match="not signed"):
        vote.check(OTHER_GENESIS)


@pytest.mark.parametrize(("kind", "block"), [("dummy", BLOCK), ("final", bytes(32)), ("block", bytes(32))])
def test_dummy_votes_and_no_others_name_no_block(kind, block):
    with pytest.raises(LedgerError, match="dummy"):
        Vote.make(PEERS[0], GENESIS, 0, 1, kind, block)
    vote = replace(votes()[0], kind=kind, hash=block)
    with pytest.raises(LedgerError, match="dummy"):
        Vote.decode(vote.encode())


@pytest.mark.parametrize("change", [{"height": 0}, {"epoch": -1}, {"kind": "other"}, {"hash": b"short"}])
def test_malformed_votes_are_refused(change):
    with pytest.raises(LedgerError):
        Vote.decode(replace(votes()[0], **change).encode())


def test_a_certificate_takes_no_more_than_a_quorum():
    found = Certificate.of(votes(), VOTERS, QuorumRule())
    assert len(found.votes) == 5  # of 7
    found.check(GENESIS, VOTERS, QuorumRule())
    assert Certificate.decode(found.encode()) == found
    assert Certificate.of(votes(peers=PEERS[:4]), VOTERS, QuorumRule()) is None
    assert Certificate.of(votes(peers=PEERS[:4] * 2), VOTERS, QuorumRule()) is None
    heavy = Voters.of(voter(peer, 10 if peer is PEERS[3] else 1) for peer in PEERS[:5])
    assert [heavy.members[place].key for place, _ in Certificate.of(votes(), heavy, QuorumRule()).votes] == [
        PEERS[3].id
    ]
    with pytest.raises(LedgerError, match="different things"):
        Certificate.of(votes(peers=PEERS[:3]) + votes(block=OTHER, peers=PEERS[3:]), VOTERS, QuorumRule())


def test_certificates_that_are_none():
    good = Certificate.of(votes(), VOTERS, QuorumRule())
    first, *rest = good.votes
    few = replace(good, votes=good.votes[:4])
    cases = {
        "less than a quorum": few,
        "in order": replace(good, votes=(*few.votes, few.votes[0])),
        "named twice": replace(good, votes=(first, *good.votes)),
        "that there is not": replace(good, votes=(*few.votes, (900, first[1]))),
        "not signed by": replace(good, votes=((first[0], rest[0][1]), *rest)),
        "no others, name": replace(good, kind="dummy"),
    }
    for match, bad in cases.items():
        with pytest.raises(LedgerError, match=match):
            bad.check(GENESIS, VOTERS, QuorumRule())
    for change in ({"epoch": 3}, {"height": 2}, {"kind": "block"}, {"hash": OTHER}):
        with pytest.raises(LedgerError, match="not signed by"):
            replace(good, **change).check(GENESIS, VOTERS, QuorumRule())
    with pytest.raises(LedgerError, match="not signed by"):
        good.check(OTHER_GENESIS, VOTERS, QuorumRule())
    with pytest.raises(LedgerError, match="in order"):
        Certificate.decode(replace(good, votes=good.votes[::-1]).encode())


def test_what_was_checked_as_a_vote_is_not_checked_again_in_a_certificate(monkeypatch):
    known, sent = Signatures(), votes()
    for vote in sent:
        vote.check(GENESIS, known)
    good = Certificate.of(sent, VOTERS, QuorumRule())
    bad = replace(good, votes=((good.votes[0][0], good.votes[1][1]), *good.votes[1:]))
    with pytest.raises(LedgerError, match="not signed by"):  # known, but of another voter
        bad.check(GENESIS, VOTERS, QuorumRule(), known)
    monkeypatch.delattr("coterie.ledger.shared.signatures.verify")
    good.check(GENESIS, VOTERS, QuorumRule(), known)


def test_what_was_checked_for_one_purpose_is_not_taken_for_checked_for_another():
    known, content = Signatures(), b"anything"
    signature = PEERS[0].sign("vote", content)
    assert known.verify(PEERS[0].id, "vote", content, signature)
    assert not known.verify(PEERS[0].id, "shared block", content, signature)


def blocks():
    one, other = Writer(charter().checkpoint), Writer(charter().checkpoint)
    return one.block(note(1)).block, other.block(note(2)).block


CONTRADICTIONS = {
    "two blocks": blocks(),
    "two block votes": (votes("block")[0], votes("block", OTHER)[0]),
    "two final votes": (votes("final")[0], votes("final", OTHER)[0]),
    "final and dummy": (votes("final")[0], votes("dummy", bytes(32))[0]),
}
HARMLESS = {
    "block and dummy": (votes("block")[0], votes("dummy", bytes(32))[0]),
    "block and final of another": (votes("block")[0], votes("final", OTHER)[0]),
    "the same": (votes()[0], votes()[0]),
    "other heights": (votes("block")[0], votes("block", OTHER, height=4)[0]),
    "other epochs": (votes("block")[0], votes("block", OTHER, epoch=4)[0]),
    "other voters": (votes("block")[0], votes("block", OTHER)[1]),
    "a block and a vote": (blocks()[0], votes()[0]),
    "one block, signed in two ways": (blocks()[0], replace(blocks()[0], signature=bytes(64))),
}


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_evidence(what):
    one, other = CONTRADICTIONS[what]
    found = Evidence.of(one, other)
    assert Evidence.of(other, one) == found == Evidence.decode(found.encode())
    found.check(GENESIS)
    signer = one.voter if isinstance(one, Vote) else one.proposer
    assert (found.voter, found.epoch) == (signer, one.epoch)
    with pytest.raises(LedgerError):
        found.check(OTHER_GENESIS)
    forged = Evidence.of(one, replace(other, signature=bytes(64)))
    with pytest.raises(LedgerError, match="not signed"):
        forged.check(GENESIS)
    swapped = Evidence(found.what, found.second, found.first)
    with pytest.raises(LedgerError):
        Evidence.decode(swapped.encode())


@pytest.mark.parametrize("what", HARMLESS)
def test_what_is_no_evidence(what):
    one, other = HARMLESS[what]
    with pytest.raises(LedgerError):
        Evidence.of(one, other)


def test_a_proposal_shows_why_it_may_follow():
    writer = Writer(charter().checkpoint)
    first = writer.block()
    proposal = Proposal(first, None, ())
    assert Proposal.decode(proposal.encode()) == proposal
    parent = certified(writer.state, 1, "block", first.block.id)
    later = writer.block(skip=2)
    dummies = tuple(certified(writer.state, height, "dummy", bytes(32)) for height in (2, 3))
    good = Proposal(later, parent, dummies)
    assert Proposal.decode(good.encode()) == good
    final = replace(good, notarised=replace(parent, kind="final"))
    assert Proposal.decode(final.encode()) == final
    bad = {
        "unless that is the anchor": [replace(good, notarised=None), Proposal(first, parent, ())],
        "not that of": [
            replace(good, notarised=replace(parent, kind="dummy")),
            replace(good, notarised=replace(parent, height=2)),
            replace(good, notarised=replace(parent, hash=OTHER)),
            replace(good, notarised=replace(parent, epoch=1)),
        ],
        "missing": [
            replace(good, dummies=dummies[:1]),
            replace(good, dummies=dummies[::-1]),
            replace(good, dummies=(*dummies, dummies[0])),
            replace(good, dummies=(replace(dummies[0], kind="block", hash=OTHER), dummies[1])),
        ],
    }
    for match, proposals in bad.items():
        for proposal in proposals:
            with pytest.raises(LedgerError, match=match):
                Proposal.decode(proposal.encode())


def test_a_proposal_bears_the_last_dummies_only():
    writer = Writer(charter().checkpoint)
    later = writer.block(skip=20)
    dummies = tuple(certified(writer.state, height, "dummy", bytes(32)) for height in range(5, 21))
    proposal = Proposal(later, None, dummies)
    assert Proposal.decode(proposal.encode()) == proposal
    with pytest.raises(LedgerError, match="missing"):
        Proposal.decode(Proposal(later, None, dummies[1:]).encode())


def test_blocks_of_bad_form_are_refused():
    block = blocks()[0]
    for change in ({"parent_height": 1}, {"closes": True}, {"proof": bytes(80)}, {"height": 0}, {"count": 1025}):
        with pytest.raises(LedgerError):
            SharedBlock.decode(replace(block, **change).encode())


def test_a_charter_is_its_founders_word():
    good = charter()
    assert Charter.decode(good.encode()) == good
    assert good.id == hashlib.sha256(msgspec.msgpack.encode(msgspec.structs.astuple(good)[:-1])).digest()
    with pytest.raises(LedgerError, match="not signed by its founder"):
        Charter.decode(replace(good, beacon=bytes(32)).encode())
    with pytest.raises(LedgerError, match="not signed by its founder"):
        Charter.decode(replace(good, founder=PEERS[0].id).encode())
    with pytest.raises(LedgerError, match="fewer than four"):
        charter((1, 1, 1), rule=QuorumRule("two thirds"))
    state = good.checkpoint
    assert (state.epoch, state.anchor, state.beacon) == (0, good.id, BEACON)
    assert state.voters == state.following == good.voters


def test_a_checkpoints_id_covers_everything():
    state = charter().checkpoint
    assert Checkpoint.decode(state.encode()) == state
    changes = [
        {"genesis": OTHER_GENESIS},
        {"rule": QuorumRule("majority")},
        {"lock_epochs": 4},
        {"epoch": 1},
        {"anchor": BLOCK},
        {"beacon": BLOCK},
        {"voters": VOTERS},
        {"following": VOTERS},
    ]
    assert len({state.id, *(replace(state, **change).id for change in changes)}) == 9


def test_a_checkpoint_whose_heirs_lead_round_in_circles_is_refused():
    """Evidence against one of them would be passed on for ever: by who joins with it, and by its auditor."""
    one, two, three = sorted(peer.id for peer in PEERS[4:7])

    def decoded(*heirs):
        locked = tuple(Locked(key, 0, heir, 9) for key, heir in zip((one, two, three), heirs, strict=True))
        return Checkpoint.decode(replace(charter().checkpoint, locked=locked).encode())

    assert len(decoded(two, three, PEERS[0].id).locked) == len(decoded(three, "", two).locked) == 3
    for heirs in ((two, one, ""), (two, three, one), ("", two, one)):
        with pytest.raises(LedgerError, match="circles"):
            decoded(*heirs)


def test_a_checkpoint_out_of_order_is_refused():
    state = charter().checkpoint
    turned = Voters(state.voters.members[::-1])
    one, two = (Locked(peer.id, 1, "", 9) for peer in PEERS[4:6])
    for changed in ({"voters": turned}, {"following": turned}, {"locked": (one, one)}):
        with pytest.raises(LedgerError, match="named twice"):
            Checkpoint.decode(replace(state, **changed).encode())
    orders = ((one, two), (two, one))
    assert sorted(_decodes(replace(state, locked=locked)) for locked in orders) == [False, True]


def _decodes(state) -> bool:
    try:
        return Checkpoint.decode(state.encode()) == state
    except LedgerError:
        return False


DECODERS = [
    (Vote.decode, votes()[0]),
    (Certificate.decode, Certificate.of(votes(), VOTERS, QuorumRule())),
    (Evidence.decode, Evidence.of(*CONTRADICTIONS["two blocks"])),
    (SharedBlock.decode, blocks()[0]),
    (FullSharedBlock.decode, Writer(charter().checkpoint).block(note(1), note(2))),
    (Charter.decode, charter()),
    (Checkpoint.decode, charter().checkpoint),
    (Voters.decode, VOTERS),
    (Finality.decode, Finality((blocks()[0],), Certificate.of(votes(), VOTERS, QuorumRule()))),
]


@settings(max_examples=150)
@given(st.sampled_from(DECODERS), st.integers(0, 2**32), st.integers(1, 3))
def test_no_bytes_break_a_decoder(case, seed, changes):
    """Whatever comes, it is a value with this one encoding or a LedgerError."""
    decode, value = case
    data, draw = bytearray(value.encode()), random.Random(seed)
    for _ in range(changes):
        place = draw.randrange(len(data))
        if draw.random() < 0.8:
            data[place] = draw.randrange(256)
        else:
            del data[place : place + draw.randrange(1, 40)]
    try:
        found = decode(bytes(data))
    except LedgerError:
        return
    assert found.encode() == bytes(data)


def test_a_founder_is_named():
    assert charter(founder=ANN).founder == ANN.id
