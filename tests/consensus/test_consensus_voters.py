"""Who votes when: joins, leaves, new keys and evidence with their delays; who follows; joiners and late comers."""

import pytest
from consensus_liars import Splitter
from consensus_world import GENESIS, World, identity

from coterie.identity.vrf import VrfKey
from coterie.ledger.shared import Join, Leave, NewKey, SharedChain, Signatures
from coterie.ledger.shared.changes import record
from coterie.protocols.consensus import create


@pytest.fixture
def worlds():
    made = []

    def make(*args, **how):
        made.append(World(*args, **how))
        return made[-1]

    yield make
    for world in made:
        world.check_prefixes()
        world.close()


def epoch(world) -> int:
    return min(node.machine.state.epoch for node in world.up)


def bring(world, item) -> int:
    """Let every leader bring in a record until it is there; the epoch that recorded it."""
    for node in world.up:
        node.app.extra = [item]
    world.until(lambda: all(item.id in node.app.told for node in world.up), 60)
    return next(
        epoch
        for epoch, height, _ in world.up[0].chain
        if item.encode() in world.up[0].ledger.block(epoch, height).records
    )


def voters_by_epoch(world, node):
    return {number: node.ledger.checkpoint(number).voters for number in range(node.machine.state.epoch + 1)}


def test_a_joiner_comes_by_a_checkpoint_and_votes_two_epochs_after_its_record(worlds):
    """Rules 15 and 16: it holds nothing before the checkpoint, follows first, and then has a voice."""
    world = worlds([1] * 4, seed=1, closing=3, pace=0.2).begin()
    world.until(lambda: epoch(world) >= 3, 60)
    known = world.nodes["p0"].ledger
    checkpoint = known.checkpoint(2)
    newcomer = world.add("new", start=checkpoint)
    newcomer.start()
    join = Join.make(newcomer.identity, GENESIS, VrfKey.of(newcomer.identity, GENESIS).public, 2, until=50)
    recorded = bring(world, record(identity("p0"), join, time=0))
    key = newcomer.identity.id
    world.until(lambda: key in newcomer.machine.state.voters, 60)
    world.until(lambda: epoch(world) >= recorded + 4, 60)
    for number, voters in voters_by_epoch(world, world.nodes["p1"]).items():
        assert (key in voters) == (number >= recorded + 2)
    assert newcomer.chain[0][0] == 2
    assert newcomer.ledger.checkpoint(1) is None
    assert newcomer.chain == world.nodes["p0"].chain[-len(newcomer.chain) :]
    before = [entry for entry in world.nodes["p0"].chain if entry[0] < 2]
    newcomer.app.chain = before + newcomer.chain  # for the check of prefixes
    assert newcomer.machine.votes


def test_a_leaver_votes_for_two_epochs_more_and_its_stake_stays_locked(worlds):
    world = worlds([1] * 5, seed=2, closing=3).begin()
    gone = world.keys["p4"]
    recorded = bring(world, record(identity("p4"), Leave(genesis=GENESIS, until=50), time=0))
    world.until(lambda: epoch(world) >= recorded + 4, 60)
    for number, voters in voters_by_epoch(world, world.nodes["p0"]).items():
        assert (gone in voters) == (number < recorded + 2)
    (entry,) = [entry for entry in world.nodes["p0"].machine.state.locked if entry.key == gone]
    assert entry.weight == 1
    assert not world.nodes["p4"].machine.votes
    before = world.progress()
    world.until(lambda: world.progress() >= before + 5, 60)  # it still follows
    assert world.nodes["p4"].chain[-1] in world.nodes["p0"].chain


def test_a_seat_goes_to_a_new_key(worlds):
    world = worlds([1] * 4, seed=3, closing=3, pace=0.2).begin()
    heir = world.add("heir")
    heir.start()
    change = NewKey.make(heir.identity, GENESIS, world.keys["p2"], VrfKey.of(heir.identity, GENESIS).public, until=50)
    recorded = bring(world, record(identity("p2"), change, time=0))
    world.until(lambda: epoch(world) >= recorded + 3, 60)
    voters = world.nodes["p0"].machine.state.voters
    assert (heir.identity.id in voters, world.keys["p2"] in voters) == (True, False)
    world.nodes["p2"].die()
    before = world.progress()
    world.until(lambda: world.progress() >= before + 5, 60)
    assert heir.machine.votes


def test_evidence_counts_two_epochs_later(worlds):
    world = worlds([1] * 4, seed=2, kinds={"p1": Splitter}, closing=3).begin()
    liar = world.keys["p1"]
    world.until(lambda: all(liar not in node.machine.state.voters for node in world.honest), 300)
    node = world.honest[0]
    blocks = [node.ledger.block(epoch, height) for epoch, height, _ in node.chain]
    (first, *_) = [full.block.epoch for full in blocks for item in full.read_records() if item.kind == "evidence"]
    for number, voters in voters_by_epoch(world, node).items():
        assert (liar in voters) == (number < first + 2)


def test_everybody_computes_the_same_voters_from_the_records_alone(worlds):
    """As an auditor would, from the charter and the blocks."""
    world = worlds([1] * 4, seed=5, closing=3, kinds={"p1": Splitter}).begin()
    world.until(lambda: epoch(world) >= 4, 120)
    node = world.honest[0]
    chain, known = SharedChain.begin(world.charter.checkpoint), Signatures()
    while chain.state.epoch < 4:
        batch = node.ledger.blocks(chain.state.epoch, chain.height)
        chain, _ = chain.extend(batch.blocks, batch.finality, known)
    assert chain.state == node.ledger.checkpoint(4)


def test_one_that_has_slept_for_many_epochs_catches_up_in_batches(worlds):
    world = worlds([1] * 5, seed=1, closing=5).begin()
    sleeper = world.nodes["p4"]
    world.until(lambda: world.progress() >= 2, 30)
    sleeper.die()
    world.until(lambda: epoch(world) >= 30, 300)
    before = world.progress()
    frames = world.network.frames_sent
    sleeper.start()
    took = world.until(lambda: len(sleeper.chain) >= before, 60)
    assert took < 30
    assert world.network.frames_sent > frames
    assert world.dropped == []


def test_one_that_only_follows_is_asked_for_nothing_and_knows_everything(worlds):
    world = worlds([1] * 4, seed=1, pace=0.3).begin()
    observer = world.add("observer", new=False)
    observer.start()
    world.until(lambda: len(observer.chain) >= 12, 120)
    assert not observer.machine.votes
    assert observer.consensus.evidence == {}


def test_a_new_voter_that_was_founded_later_starts_from_the_charter(worlds):
    """``create`` at the founding is what lets it vote at once."""
    world = worlds([1] * 4, seed=1, kinds={"p3": None}).begin()
    world.until(lambda: world.progress() >= 4, 60)
    late = world.add("p3", new=False)
    create(late.disk, GENESIS)
    late.start()
    world.until(lambda: late.machine.votes and len(late.chain) >= 4, 60)
