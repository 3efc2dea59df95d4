"""Spreading records in simulation: loss, crashes, partitions and hostile members; all honest ones end up agreeing."""

import asyncio
import contextlib
import os
import random
from types import SimpleNamespace

import pytest
from membership_world import START, History, people, person

from coterie.errors import MembershipError, PeerUnreachable
from coterie.ledger import NullLedger, StoreError
from coterie.network import Codec
from coterie.protocols import Peer
from coterie.protocols.membership import Book, Spread, book, sign_leave, spread
from coterie.protocols.membership.spread import (
    MembershipFetch,
    MembershipIds,
    MembershipLog,
    MembershipNews,
    MembershipRecords,
)
from coterie.runtime.simulation.clock import VirtualLoop
from coterie.runtime.simulation.transport import SimulatedNetwork
from coterie.spec import NetworkTable, PartitionFault

CROWD = people("ann", "bob", "cat", "dan", "eve", "fay", "gus", "hal")
ANN = CROWD[0]
EVERY = 5.0


class Node:
    """One member: what its disk holds, and its process, which may die and start again."""

    def __init__(self, world, who) -> None:
        self.world, self.who, self.disk, self.starts, self.task = world, who, [], 0, None
        self.start()

    def start(self) -> None:
        world, self.starts = self.world, self.starts + 1
        self.book = Book(world.lab.genesis, world.now, self.disk.append, list(self.disk))
        self.peer = Peer(
            id=self.who.id,
            members=[],
            neighbours=[],
            learner=None,
            ledger=NullLedger(),
            store=None,
            random=random.Random(f"{world.seed}/{self.who}/{self.starts}"),
            secrets=random.Random(f"secrets/{world.seed}/{self.who}/{self.starts}"),
            clock=world.loop,
            metrics=SimpleNamespace(dropped=lambda sender, error: world.dropped.append((self.who, sender, error.what))),
            transport=world.network.connect(self.who.id, lambda sender, frame: self.peer.receive(sender, frame)),
            codec=world.codec,
        )
        self.spread = Spread(self.peer, self.book, every=EVERY)
        self.task = world.loop.create_task(self.spread.run())

    def die(self) -> None:
        self.world.network.disconnect(self.who.id)
        self.task.cancel()
        self.peer.close()


class World:
    """A federation in virtual time. Everybody in ``names`` has been admitted, and everybody knows it."""

    def __init__(self, names, seed=0, loss=0.0, partitions=(), hostile=(), **rules) -> None:
        self.seed, self.dropped, self.codec, self.dice = seed, [], Codec(), random.Random(seed)
        self.loop = VirtualLoop()
        self.network = SimulatedNetwork(NetworkTable(latency_ms=20.0, jitter=0.5, loss=loss), list(partitions))
        self.network.begin(self.loop, random.Random(f"network/{seed}"))
        self.who = people(*names)
        self.network.name_groups({number: who.id for number, who in enumerate(self.who)})
        self.lab = History(ANN, **rules)
        for newcomer in self.who[1:]:
            self.lab.admit(ANN, newcomer)
        self.faults = []
        self.loop.set_exception_handler(lambda loop, context: self.faults.append(context))
        self.nodes = {who.name: Node(self, who) for who in self.who if who.name not in hostile}
        for node in self.nodes.values():
            for record in self.lab.records:
                node.book.offer(record)

    def now(self) -> int:
        return START + 10_000_000 + int(1000 * self.loop.time())

    def wait(self, seconds) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def until(self, condition, seconds) -> float:
        """Virtual seconds until ``condition`` holds; at most ``seconds``."""
        start = self.loop.time()
        while not condition():
            assert self.loop.time() < start + seconds, self.dropped
            self.wait(0.05)
        return self.loop.time() - start

    def agree(self) -> bool:
        books = [node.book for node in self.nodes.values()]
        return all(set(b.replay.graph.by_id) == set(books[0].replay.graph.by_id) for b in books)

    def stranger(self, who) -> Peer:
        """A peer without a book: what a hostile member runs."""
        peer = Peer(
            id=who.id,
            members=[],
            neighbours=[],
            learner=None,
            ledger=NullLedger(),
            store=None,
            random=random.Random(1),
            secrets=random.Random(2),
            clock=self.loop,
            metrics=SimpleNamespace(dropped=lambda sender, error: None),
            transport=self.network.connect(who.id, lambda sender, frame: peer.receive(sender, frame)),
            codec=self.codec,
        )
        return peer

    def run(self, coroutine):
        return self.loop.run_until_complete(coroutine)

    def close(self) -> None:
        for node in self.nodes.values():
            node.die()
        self.wait(0)
        self.loop.close()
        assert self.faults == []


