"""What hostile senders can and cannot make a voter do. Everything refused is counted against its sender."""

import hashlib
import random
from types import SimpleNamespace

import msgspec
import pytest
from consensus_world import GENESIS, World, identity

from coterie.ledger import NullLedger
from coterie.ledger.shared import Batch, Certificate, Finality, FullSharedBlock, Proposal, SharedBlock, Vote
from coterie.protocols import Peer
from coterie.protocols.consensus import AHEAD
from coterie.protocols.consensus.messages import (
    ConsensusAhead,
    ConsensusCertificate,
    ConsensusNews,
    ConsensusProposal,
    ConsensusPull,
    ConsensusVote,
)

OTHER = hashlib.sha256(b"another federation").digest()
NAME = bytes([7]) * 32


class Hostile:
    """A world of four voters, of which ``p3`` says what the test says."""

    def __init__(self, **how) -> None:
        self.world = World([1] * 4, kinds={"p3": None}, seed=1, **how).begin()
        for node in self.world.nodes.values():
            node.app.resting = True  # nothing else happens meanwhile
        self.world.wait(0.3)
        self.me = identity("p3")
        self.victim = self.world.nodes["p0"]
        self.peer = self.peer_named("p3")

    def peer_named(self, name) -> Peer:
        world = self.world
        peer = Peer(
            id=name,
            members=world.names,
            neighbours=[],
            learner=None,
            ledger=NullLedger(),
            store=None,
            random=random.Random(1),
            secrets=random.Random(2),
            clock=world.loop,
            metrics=SimpleNamespace(dropped=lambda sender, error: None),
            transport=world.network.connect(name, lambda sender, frame: peer.receive(sender, frame)),
            codec=world.codec,
        )
        return peer

    def say(self, message, peer=None) -> list[str]:
        """What the victim says of it when it has arrived."""
        before = len(self.world.dropped)
        (peer or self.peer).send("p0", message)
        self.world.wait(0.3)
        sender = (peer or self.peer).id
        return [what for at, who, what in self.world.dropped[before:] if (at, who) == ("p0", sender)]

    def vote(self, kind="block", name=NAME, height=None, epoch=None, who=None, genesis=GENESIS) -> Vote:
        state = self.victim.machine.state
        height = self.victim.machine.height if height is None else height
        return Vote.make(who or self.me, genesis, state.epoch if epoch is None else epoch, height, kind, name)


@pytest.fixture
def hostile():
    made = Hostile()
    yield made
    made.peer.close()
    for node in made.world.nodes.values():
        node.app.resting = False
    before = made.world.progress()
    made.world.until(lambda: made.world.progress() > before, 100)
    made.world.check_prefixes()
    made.world.close()


def test_a_vote_of_another(hostile):
    assert hostile.say(ConsensusVote(hostile.vote(who=identity("p1")))) == [
        "a vote or a proposal that is not the sender's own"
    ]


def test_one_that_is_no_member(hostile):
    stranger = hostile.peer_named("stranger")
    for message in (ConsensusVote(hostile.vote()), ConsensusPull(0, 0, 1, ()), ConsensusAhead(9, 9)):
        assert hostile.say(message, stranger) == ["one that is no member takes part in consensus"]
    stranger.close()


def test_a_member_that_is_no_voter(hostile):
    hostile.world.keys["guest"] = identity("guest").id
    guest = hostile.peer_named("guest")
    vote = ConsensusVote(hostile.vote(who=identity("guest")))
    assert hostile.say(vote, guest) == ["not a vote of this epoch's voters"]
    hostile.say(ConsensusVote(hostile.vote(who=identity("guest"), epoch=1)), guest)
    assert hostile.victim.consensus._early == {}  # nor will it vote in the next one
    guest.close()


def test_a_vote_from_another_federation_or_epoch_counts_for_nothing(hostile):
    """Its signature is looked at where it would complete a quorum, or contradict."""
    for vote in (hostile.vote(genesis=OTHER), hostile.vote(epoch=7)):
        moved = msgspec.structs.replace(vote, epoch=hostile.victim.machine.state.epoch)
        hostile.say(ConsensusVote(moved))
    contradicting = hostile.vote(name=bytes([8]) * 32)
    assert hostile.say(ConsensusVote(contradicting)) == []  # the first was no vote: this one takes its place
    tally = hostile.victim.machine.tallies[contradicting.height]
    assert contradicting in tally.votes["block"].values()
    assert hostile.victim.consensus.evidence == {}


def test_a_dummy_vote_that_names_a_block(hostile):
    odd = msgspec.structs.replace(hostile.vote(), kind="dummy")
    assert hostile.say(ConsensusVote(odd)) == ["not a vote of this epoch's voters"]


