"""Ways in which a lying member, or bad luck with disks, once hurt an honest peer. Each test is one of them."""

import asyncio
import contextlib

import msgspec
import pytest
from consensus_world import GENESIS, App, World, identity
from simplex_bench import Bench, bench_led_by_others

from coterie.errors import LedgerError, OutputError
from coterie.identity.vrf import VrfKey
from coterie.ledger.blocks import MOST_RECORDS, MOST_RECORDS_BYTES
from coterie.ledger.records import Record
from coterie.ledger.shared import (
    Accusation,
    Certificate,
    CheckedBlock,
    Evidence,
    FullSharedBlock,
    NewKey,
    Proposal,
    Vote,
)
from coterie.ledger.shared.changes import read, record
from coterie.ledger.shared.votes import NO_BLOCK
from coterie.protocols.consensus import Consensus, View, log, simplex, steps
from coterie.protocols.consensus.drafting import accusations
from coterie.protocols.consensus.messages import ConsensusAhead, ConsensusNews, ConsensusPull

NAMES = ["p0", "p1", "p2", "p3"]


@pytest.fixture
def worlds():
    made = []

    def make(*args, **how):
        made.append(World(*args, **how))
        return made[-1]

    yield make
    for world in made:
        world.end()


def test_a_vote_that_is_not_in_the_log_leaves_in_no_certificate_either(worlds):
    """The disk is full: the vote was cast in memory and completes a quorum there. Nobody else may see it, since after
    a restart the voter does not know of it and may contradict it."""
    world = worlds([1] * 4, seed=2, closing=50)
    victim = min(world.nodes.values(), key=lambda node: node.identity.id)  # certificates take the first places first
    world.begin()
    world.until(lambda: world.progress() >= 3, 60)

    def full(when, count):
        raise OutputError("no room", where="the disk")

    sent: list[Certificate] = []
    send, answer = victim.peer.send_all, victim.peer._handlers[ConsensusPull]

    def sending(whom, message):
        what = getattr(message, "certificate", None)
        sent.extend([what] if what and whom else [])
        send(whom, message)

    def answering(sender, pull):
        news = answer(sender, pull)
        sent.extend(news.certificates)
        return news

    victim.peer.send_all = sending
    victim.peer.handle(ConsensusPull, answering)
    other = next(node for node in world.nodes.values() if node is not victim)
    victim.disk.bomb = full
    world.until(lambda: not victim.machine.votes, 30)
    here = victim.machine
    answering(other.name, ConsensusPull(here.state.epoch, here.final, here.final + 1, ()))
    other.die()  # the rest is no quorum without the victim, and asks it
    world.wait(60)
    logged = {(entry.height, vote.kind) for entry in log.read(victim.disk, GENESIS).entries for vote in entry.votes}
    place = victim.machine.place
    final = victim.machine.final
    own = [c for c in sent if place in dict(c.votes) and c.height > final]
    assert [c.where for c in own if (c.height, c.kind) not in logged] == []


def test_a_log_that_has_forgotten_what_became_final_is_not_lost():
    """The ledger was mended and ends at 0; the log goes on after 2. Certificates of 1 and 2 bear votes that it need not
    know: the voter does not abstain."""
    bench = bench_led_by_others([1] * 4, (1, 2, 3))
    machine = bench.fresh()
    log.restore(machine, log.Log(GENESIS, 0, 0, 2, ()))
    machine.start()
    assert machine.height == 3  # there nothing has been said
    bench.machine = machine
    did = bench.step(steps.Certified(bench.certificate(NAMES[:3], "final", 2, b"2" * 32)))
    assert bench.of(steps.Forgot, did) == []
    assert machine.votes
    did = bench.step(steps.Certified(bench.certificate(NAMES[:3], "block", 3, b"3" * 32)))
    assert bench.of(steps.Forgot, did) == [steps.Forgot()]  # this one it should know