@pytest.fixture
def world(request):
    made = []

    def make(*arguments, **options):
        made.append(World(*arguments, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def act(world: World, node: Node, dice: random.Random, number: int) -> None:
    """Something that ``node`` has the right to do, as far as it knows."""
    members = [who for who in [*CROWD, *world.who] if node.book.membership.is_member(who.id)]
    kind = dice.choice(["admit", "admit", "renew", "leave"] if node.who is not ANN else ["admit", "expel", "expel"])
    if kind == "admit":
        guest = person(f"guest-{number}")
        node.book.add(node.book.draft(node.who.identity, world.lab.admission(node.who, guest)))
    elif kind == "renew":
        node.book.renew(node.who.identity, node.who.certificate)
    elif kind == "expel" and len(members) > 5:
        node.book.expel(ANN.identity, dice.choice(members[1:]).id)
    elif kind == "leave" and node.who is not ANN and dice.random() < 0.2:
        node.book.leave(node.who.identity)


def insiders(world: World) -> list[Node]:
    """Those who are in, as far as the founder knows. What only an outsider has, nobody will ask it for."""
    ann = world.nodes["ann"].book.membership
    return [node for node in world.nodes.values() if ann.is_member(node.who.id)]


def same(world: World) -> bool:
    return len({frozenset(node.book.replay.graph.by_id) for node in insiders(world)}) == 1


SOAK = int(os.environ.get("COTERIE_SOAK", "1"))
"""How many times as many seeds as usual."""


@pytest.mark.parametrize("first", range(0, 24 * SOAK, 6))
def test_all_agree_after_loss_crashes_and_a_partition(world, first):
    expelled = crashes = 0
    for seed in range(first, first + 6):
        halves = PartitionFault(at=2.0, seconds=20.0, groups=[[0, 1, 2, 3], [4, 5, 6, 7]])
        made = world([w.name for w in CROWD], seed, loss=0.1, partitions=[halves], admit="any", seats=12)
        dice = random.Random(f"acts/{seed}")
        for number in range(25):
            made.wait(dice.random() * 2)
            node = dice.choice(list(made.nodes.values()))
            if node.task.cancelled() or node.task.done():
                node.start()
            elif dice.random() < 0.15:
                node.die()
                made.wait(0)
                crashes += 1
            elif node.book.membership.is_member(node.who.id):
                with contextlib.suppress(MembershipError):  # such as: no seat is free
                    act(made, node, dice, number)
        for node in made.nodes.values():
            if node.task.done():
                node.start()
        made.until(lambda: same(made), 300)  # noqa: B023 - called at once
        made.wait(100)  # also what only a leaving member had has been found by now
        assert same(made)
        within = insiders(made)
        assert len(within) > 1
        whole = made.lab.replay(reversed(made.nodes["ann"].disk)).membership()
        for node in within:
            mine = node.book.membership
            assert list(mine.members.items()) == list(whole.members.items())
            assert mine.expelled.keys() == whole.expelled.keys()
        expelled += len(whole.expelled)
        assert [what for _, _, what in made.dropped if "no member" not in what] == []
    assert expelled
    assert crashes


def test_news_reaches_everybody_though_some_are_away(world):
    """Without anybody's looks, which come later: a newcomer is refused by who has not heard of it."""
    for seed in range(20):
        made = world([w.name for w in CROWD], seed)
        for name in ("bob", "eve"):
            made.nodes.pop(name).die()
        made.wait(1.0)
        assert made.agree()
        made.nodes["ann"].book.renew(ANN.identity, ANN.certificate)
        made.until(made.agree, 1.0)


def test_news_travels_at_once(world):
    made = world([w.name for w in CROWD])
    made.until(lambda: made.loop.time() > 3 * EVERY, 60)
    made.nodes["ann"].book.expel(ANN.identity, person("hal").id)
    rest = [node for name, node in made.nodes.items() if name != "hal"]
    hal = person("hal").id
    assert made.until(lambda: not any(n.book.membership.is_member(hal) for n in rest), 60) < EVERY


def test_idle_members_talk_little(world):
    made = world([w.name for w in CROWD])
    made.wait(10 * EVERY)
    before = made.network.frames_sent
    made.wait(20 * EVERY)
    looks = len(CROWD) * 20 * 2
    assert made.network.frames_sent - before < 2.5 * looks  # a question and an answer


def test_a_member_without_anything_fetches_all(world):
    made = world(["ann", "bob", "cat"])
    last = made.lab.records[-1]
    for number in range(300):
        last = made.lab.renew(ANN, last, certificate=ANN.certificate, time=last.time + number)
        made.nodes["ann"].book.offer(last)
    cat = made.nodes["cat"]
    cat.die()
    made.wait(0)
    cat.disk = list(made.lab.records[:2])
    cat.start()
    made.until(made.agree, 60)
    assert cat.book.size == 302


def test_a_member_that_lost_its_log_is_read_anew(world):
    made = world(["ann", "bob"])
    ann, bob = made.nodes.values()
    ann.book.renew(ANN.identity, ANN.certificate)
    made.until(made.agree, 60)
    ann.die()
    made.wait(0)
    ann.disk = ann.disk[:1]
    ann.start()
    made.until(made.agree, 60)
    ann.book.renew(ANN.identity, ANN.certificate)
    made.until(made.agree, 60)
    assert bob.book.size == 3
    assert made.dropped == []


# Hostile members


def hostile_world(world, answers):
    """Ann, Bob and a hostile Eve, who answers as told; Ann is to pull from her."""
    made = world(["ann", "bob", "eve"], hostile=["eve"])
    eve = made.stranger(person("eve"))
    for kind, answer in answers(made).items():
        eve.handle(kind, answer)
    return made, eve


def ids(*names, size=None, start=0):
    return lambda sender, asked: MembershipIds(start, len(names) if size is None else size, tuple(names))


def records(*found):
    return lambda sender, asked: MembershipRecords(tuple(found))


def junk(lab):
    """Well signed, by somebody who was never admitted."""
    return lab.renew(person("gus"), lab.records[-1])


def cut(record):
    return record.encode()[:-1]


def answers_of(make):
    """Answers about one unknown record."""

    def answers(made):
        record = make(made.lab)
        return {MembershipLog: ids(record.id), MembershipFetch: records(record.encode())}

    return answers


HOSTILE = {
    "another kind of answer": (lambda made: {MembershipLog: records()}, "not what was asked for"),
    "ids from elsewhere in the log": (lambda made: {MembershipLog: ids(bytes(32), start=7)}, "not what was asked for"),
    "announced and not sent": (
        lambda made: {MembershipLog: ids(bytes(32)), MembershipFetch: records()},
        "did not come",
    ),
    "other records than announced": (
        lambda made: {MembershipLog: ids(bytes(32)), MembershipFetch: records(made.lab.records[0].encode())},
        "did not come",
    ),
    "no record": (lambda made: {MembershipLog: ids(bytes(32)), MembershipFetch: records(b"junk")}, "not a record"),
    "half a record": (
        lambda made: {MembershipLog: ids(bytes(32)), MembershipFetch: records(cut(made.lab.records[0]))},
        "not a record",
    ),
    "ids for records": (
        lambda made: {MembershipLog: ids(bytes(32)), MembershipFetch: ids()},
        "not what was asked for",
    ),
    "a record of a stranger": (answers_of(junk), "had not been admitted"),
    "a malformed record": (
        answers_of(lambda lab: lab.admit(ANN, person("gus"), name="")),
        "its content is wrong",
    ),
    "a record of another federation": (
        answers_of(
            lambda lab: (other := History(person("bob"))).admit(person("bob"), person("gus")) and other.records[0]
        ),
        "does not come",
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_a_hostile_member_answers_is_dropped_and_counted(world, what):
    answers, reason = HOSTILE[what]
    made, eve = hostile_world(world, answers)
    ann = made.nodes["ann"]
    size = ann.book.size
    made.run(ann.spread.pull(eve.id))
    assert ann.book.size == size
    assert {sender for _, sender, _ in made.dropped} == {eve.id}
    assert all(reason in what for _, _, what in made.dropped)
    ann.book.renew(ANN.identity, ANN.certificate)
    made.until(made.agree, 60)


def test_a_member_that_never_answers_or_answers_for_ever_holds_nobody_up(world):
    made, eve = hostile_world(world, lambda made: {})
    asked = []

    async def slow(sender, question):
        asked.append(sender)
        await asyncio.sleep(0.2)
        return MembershipIds(question.start, question.start + 5, (bytes([len(asked) % 256]) * 32,))

    async def trickle(sender, question):
        await asyncio.sleep(0.2)
        return MembershipRecords(())

    eve.handle(MembershipLog, slow)
    eve.handle(MembershipFetch, trickle)
    for number in range(1, 20):
        eve.send(ANN.id, MembershipNews(number, bytes([number]) * 32))
        made.nodes["bob"].book.renew(person("bob").identity, person("bob").certificate)
        assert made.until(made.agree, 60) < EVERY
    assert len(asked) < 25


def test_a_slow_pull_is_given_up_for_others(world, monkeypatch):
    """Eve tells of known records, one by one and without end, each after half a second."""
    monkeypatch.setattr(spread, "MOST_PULLS", 1)
    made, eve = hostile_world(world, lambda made: {})
    known = made.lab.records[0].id

    async def slow(sender, question):
        await asyncio.sleep(0.5)
        return MembershipIds(question.start, 9000, (known,))

    eve.handle(MembershipLog, slow)
    eve.send(ANN.id, MembershipNews(9, bytes(32)))
    made.wait(0.2)
    made.nodes["bob"].book.renew(person("bob").identity, person("bob").certificate)
    assert made.until(made.agree, 100) < 4 * EVERY


def test_a_place_beyond_the_end_is_given_up(world):
    made, eve = hostile_world(world, lambda made: {})
    asked = []

    def shorter(sender, question):
        if sender == ANN.id:
            asked.append(question.start)
        return MembershipIds(0, 0, ())

    eve.handle(MembershipLog, shorter)
    ann = made.nodes["ann"]
    ann.task.cancel()  # it would ask on its own
    ann.spread._places[eve.id] = 5
    made.run(ann.spread.pull(eve.id))
    assert asked == [5, 0]
    assert made.dropped == []


def test_false_news_is_heard_once_an_interval(world):
    made, eve = hostile_world(world, lambda made: {})
    asked = []

    def nothing(sender, question):
        asked.append(made.loop.time())
        return MembershipIds(question.start, question.start, ())

    eve.handle(MembershipLog, nothing)
    for number in range(100):
        eve.send(ANN.id, MembershipNews(1, bytes([number]) * 32))
        made.wait(0.1)
    own_looks = 2 * 2 * 10 / EVERY * 2  # two honest members, each every half interval at most
    assert len(asked) < 10 / EVERY + own_looks + 2


def test_asking_too_often_is_not_answered(world):
    made, eve = hostile_world(world, lambda made: {})

    async def ask(times):
        return [await eve.ask(ANN.id, MembershipLog(0), 1.0) for _ in range(times)]

    flood = 3 * int(spread._BURST)

    async def all_at_once():
        return await asyncio.gather(*(ask(1) for _ in range(flood)), return_exceptions=True)

    answers = made.run(all_at_once())
    answered = [a for a in answers if not isinstance(a, PeerUnreachable)]
    assert spread._BURST - 5 <= len(answered) <= spread._BURST + 20
    assert {what for _, _, what in made.dropped} == {"a member asks for membership records too often"}
    made.wait(2.0)
    assert made.run(ask(1))[0].ids == tuple(record.id for record in made.lab.records)


def test_strangers_and_the_expelled_are_not_answered(world):
    made, eve = hostile_world(world, lambda made: {})
    gus = made.stranger(person("gus"))
    made.nodes["ann"].book.expel(ANN.identity, eve.id)
    made.until(made.agree, 60)
    for peer in (gus, eve):
        for question in (MembershipLog(0), MembershipFetch((made.lab.records[0].id,))):
            with pytest.raises(PeerUnreachable):
                made.run(peer.ask(ANN.id, question, 1.0))
        peer.send(ANN.id, MembershipNews(9, bytes(32)))
    made.wait(1.0)
    assert len(made.dropped) >= 6
    assert {what for _, _, what in made.dropped} == {"one that is no member asked for membership records"}


def test_a_flood_ends_with_the_expulsion_and_all_agree(world, monkeypatch):
    """Eve signs more than her share, to different members differently; the expulsion names what is kept."""
    monkeypatch.setattr(book, "MOST_OF_ONE", 20)
    made, _ = hostile_world(world, lambda made: {})
    last = made.lab.records[-1]
    flood = [
        made.lab.renew(person("eve"), last, certificate=person("eve").certificate, time=last.time + n)
        for n in range(60)
    ]
    ann, bob = made.nodes["ann"], made.nodes["bob"]
    for record in flood[:30]:
        ann.book.offer(record)
    for record in flood[30:]:
        bob.book.offer(record)
    made.wait(6 * EVERY)
    assert ann.book.size == bob.book.size == len(made.lab.records) - 60 + 20
    assert not made.agree()
    ann.book.expel(ANN.identity, person("eve").id)
    made.until(lambda: not bob.book.membership.is_member(person("eve").id), 60)
    assert bob.book.membership.members == ann.book.membership.members
    assert made.dropped == []


def test_a_chain_beyond_ones_share_is_not_fetched_for_its_author(world, monkeypatch):
    monkeypatch.setattr(book, "MOST_OF_ONE", 5)
    eve, chain = person("eve"), []

    def answers(made):
        last = made.lab.records[-1]
        for _ in range(30):
            last = made.lab.renew(eve, last, certificate=eve.certificate)
            chain.append(last)
        by_id = {record.id: record.encode() for record in chain}
        log = tuple(record.id for record in [*chain[:5], chain[-1]])
        return {
            MembershipLog: lambda sender, asked: MembershipIds(asked.start, len(log), log[asked.start :]),
            MembershipFetch: lambda sender, asked: MembershipRecords(tuple(by_id[name] for name in asked.ids)),
        }

    made, _ = hostile_world(world, answers)
    ann = made.nodes["ann"]
    size = ann.book.size
    made.run(ann.spread.pull(eve.id))
    assert ann.book.size == size + 5


def chain_of(made, who, start, count, later) -> list:
    """Records of one author, each following the one before."""
    chain = [start]
    for number in range(count):
        chain.append(
            made.lab.renew(who, chain[-1], certificate=who.certificate, time=start.time + later + number),
        )
    return chain[1:]


def test_two_long_chains_shown_to_different_members_do_not_divide_them(world, monkeypatch):
    """Eve fills her share differently at Ann and at Bob: what each follows, the other had refused, link by link."""
    monkeypatch.setattr(book, "MOST_OF_ONE", 200)
    made, _ = hostile_world(world, lambda made: {})
    eve, last = person("eve"), made.lab.records[-1]
    ann, bob = made.nodes["ann"], made.nodes["bob"]
    for node, later in ((ann, 1), (bob, 1000)):
        for record in chain_of(made, eve, last, 200, later):
            assert node.book.offer(record) == "kept"
    bob.book.renew(bob.who.identity, bob.who.certificate)  # follows what Ann has refused
    made.until(lambda: all(ann.book.has(node.id) for node in bob.book.log(0, bob.book.size)), 60)
    ann.book.expel(ANN.identity, eve.id)
    made.until(lambda: not bob.book.membership.is_member(eve.id), 60)
    assert bob.book.membership.members == ann.book.membership.members
    assert made.dropped == []


def test_full_books_with_different_records_let_an_expulsion_in(world, monkeypatch):
    """Two members fill Ann's book and Bob's with other records: the expulsion follows some that Bob has no room for."""
    monkeypatch.setattr(book, "MOST_OF_ONE", 5)
    monkeypatch.setattr(book, "MOST_RECORDS", 60)
    made = world(["ann", "bob", "eve", "fay"], hostile=["eve", "fay"])
    ann, bob = made.nodes["ann"], made.nodes["bob"]
    pair = people("eve", "fay")
    for node, later in ((ann, 1), (bob, 1000)):
        last, outcome, number = made.lab.records[2], "", 0
        while outcome != "full":
            who = pair[number % 2]
            last = made.lab.renew(who, last, certificate=who.certificate, time=last.time + later)
            outcome, number, later = node.book.offer(last), number + 1, 1
    for who in pair:
        ann.book.expel(ANN.identity, who.id)
    made.until(lambda: set(bob.book.membership.expelled) == {who.id for who in pair}, 60)
    bob.book.renew(bob.who.identity, bob.who.certificate)
    made.until(lambda: ann.book.has(bob.book.log(bob.book.size - 1, 1)[0].id), 60)
    assert made.dropped == []


def test_a_strangers_record_lifts_nobodys_share(world, monkeypatch):
    """Anybody can make keys; what they sign is refused, but what it followed had been taken."""
    monkeypatch.setattr(book, "MOST_OF_ONE", 20)
    eve, flood, log = person("eve"), [], []

    def answers(made):
        last = made.lab.records[-1]
        flood.extend(
            made.lab.renew(eve, last, certificate=eve.certificate, time=last.time + number) for number in range(60)
        )
        stranger = person("guest-1")
        log.extend([*flood, made.lab.renew(stranger, *flood, certificate=stranger.certificate)])
        by_id = {record.id: record.encode() for record in log}
        ids = tuple(record.id for record in log)
        return {
            MembershipLog: lambda sender, asked: MembershipIds(asked.start, len(ids), ids[asked.start :]),
            MembershipFetch: lambda sender, asked: MembershipRecords(tuple(by_id[name] for name in asked.ids)),
        }

    made, _ = hostile_world(world, answers)
    ann = made.nodes["ann"]
    size = ann.book.size
    made.run(ann.spread.pull(eve.id))
    assert ann.book.size == size + 20


def test_what_only_the_expelled_have_followed_is_not_followed_any_more(world):
    made, _ = hostile_world(world, lambda made: {})
    eve, last = person("eve"), made.lab.records[-1]
    ann, bob = made.nodes["ann"], made.nodes["bob"]
    bob.book.offer(made.lab.renew(eve, last, certificate=eve.certificate))
    out = ann.book.expel(ANN.identity, eve.id)
    assert bob.book.offer(out) == "kept"
    assert bob.book.renew(bob.who.identity, bob.who.certificate).parents == (out.id,)


def test_an_error_of_ones_own_is_not_swallowed(world):
    made = world(["ann", "bob"])
    ann, bob = made.nodes.values()

    def full(record):
        raise OSError(28, "No space left on device")

    bob.book._keep = full
    ann.book.renew(ANN.identity, ANN.certificate)
    made.until(bob.task.done, 60)
    with pytest.raises(OSError, match="No space"):
        bob.task.result()


def test_a_full_disk_only_delays_an_expulsion(world):
    """Whoever did not take it up again would keep the expelled for good."""
    made = world(["ann", "bob", "cat"])
    bob, cat, refused = made.nodes["bob"], person("cat").id, []
    keep = bob.book._keep

    def full(record):
        refused.append(record)
        raise StoreError("the ledger cannot be written: No space left on device")

    bob.book._keep = full
    made.nodes["ann"].book.expel(ANN.identity, cat)
    made.until(lambda: len(refused) > 2, 600)
    bob.book._keep = keep
    made.until(lambda: not bob.book.membership.is_member(cat), 600)


def test_the_same_seed_gives_the_same_run(world):
    def once():
        made = world([w.name for w in CROWD], 3, loss=0.2, admit="any")
        dice = random.Random(3)
        for number in range(10):
            made.wait(1.0)
            act(made, dice.choice(list(made.nodes.values())), dice, 1000 + number)
        made.wait(30.0)
        return made.network.frames_sent, [len(node.disk) for node in made.nodes.values()]

    assert once() == once()


def test_a_leave_that_one_member_has_fetched_reaches_all_others(world):
    """The one that leaves is gone as soon as somebody has its record; nobody else can ask it any more."""
    found = world([who.name for who in CROWD])
    leaver = found.nodes["bob"]
    record = sign_leave(leaver.book, leaver.who.identity)
    fetched = leaver.spread.follow(record.id)
    found.until(lambda: fetched, 2.0)  # told at once, not on the next look
    assert fetched <= {who.id for who in CROWD} - {leaver.who.id}
    leaver.die()
    del found.nodes["bob"]
    found.until(lambda: all(node.book.has(record.id) for node in found.nodes.values()), 20.0)
    assert all(leaver.who.id not in node.book.membership.members for node in found.nodes.values())
    assert found.agree()
