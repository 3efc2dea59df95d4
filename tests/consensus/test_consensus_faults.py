"""What may go wrong among voters, one fault a test, in virtual time. Random mixtures are in test_consensus_chaos."""

import asyncio
import logging

import pytest
from consensus_liars import DoubleVoter, Picky, SilentLeader, Splitter
from consensus_world import DELAY, App, World

from coterie.errors import LedgerError, OutputError
from coterie.ledger import StoreError
from coterie.ledger.shared import QuorumRule, Vote
from coterie.protocols.consensus import Consensus, log
from coterie.protocols.consensus.messages import ConsensusProposal, ConsensusVote


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


def test_blocks_become_final_in_two_delays_each(worlds):
    world = worlds([1] * 4, latency_ms=100.0, jitter=0.0).begin()
    world.until(lambda: world.progress() >= 20, 60)
    assert world.loop.time() <= 20 * 0.2 + 5 * 0.1 + 1.5
    assert world.dropped == []
    assert {epoch for epoch, _, _ in world.nodes["p0"].chain} == {0, 1, 2, 3, 4}


def test_one_voter_alone(worlds):
    world = worlds([1]).begin()
    world.pace = 0.1
    world.until(lambda: world.progress() >= 9, 60)


@pytest.mark.parametrize("kind", [None, SilentLeader, Splitter, DoubleVoter, Picky])
def test_just_under_a_third_cannot_stop_or_split_the_chain(worlds, kind):
    world = worlds([3, 3, 3, 4], seed=3, kinds={"p3": kind} if kind else {"p2": None}).begin()
    world.until(lambda: world.progress() >= 12, 300)
    world.check_prefixes()


def test_split_equivocation_is_accused_recorded_and_slashed(worlds):
    """One block to one half, another to the other: no fork, and two epochs later the liar has no vote."""
    world = worlds([1] * 4, seed=2, kinds={"p1": Splitter}, closing=3).begin()
    liar = world.keys["p1"]
    world.until(lambda: all(liar not in node.machine.state.voters for node in world.honest), 300)
    state = world.nodes["p0"].machine.state
    assert {entry.key: entry.weight for entry in state.locked} == {liar: 0}
    # It may lie again while it still has its vote: whoever has seen that records it too, and then forgets it.
    world.until(lambda: all(node.consensus.evidence == {} for node in world.honest), 300)
    world.check_prefixes()


def test_a_block_vote_and_a_dummy_vote_are_not_slashed(worlds):
    """Slow messages: voters vote for blocks after their timers have fired. Everybody keeps its vote."""
    world = worlds([1] * 4, seed=1, latency_ms=1200.0, jitter=1.0).begin()
    cast = {(name, kind): set() for name in world.names for kind in ("block", "dummy", "final")}
    for name, node in world.nodes.items():
        tell = node.consensus._tell

        def listen(what, to, name=name, tell=tell):
            if isinstance(what, Vote):
                cast[name, what.kind].add((what.epoch, what.height))
            tell(what, to)

        node.consensus._tell = listen
    world.until(lambda: world.progress() >= 4, 900)
    assert any(cast[name, "block"] & cast[name, "dummy"] for name in world.names)
    assert not any(cast[name, "final"] & cast[name, "dummy"] for name in world.names)
    assert all(len(node.machine.state.voters) == 4 for node in world.honest)
    assert all(node.consensus.evidence == {} for node in world.honest)


def test_a_third_silent_stops_the_chain_and_it_says_who(worlds, caplog):
    caplog.set_level(logging.WARNING, "coterie.consensus")
    world = worlds([1] * 3, seed=1, kinds={"p2": None}).begin()
    world.wait(120)
    assert world.progress() == 0
    node = world.nodes["p0"]
    assert node.peer.waits_for() == "a quorum of voters at 0.1: 2 of 3 of the weight is heard; silent: p2"
    said = [record.getMessage() for record in caplog.records]
    assert "consensus waits for a quorum of voters at 0.1: 2 of 3 of the weight is heard; silent: p2" in said
    assert len(said) < 20
    late = world.add("p2")
    late.start()
    world.liars = []
    world.until(lambda: world.progress() >= 3, 120)


def test_two_against_two(worlds):
    """Neither half has a quorum: nothing becomes final; after healing all is as if nothing had been."""
    world = worlds([1] * 4, partitions=[{"at": 3.0, "seconds": 60.0, "groups": [[0, 1]]}]).begin()
    world.wait(4.0)
    before = max(len(node.chain) for node in world.honest)
    world.wait(58.0)
    assert max(len(node.chain) for node in world.honest) == before > 3
    for node, gone in (("p0", {"p2", "p3"}), ("p3", {"p0", "p1"})):  # though all were heard at this height before
        said = world.nodes[node].peer.waits_for()
        assert {name for name in world.names if name in said.partition("silent: ")[2]} == gone
    world.until(lambda: world.progress() >= before + 5, 60)
    world.check_prefixes()