def test_a_vote_that_the_log_does_not_have_silences_for_two_epochs_over_restarts_too(worlds):
    """The log was put back from a back-up. What else it does not have may be of the next epoch."""
    world = worlds([1] * 4, seed=1, closing=50).begin()
    world.until(lambda: world.progress() >= 1, 60)
    victim = world.nodes["p0"]
    state, height = victim.machine.state, victim.machine.height + 1
    votes = [Vote.make(identity(name), GENESIS, state.epoch, height, "dummy") for name in NAMES[:3]]
    shown = steps.Certified(Certificate.of(votes, state.voters, state.rule))
    world.loop.call_soon(lambda: victim.consensus.step(shown))
    world.wait(0)
    assert not victim.machine.votes
    victim.die()
    victim.start()
    assert not victim.machine.votes
    assert log.read(victim.disk, GENESIS).start == state.epoch + 2


def test_who_lost_its_log_is_no_witness_of_how_far_it_was(worlds):
    """Epoch 4 of four voters, closed by p0, p1 and p2; p2 loses its disk, p3 was cut off in epoch 0, p1 lies. A quorum
    that p2 itself belongs to would consist of p1, p2 and p3, and believe that nothing came after epoch 0."""
    world = worlds([1] * 4, seed=3, closing=2, pace=0.2).begin()
    world.until(lambda: world.progress() >= 2, 60)
    victim = world.nodes["p2"]
    victim.die()
    victim.disk.values = {}
    victim.start()
    here = victim.machine.state.epoch
    for liar_or_late in ("p1", "p3"):
        victim.consensus.answered(liar_or_late, here)
    assert victim.consensus.unheard() == ["p0"]
    victim.consensus.answered("p0", here + 1)  # so there are later epochs, in which it may have voted
    assert victim.consensus._start is None
    victim.consensus.answered("p0", here)
    assert victim.consensus._start == here + 2


def test_who_slept_while_all_voters_were_replaced_catches_up(worlds):
    """The voters it knows of are gone; there are members that it does not know for voters."""
    world = worlds([1] * 4, seed=3, closing=2, pace=0.1).begin()
    heirs = []
    for name in NAMES:
        heir = world.add(f"heir {name}")
        world.names.append(heir.name)
        heir.start()
        heirs.append(heir)
        change = NewKey.make(
            heir.identity, GENESIS, world.keys[name], VrfKey.of(heir.identity, GENESIS).public, until=50
        )
        for node in world.up:
            node.app.extra = [*node.app.extra, record(identity(name), change, time=0)]
    old = [world.nodes[name] for name in NAMES]
    world.until(lambda: all(heir.machine.place is not None for heir in heirs), 120)
    for node in old:
        node.die()
        world.liars.append(node.name)
    before = world.progress()
    world.until(lambda: world.progress() >= before + 3, 60)
    late = world.add("late", new=False)
    world.names.append("late")
    late.start()
    world.until(lambda: len(late.chain) >= before, 200)


def contradiction(name, height=1) -> Evidence:
    who = identity(name)
    one = Vote.make(who, GENESIS, 0, height, "final", b"1" * 32)
    return Evidence.of(one, Vote.make(who, GENESIS, 0, height, "dummy"))