def test_certificates_that_are_none(hostile):
    machine = hostile.victim.machine
    votes = [hostile.vote("dummy", bytes(32), who=identity(name)) for name in ("p1", "p2", "p3")]
    places = sorted((machine.state.voters.index(vote.voter), vote.signature) for vote in votes)
    good = Certificate(0, machine.height, "dummy", bytes(32), tuple(places))
    bad = {
        "less than a quorum": msgspec.structs.replace(good, votes=good.votes[:2]),
        "not in order": msgspec.structs.replace(good, votes=good.votes[::-1]),
        "not signed": msgspec.structs.replace(good, height=machine.height + 1),
        "a voter that there is not": msgspec.structs.replace(good, votes=(*good.votes[:2], (9, good.votes[2][1]))),
        "name no block": msgspec.structs.replace(good, hash=NAME),
    }
    for what, certificate in bad.items():
        (said,) = hostile.say(ConsensusCertificate(certificate))
        assert what in said
    assert machine.height == good.height


def test_proposals_that_are_none(hostile):
    machine = hostile.victim.machine
    block = SharedBlock.make(
        hostile.me, genesis=GENESIS, epoch=0, height=machine.height, parent_height=0, parent=machine.state.anchor
    )
    moved = msgspec.structs.replace(block, genesis=OTHER)
    led = next(h for h in range(machine.height, 99) if machine.state.leader(h) == hostile.me.id)
    own = SharedBlock.make(
        hostile.me, genesis=GENESIS, epoch=0, height=led, parent_height=0, parent=machine.state.anchor
    )
    if machine.state.leader(machine.height) != hostile.me.id:
        (said,) = hostile.say(ConsensusProposal(Proposal(FullSharedBlock(block, ()), None, ())))
        assert "leader" in said or "missing" in said
    (said,) = hostile.say(ConsensusProposal(Proposal(FullSharedBlock(moved, ()), None, ())))
    assert "another federation" in said or "missing" in said
    (said,) = hostile.say(ConsensusProposal(Proposal(FullSharedBlock(own, (b"x",)), None, ())))
    assert said


def test_a_flood_of_votes_takes_bounded_memory(hostile):
    """Three votes a height, for ``AHEAD`` heights; for the next epoch eight messages; beyond, none."""
    machine = hostile.victim.machine
    dice = random.Random(1)
    for _ in range(600):
        kind = dice.choice(["block", "final"])
        vote = hostile.vote(kind, dice.randbytes(32), dice.randrange(1, 1 << 40) if dice.random() < 0.5 else None)
        later = msgspec.structs.replace(vote, epoch=machine.state.epoch + dice.choice([0, 0, 1, 2, 1 << 40]))
        for message in (vote, later):
            hostile.peer.send("p0", ConsensusVote(message))
    for height in range(1, 60):
        hostile.peer.send("p0", ConsensusVote(hostile.vote("block", NAME, height)))
    hostile.world.wait(0.5)
    place = machine.state.voters.index(hostile.me.id)
    kept = sum(place in votes for tally in machine.tallies.values() for votes in tally.votes.values())
    assert kept <= 3 * (AHEAD + 1)
    assert len(machine.tallies) <= AHEAD + 2
    early = hostile.victim.consensus._early
    assert sum(map(len, early.values())) <= 8


def test_pulls_are_refused_where_they_are_too_many(hostile):
    for _ in range(150):
        hostile.peer.send("p0", ConsensusPull(0, 0, 1, ()))
    hostile.world.wait(0.5)
    refused = [what for at, who, what in hostile.world.dropped if (at, who) == ("p0", "p3")]
    assert "a peer asks for the shared chain too often" in refused
    assert len(refused) < 60


def test_answers_to_pulls_that_are_lies(hostile):
    """A liar that claims to be ahead is asked, refused, and not asked for ever."""
    world, asked = hostile.world, []
    block = SharedBlock.make(hostile.me, genesis=GENESIS, epoch=0, height=1, parent_height=0, parent=world.charter.id)
    forged = Batch((FullSharedBlock(block, ()),), Finality((), Certificate(0, 1, "final", block.id, ((0, bytes(64)),))))

    def answer(sender, pull):
        asked.append(sender)
        return ConsensusNews(1 << 40, 1 << 40, forged if len(asked) % 2 else None, (), ())

    hostile.peer.handle(ConsensusPull, answer)
    for _ in range(20):
        hostile.peer.send("p0", ConsensusAhead(1 << 40, 1 << 40))
        world.wait(0.3)
    assert 1 <= len(asked) <= 24
    assert any(who == "p3" for at, who, _ in world.dropped if at == "p0")
    assert hostile.victim.machine.state.epoch == 0


def test_an_old_vote_gets_a_hint_and_no_more_than_one_in_a_while(hostile):
    world, hints = hostile.world, []
    hostile.peer.handle(ConsensusAhead, lambda sender, hint: hints.append((sender, hint)))
    for node in world.nodes.values():
        node.app.resting = False
    world.until(lambda: hostile.victim.machine.height >= 3, 100)
    for node in world.nodes.values():
        node.app.resting = True
    old = hostile.vote("dummy", bytes(32), 1)
    for _ in range(30):
        hostile.peer.send("p0", ConsensusVote(old))
    world.wait(0.4)
    assert len([hint for sender, hint in hints if sender == "p0"]) == 1
    assert hints[0][1].height >= 3