def test_a_minority_waits_and_catches_up(worlds):
    world = worlds([1] * 7, partitions=[{"at": 2.0, "seconds": 40.0, "groups": [[0, 1]]}]).begin()
    world.wait(41.0)
    ahead = len(world.nodes["p6"].chain)
    assert len(world.nodes["p0"].chain) < 12 < 20 < ahead
    world.until(lambda: world.progress() >= ahead + 5, 60)
    assert world.dropped == []


def test_the_closing_block_is_notarised_and_not_final(worlds):
    """No FINAL vote for it arrives: a tail follows, makes it final, and is dropped; everybody's next epoch is one."""

    class Forgetful(Consensus):
        def _tell(self, what, to) -> None:
            kept = self.machine.tallies.get(getattr(what, "height", 0))
            full = kept.blocks.get(what.hash) if kept and getattr(what, "kind", "") == "final" else None
            if full is None or not full.block.closes:
                super()._tell(what, to)

    world = worlds([1] * 4, closing=2)
    tails = []
    for node in world.nodes.values():
        node.kind = Forgetful
    world.begin()
    for node in world.nodes.values():
        add = node.ledger.add
        node.ledger.add = lambda blocks, finality, add=add: (
            tails.append(len(finality.headers)),
            add(blocks, finality),
        )[1]
    world.until(lambda: world.progress() >= 6, 200)
    assert max(tails) >= 1
    chain = world.nodes["p0"].chain
    assert [(epoch, height) for epoch, height, _ in chain if height > 2] == []  # no tail block is in a chain
    assert [epoch for epoch, _, _ in chain[:6]] == [0, 0, 1, 1, 2, 2]


def test_nothing_is_asked_for_while_the_application_rests(worlds):
    world = worlds([1] * 4, closing=50).begin()
    world.until(lambda: world.progress() >= 3, 30)
    for node in world.nodes.values():
        node.app.resting = True
    world.wait(20.0)
    before, frames = world.progress(), world.network.frames_sent
    world.wait(600.0)
    assert world.network.frames_sent - frames < 50
    assert world.progress() == before
    for node in world.nodes.values():
        node.app.resting = False
    world.until(lambda: world.progress() >= before + 3, 30)
    assert max(height for _, height, _ in world.nodes["p0"].chain) < before + 8  # no dummies went by


# Crashes


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("number", range(2, 9))
def test_a_crash_around_any_write_of_the_log(worlds, moment, number):
    """Whatever it had said before it died, it does not contradict afterwards."""
    world = worlds([1] * 4, seed=number, closing=3)
    victim = world.nodes["p1"]
    victim.disk.bomb = lambda when, count: victim.kill_now() if (when, count) == (moment, number) else None
    world.begin()
    world.until(lambda: not victim.alive, 60)
    world.wait(DELAY)
    victim.start()
    before = world.progress()
    world.until(lambda: world.progress() >= before + 8, 200)
    assert all(node.consensus.evidence == {} for node in world.honest)
    assert len(victim.machine.state.voters) == 4


def test_everybody_dies_at_once_again_and_again(worlds):
    world = worlds([1] * 4, seed=5).begin()
    for turn in range(10):
        world.wait(1.0 + turn / 7)
        nodes = world.up
        for node in nodes:
            node.die()
        world.wait(0.5)
        for node in nodes:
            node.start()
    before = world.progress()
    world.until(lambda: world.progress() >= before + 4, 100)
    assert all(node.consensus.evidence == {} for node in world.honest)


def test_a_restarted_voter_says_the_same_again(worlds):
    """The leader dies after it has logged its proposal: it proposes that one again."""
    world = worlds([1] * 4, seed=1)
    leader = world.peer_of(world.charter.checkpoint.leader(1))
    victim = world.nodes[leader]
    victim.disk.bomb = lambda when, count: victim.kill_now() if (when, count) == ("after", 2) else None
    world.begin()
    world.until(lambda: not victim.alive, 10)
    logged = log.read(victim.disk, world.charter.genesis).entries[0]
    victim.disk.bomb = lambda when, count: None
    victim.start()
    world.until(lambda: world.progress() >= 1, 30)
    assert victim.chain[0][2] == logged.own