@pytest.mark.parametrize("short", [0, 1, 2])
def test_evidence_does_not_make_a_full_block_too_long(short):
    """A member that contradicts itself must not stop leaders whose payload fills their block."""
    bench = Bench([1] * 4)
    evidence = {identity(name).id: contradiction(name) for name in ("p1", "p2")}
    view = View(bench.state, 1, ())
    note = Record.make(identity("p0"), "note", {}, time=0)
    for beside in ([note] * (MOST_RECORDS - short),):
        shown = accusations(identity("p0"), view, evidence, 0, beside)
        assert len(shown) == short
    each = len(record(identity("p0"), Accusation(evidence=contradiction("p1").encode()), 0).encode())
    fill = Record.make(identity("p0"), "note", {"fill": bytes(60_000)}, time=0)
    beside = [fill] * (MOST_RECORDS_BYTES // len(fill.encode()))
    room = MOST_RECORDS_BYTES - sum(len(item.encode()) for item in beside)
    spare = room - short * each - each // 2
    beside.append(Record.make(identity("p0"), "note", {"fill": bytes(spare - 300)}, time=0))
    shown = accusations(identity("p0"), view, evidence, 0, beside)
    assert sum(len(item.encode()) for item in [*beside, *shown]) <= MOST_RECORDS_BYTES
    assert len(shown) == min(short, 2) or short == 0
    assert all(read(item, GENESIS) for item in shown)


def test_evidence_is_recorded_once_and_while_it_counts():
    bench, evidence = Bench([1] * 4), {identity("p1").id: contradiction("p1")}
    lock = bench.state.lock_epochs
    for epoch, number in ((0, 1), (lock, 1), (lock + 1, 0)):
        view = View(msgspec.structs.replace(bench.state, epoch=epoch), 1, ())
        assert len(accusations(identity("p0"), view, evidence, 0)) == number
    (shown,) = accusations(identity("p0"), View(bench.state, 1, ()), evidence, 0)
    before = CheckedBlock(bench.block(1).block, (shown,), (read(shown, GENESIS),), b"")
    assert accusations(identity("p0"), View(bench.state, 2, (before,)), evidence, 0) == []


def test_a_leader_with_a_full_payload_and_a_liar_goes_on(worlds):
    """The same, in a federation."""

    class Full(App):
        async def payload(self, view):
            found = await super().payload(view)
            if view.height == 1:
                more = [Record.make(self.node.identity, "note", {"n": n}, time=0) for n in range(MOST_RECORDS - 1)]
                return type(found)([*found.records, *more], found.closes)
            return found

    world = worlds([1] * 4, seed=1)
    world.application = Full
    world.begin()
    for node in world.nodes.values():
        node.consensus.evidence[identity("p3").id] = contradiction("p3")
    world.until(lambda: world.progress() >= 2, 60)
    kinds = [item.kind for full in world.up[0].ledger.blocks(0, 0).blocks for item in full.read_records()]
    assert kinds.count("evidence") >= 1


def test_a_proposal_without_good_certificates_costs_no_check_of_its_records(monkeypatch):
    """Any member leads somewhere ahead, and could otherwise send a block of a thousand records as often as it likes."""
    bench = bench_led_by_others([1] * 4, range(1, 4))
    looked = []
    checked = simplex.check_block
    monkeypatch.setattr(simplex, "check_block", lambda *what: (looked.append(what), checked(*what))[1])
    block = bench.block(3)
    forged = [
        Certificate(0, height, "dummy", NO_BLOCK, ((0, bytes(64)), (1, bytes(64)), (2, bytes(64)))) for height in (1, 2)
    ]
    with pytest.raises(LedgerError, match="not signed"):
        bench.propose(block, None, forged)
    assert looked == []
    good = [bench.certificate(NAMES[1:], "dummy", height) for height in (1, 2)]
    bench.propose(block, None, good)
    assert len(looked) >= 1


def test_what_the_application_raises_of_blocks_that_were_pulled_ends_the_run_too(worlds):
    """Even where it looks like the sender's fault: the block is in the ledger, and lost to the application."""
    world = worlds([1] * 4, seed=1, pace=0.3)

    class Failing(App):
        def final(self, block, records):
            if self.node.name == "observer" and len(self.chain) == 2:
                raise LedgerError("the application's own")
            super().final(block, records)

    world.application = Failing
    world.begin()
    observer = world.add("observer", new=False)
    observer.start()
    with pytest.raises(LedgerError, match="the application's own"):
        world.until(lambda: False, 60)
    observer.die()
    observer.task = None


def test_a_dummy_certificate_is_asked_for_where_only_a_block_certificate_is_known():
    """Both may exist at one height. The proposal bears the last sixteen dummies; the one before must be asked for."""
    heights = range(1, 19)
    bench = bench_led_by_others([1] * 4, [1])
    bench.propose(bench.block(1))
    bench.votes(NAMES[1:3], "block", 1, bench.block(1).block.id)
    assert bench.machine.height == 2
    dummies = [bench.certificate(NAMES[1:], "dummy", height) for height in heights]
    for dummy in dummies[1:-1]:
        bench.step(steps.Certified(dummy))
    assert bench.machine.height == 18
    full = bench.block(18)
    bench.propose(full, None, dummies[1:17])
    assert bench.of(steps.Judge) == []
    assert bench.machine.gap() == 1
    bench.step(steps.Certified(dummies[0]))
    assert len(bench.of(steps.Judge)) == 1
    assert bench.machine.gap() == 18


def test_a_leader_is_not_listened_to_for_ever(monkeypatch):
    """Blocks that are signed and no good can be made without end; each takes as long to check as a good one."""
    bench = bench_led_by_others([1] * 4)
    looked = []
    checked = simplex.check_block
    monkeypatch.setattr(simplex, "check_block", lambda *what: (looked.append(what), checked(*what))[1])
    for time in range(5):
        full = bench.block(1, time=time)
        with contextlib.suppress(LedgerError):
            bench.propose(FullSharedBlock(full.block, (b"x",)))
    assert len(looked) == 2
    other = bench_led_by_others([1] * 4)
    for time in range(5):  # good ones, of which the second shows what the leader is
        other.propose(other.block(1, time=time))
    assert len({full.block.id for _, full, _ in looked[2:]}) == 2


def test_an_application_that_speaks_of_another_epochs_block_is_not_heard():
    """Heights begin anew in each epoch; what outlives its own must not become a vote for what is not here."""
    bench = bench_led_by_others([1] * 4)
    bench.step(steps.Proposed(Proposal(bench.block(1), None, ())))
    assert bench.told(did=bench.step(steps.Judged(1, b"7" * 32))) == []
    assert [vote.kind for vote in bench.told(did=bench.step(steps.Judged(1, bench.block(1).block.id)))] == ["block"]


class Boaster(Consensus):
    """Says again and again that it is far ahead, and answers nothing, or a block at a time as late as it may."""

    drips = False

    def boast(self) -> None:
        for peer in [*self.others(), "late"]:
            self.peer.send(peer, ConsensusAhead(1 << 40, 1))

    async def answer(self, sender, pull):
        if not self.drips:
            return None
        await asyncio.sleep(3.5)
        history = self.ledger.blocks(pull.epoch, pull.final, 1)
        return ConsensusNews(1 << 40, 1, history, (), ())

    async def run(self) -> None:
        self.peer.handle(ConsensusPull, self.answer)
        boasts = asyncio.ensure_future(self._boast_on())
        try:
            await super().run()
        finally:
            boasts.cancel()

    async def _boast_on(self) -> None:
        while True:
            self.boast()
            await asyncio.sleep(0.2)


class Dripper(Boaster):
    drips = True


@pytest.mark.parametrize("kind", [Boaster, Dripper])
def test_a_member_that_boasts_does_not_keep_others_from_catching_up(worlds, kind):
    """One that follows hears from nobody else. A question in vain costs 4 D, and an answer brings one epoch."""
    world = worlds([1] * 4, seed=1, closing=3, kinds={"p3": kind}).begin()
    world.wait(90)
    before = world.progress()
    assert before > 50
    late = world.add("late", new=False)
    late.start()
    world.until(lambda: len(late.chain) >= before, 150)


def test_who_was_cut_off_while_all_rest_hears_of_what_has_become_final(worlds):
    """Nobody has anything to say when the network heals, and the application may wait for the very block it lacks."""
    world = worlds([1] * 4, seed=1, partitions=[{"at": 0.0, "seconds": 30.0, "groups": [[3]]}]).begin()
    world.nodes["p3"].app.resting = True
    world.wait(10)
    for node in world.nodes.values():
        node.app.resting = True
    world.wait(25)
    final = max(len(node.chain) for node in world.up)
    assert final > 3
    world.until(lambda: len(world.nodes["p3"].chain) >= final, 600)