def forget(node) -> None:
    """Its disk is new; its key is the old one."""
    node.die()
    node.disk.values = {}
    node.ledger = type(node.ledger)(node.world.charter, node.world.known)


def test_a_lost_log_means_silence_until_an_epoch_that_it_cannot_have_voted_in(worlds):
    """Forgetting is caught: until then not one vote leaves it, and none of its votes contradicts another."""
    world = worlds([1] * 4, seed=4, closing=3, pace=0.5).begin()
    victim = world.nodes["p2"]
    world.until(lambda: world.progress() >= 4, 60)
    lost_in = max(node.machine.state.epoch for node in world.honest)
    forget(victim)
    said = []
    victim.start()
    tell = victim.consensus._tell
    victim.consensus._tell = lambda what, to: (said.append(what), tell(what, to))
    world.until(lambda: victim.machine.votes, 200)
    first = victim.machine.state.epoch
    assert first >= lost_in + 2
    assert all(what.epoch >= first for what in said if isinstance(what, Vote))
    before = world.progress()
    world.until(lambda: world.progress() >= before + 3, 60)
    assert all(node.consensus.evidence == {} for node in world.honest)


class Amnesiac(Consensus):
    """Takes a lost log for a new one: what ``create`` must never be used for."""

    def __init__(self, peer, ledger, application, **how) -> None:
        log.create(peer.store, ledger.chain.state.genesis)
        super().__init__(peer, ledger, application, **how)


def test_who_votes_without_its_log_contradicts_itself(worlds):
    """The rule is needed: the same crash with the rule broken is seen by everybody as a liar's deed."""
    world = worlds([1] * 4, seed=1, closing=50)
    leader = world.peer_of(world.charter.checkpoint.leader(1))
    victim = world.nodes[leader]
    world.begin()
    world.wait(0.11)  # its proposal has arrived, and is not notarised yet
    forget(victim)
    victim.kind = Amnesiac
    world.pace = 0.01
    victim.start()
    world.until(lambda: any(victim.identity.id in node.consensus.evidence for node in world.honest), 60)


@pytest.mark.parametrize("seed", range(6))
def test_a_ledger_that_was_mended_and_ends_earlier(worlds, seed):
    """Its log is sound: it says nothing at heights that it has forgotten, comes back to the others, and votes again."""
    world = worlds([1] * 4, seed=seed, closing=4 + 20 * (seed % 2), pace=0.1).begin()
    victim = world.nodes["p2"]
    world.until(lambda: victim.machine.final >= 3, 60)
    victim.die()
    victim.ledger = type(victim.ledger)(world.charter, world.known)
    victim.start()
    before = world.progress()
    world.until(lambda: world.progress() >= before + 9 and victim.machine.votes, 100)
    assert all(node.consensus.evidence == {} for node in world.honest)
    assert len(victim.machine.state.voters) == 4


def test_a_ledger_that_was_mended_and_ends_before_the_logs_epoch(worlds):
    """It votes in no epoch that the log has forgotten."""
    world = worlds([1] * 4, seed=1, closing=2, pace=0.1).begin()
    victim = world.nodes["p2"]
    world.until(lambda: victim.machine.state.epoch >= 2, 60)
    victim.die()
    victim.ledger = type(victim.ledger)(world.charter, world.known)
    victim.start()
    assert log.read(victim.disk, world.charter.genesis).epoch >= 1
    assert not victim.machine.votes
    world.until(lambda: victim.machine.votes, 100)
    before = world.progress()
    world.until(lambda: world.progress() >= before + 3, 60)
    assert all(node.consensus.evidence == {} for node in world.honest)


def test_a_disk_that_is_full_silences_the_voter_and_the_others_go_on(worlds, caplog):
    world = worlds([1] * 4, seed=2, closing=4).begin()
    victim = world.nodes["p3"]
    world.until(lambda: world.progress() >= 3, 60)

    def full(when, count):
        raise OutputError("no room", where="the disk")

    said, send = [], victim.peer.send_all
    victim.peer.send_all = lambda whom, message: (said.append(message), send(whom, message))
    victim.disk.bomb = full
    world.until(lambda: not victim.machine.votes, 30)
    assert "abstains" in caplog.text
    before = world.progress()
    world.until(lambda: world.progress() >= before + 2, 60)
    assert not [message for message in said if isinstance(message, ConsensusVote | ConsensusProposal)]
    victim.disk.bomb = lambda when, count: None
    world.until(lambda: victim.machine.votes, 60)  # the next epoch
    world.until(lambda: world.progress() >= before + 12, 60)
    assert all(node.consensus.evidence == {} for node in world.honest)


def test_a_ledger_that_cannot_be_written_ends_the_run_and_blames_nobody(worlds):
    world = worlds([1] * 4, seed=2).begin()
    victim = world.nodes["p3"]
    world.until(lambda: world.progress() >= 3, 60)

    def add(blocks, finality):
        raise LedgerError("no room")

    victim.ledger.add = add
    with pytest.raises(LedgerError, match="no room"):
        world.until(lambda: False, 30)
    victim.die()
    world.loop.run_until_complete(asyncio.sleep(1))
    assert not any(at == "p3" for at, _, _ in world.dropped)
    victim.task = None
    before = world.progress()
    world.until(lambda: world.progress() >= before + 3, 60)


def test_a_ledger_that_cannot_keep_what_was_pulled_ends_the_run_and_blames_nobody(worlds):
    world = worlds([1] * 4, seed=2).begin()
    victim = world.nodes["p3"]
    victim.die()
    world.until(lambda: world.progress() >= 6, 60)

    def write(rows, state):
        raise StoreError("no room")

    victim.ledger._write = write
    victim.start()
    with pytest.raises(LedgerError, match="no room"):
        world.until(lambda: False, 30)
    assert not any(at == "p3" for at, _, _ in world.dropped)
    victim.die()
    victim.task = None


def test_what_the_application_raises_ends_the_run(worlds):
    world = worlds([1] * 4, seed=2)

    class Failing(App):
        def final(self, block, records):
            if self.node.name == "p2" and len(self.chain) == 2:
                raise RuntimeError("the application's own")
            super().final(block, records)

    world.application = Failing
    world.begin()
    with pytest.raises(RuntimeError, match="the application's own"):
        world.until(lambda: False, 30)
    world.nodes["p2"].die()
    world.nodes["p2"].task = None


# What the application releases


class Releasing(App):
    """Three phases, C, B and L; what a phase releases may be released once only, whatever goes wrong."""

    @property
    def stands(self):
        return self.node.disk.values.get("stands", (0, 0))

    def final(self, block, records):
        assert (block.epoch, block.height) > self.stands, "told twice, or out of order"
        phase = sum(epoch == block.epoch for epoch, _, _ in self.released_here())
        self.node.world.releases.append((self.node.name, block.epoch, phase))
        self.node.disk.values.setdefault("releases", []).append((block.epoch, block.height, block.id))
        self.node.disk.values["stands"] = (block.epoch, block.height)
        self.chain = list(self.released_here())

    def released_here(self):
        return self.node.disk.values.get("releases", [])

    def _in_epoch(self, view) -> int:
        return sum(epoch == view.epoch for epoch, _, _ in self.released_here()) + len(view.ancestors)


def test_challenge_list_and_sum_are_released_once_across_dummies_and_crashes(worlds):
    world = worlds([1] * 4, seed=6, closing=3, kinds={"p3": SilentLeader}, loss=0.05)
    world.application, world.releases = Releasing, []
    world.begin()
    for turn in range(6):
        world.wait(5.0)
        victim = world.nodes[f"p{turn % 3}"]
        victim.die()
        world.wait(1.0)
        victim.start()
    world.until(lambda: min(len(node.disk.values.get("releases", [])) for node in world.honest) >= 9, 200)
    assert len(world.releases) == len(set(world.releases))
    for node in world.honest:
        epochs = [epoch for epoch, _, _ in node.disk.values["releases"][:9]]
        assert epochs == [0, 0, 0, 1, 1, 1, 2, 2, 2]  # C, B, L: three final blocks a round
        node.app.chain = node.disk.values["releases"]


# Crash-only


def test_crash_only_goes_on_with_a_bare_majority(worlds):
    """Rule 18: three of five are enough where nobody lies; with two of them nothing happens."""
    world = worlds([1] * 5, seed=1, kinds={"p3": None, "p4": None}, rule=QuorumRule("majority", 2)).begin()
    world.until(lambda: world.progress() >= 8, 200)
    world.nodes["p2"].die()
    world.wait(2.0)
    before = world.progress()
    world.wait(60.0)
    assert world.progress() == before


def test_crash_only_a_minority_never_goes_on_alone(worlds):
    world = worlds(
        [1] * 5, rule=QuorumRule("majority"), partitions=[{"at": 2.0, "seconds": 40.0, "groups": [[0, 1]]}]
    ).begin()
    world.wait(40.0)
    small, large = len(world.nodes["p0"].chain), len(world.nodes["p4"].chain)
    assert small < 12 < large
    world.until(lambda: world.progress() >= large + 3, 60)
