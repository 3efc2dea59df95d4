"""Peer: asking, answering, publishing and giving up, between two peers and a wire made of codec frames."""

import asyncio
import gc
import logging
import random
from types import SimpleNamespace

import pytest
import torch

from coterie.errors import MessageError, PeerUnreachable, VectorBusy
from coterie.layout import Snapshot
from coterie.ledger import NullLedger
from coterie.network import Codec, Envelope, Frame, MemorySnapshot, Message, message
from coterie.protocols import Model, Peer, Pull
from coterie.protocols.patience import Patience
from coterie.protocols.peer import LATEST, require_idle
from coterie.runtime.simulation.clock import VirtualLoop

DELAY = 0.25
LAYOUT = "ab" * 32


@message
class PeerTestHello(Message, frozen=True):
    text: str


@message
class PeerTestOther(Message, frozen=True):
    number: int


class Wire:
    """One peer's end: every frame becomes bytes and comes back from them, ``DELAY`` or ``delays[to]`` later."""

    def __init__(self, world, sender):
        self.world, self.sender, self.delays, self.posted, self.bytes_sent = world, sender, {}, [], 0

    def post(self, to, frame, failed):
        data = b"".join(frame.chunks())
        self.bytes_sent += len(data)
        envelope = Codec().parse(data)
        self.posted.append((to, envelope))
        again = Codec().encode(envelope)
        if to in self.world.refusing:
            failed()
        elif to not in self.world.silent:
            self.world.loop.call_later(self.delays.get(to, DELAY), self._arrive, to, again, failed)

    def _arrive(self, to, frame, failed):
        if to in self.world.gone:
            failed()
        else:
            self.world.peers[to].receive(self.sender, frame)


class World:
    """Peers a, b and c on a loop of virtual time."""

    def __init__(self):
        self.loop, self.peers, self.dropped, self.faults = VirtualLoop(), {}, [], []
        self.gone, self.silent, self.refusing = set(), set(), set()
        self.loop.set_exception_handler(lambda loop, context: self.faults.append(context))
        for name in "abc":
            self.peers[name] = Peer(
                id=name,
                members="abc",
                neighbours=[other for other in "abc" if other != name],
                learner=SimpleNamespace(samples=10 * (ord(name) - 96)),
                ledger=NullLedger(),
                store=None,
                random=random.Random(1),
                secrets=random.Random(2),
                clock=self.loop,
                metrics=SimpleNamespace(
                    dropped=lambda sender, error, at=name: self.dropped.append((at, sender, error))
                ),
                transport=Wire(self, name),
                codec=Codec(),
            )
        self.a, self.b, self.c = self.peers.values()

    def run(self, coroutine):
        return self.loop.run_until_complete(coroutine)

    def wait(self, seconds):
        self.run(asyncio.sleep(seconds))

    def sent(self, name):
        """What a peer has put on the wire: (to, kind, message)."""
        return [(to, envelope.kind, envelope.message) for to, envelope in self.peers[name].transport.posted]


@pytest.fixture
def world(caplog):
    caplog.set_level(logging.DEBUG, "asyncio")
    made = World()
    yield made
    for peer in made.peers.values():
        peer.close()
    made.wait(10_000)
    gc.collect()  # futures whose exception nobody saw complain now
    faults = [context["message"] for context in made.faults]
    unseen = [r.getMessage() for r in caplog.records if r.name == "asyncio" and r.levelno >= logging.WARNING]
    assert not asyncio.all_tasks(made.loop)
    made.loop.close()
    assert (faults, unseen) == ([], [])


async def unreachable(awaitable):
    with pytest.raises(PeerUnreachable) as caught:
        await awaitable
    return caught.value


def snapshot(*numbers):
    return MemorySnapshot(LAYOUT, torch.tensor(numbers, dtype=torch.float32))


# Asking


@pytest.mark.parametrize("form", ["sync", "async", "slow", "future"])
def test_ask_brings_the_reply(world, form):
    def answer(sender, hello):
        return PeerTestHello(f"{sender} said {hello.text}")

    async def later(sender, hello):
        await asyncio.sleep(0 if form == "async" else 1)
        return answer(sender, hello)

    def future(sender, hello):
        made = world.loop.create_future()
        world.loop.call_later(1, made.set_result, answer(sender, hello))
        return made

    world.b.handle(PeerTestHello, {"sync": answer, "future": future}.get(form, later))
    assert world.run(world.a.ask("b", PeerTestHello("x"))) == PeerTestHello("a said x")
    assert world.loop.time() == 2 * DELAY + (form in ("slow", "future"))
    assert world.sent("b") == [("a", "reply", PeerTestHello("a said x"))]


def test_replies_find_their_questions(world):
    """Also where the second answer overtakes the first, and where both sides ask at once."""

    async def answer(sender, hello):
        await asyncio.sleep(3 - len(hello.text))
        return PeerTestHello(hello.text.upper())

    for peer in (world.a, world.b):
        peer.handle(PeerTestHello, answer)

    async def ask():
        asks = [world.a.ask("b", PeerTestHello(text)) for text in ("x", "xx", "xxx")]
        return await asyncio.gather(*asks, world.b.ask("a", PeerTestHello("yy")))

    assert [reply.text for reply in world.run(ask())] == ["X", "XX", "XXX", "YY"]


def test_ask_all_answers_in_the_order_of_the_question(world):
    world.a.transport.delays = {"b": 3.0}
    for peer in (world.b, world.c):
        peer.handle(PeerTestHello, lambda sender, hello, name=peer.id: PeerTestHello(name))

    async def ask():
        return [await world.a.ask_all(to, PeerTestHello("x")) for to in ("bc", "cb", "", "bcb")]

    replies = world.run(ask())
    assert [[reply.text for reply in row] for row in replies] == [["b", "c"], ["c", "b"], [], ["b", "c", "b"]]
    assert world.loop.time() == 3 * (3.0 + DELAY)  # asked together, not one after another


def test_ask_all_gives_none_for_who_does_not_answer(world):
    world.silent.add("b")
    world.c.handle(PeerTestHello, lambda sender, hello: hello)
    assert world.run(world.a.ask_all(["b", "c"], PeerTestHello("x"), 2.0)) == [None, PeerTestHello("x")]
    assert world.loop.time() == 2.0
    assert world.run(world.a.ask_all(["c", "b"], PeerTestHello("x"), 0.1)) == [None, None]


def test_send_expects_nothing(world):
    heard = []

    async def later(sender, other):
        heard.append((sender, other))
        return other

    def at_once(sender, hello):
        heard.append((sender, hello))
        return hello

    world.b.handle(PeerTestHello, at_once)
    world.b.handle(PeerTestOther, later)
    world.a.send("b", PeerTestHello("x"))
    world.a.send("b", PeerTestOther(3))
    world.wait(5)
    assert heard == [("a", PeerTestHello("x")), ("a", PeerTestOther(3))]
    assert world.sent("b") == []
    world.gone.add("b")
    world.a.send("b", PeerTestHello("y"))
    world.wait(5)
    assert len(heard) == 2


@pytest.mark.parametrize("coroutine", [False, True])
def test_a_handler_may_give_no_answer(world, coroutine):
    async def nothing(sender, hello):
        return None

    world.b.handle(PeerTestHello, nothing if coroutine else lambda sender, hello: None)
    error = world.run(unreachable(world.a.ask("b", PeerTestHello("x"), 2.0)))
    assert (error.where, world.loop.time(), world.dropped) == ("b", 2.0, [])


def test_the_last_handler_counts(world):
    world.b.handle(PeerTestHello, lambda sender, hello: PeerTestHello("one"))
    world.b.handle(PeerTestHello, lambda sender, hello: PeerTestHello("two"))
    assert world.run(world.a.ask("b", PeerTestHello("x"))).text == "two"


# Giving up


def test_a_time_out_ends_when_it_was_said_to(world):
    world.silent.add("b")
    error = world.run(unreachable(world.a.ask("b", PeerTestHello("x"), 1.5)))
    assert world.loop.time() == 1.5
    assert (error.where, error.what) == ("b", "no answer within 1.5 s")


def test_a_late_reply_is_ignored(world):
    world.a.transport.delays = {"b": 5.0}
    world.b.handle(PeerTestHello, lambda sender, hello: hello)
    world.run(unreachable(world.a.ask("b", PeerTestHello("x"), 1.0)))
    world.wait(20)
    assert [kind for _, kind, _ in world.sent("b")] == ["reply"]
    assert world.dropped == []
    world.a.transport.delays = {}
    assert world.run(world.a.ask("b", PeerTestHello("y"), 1.0)) == PeerTestHello("y")  # not taken for its answer


@pytest.mark.parametrize("how", ["gone", "refusing"])
def test_a_peer_known_to_be_gone(world, how):
    """The transport says so later, or while the frame is posted."""
    getattr(world, how).add("b")
    world.c.handle(PeerTestHello, lambda sender, hello: hello)
    error = world.run(unreachable(world.a.ask("b", PeerTestHello("x"))))
    assert (error.where, error.what) == ("b", "the peer is not running")
    assert world.loop.time() == (DELAY if how == "gone" else 0)
    assert world.run(world.a.ask_all("bc", PeerTestHello("x"))) == [None, PeerTestHello("x")]
    assert world.loop.time() < 10


def test_to_be_gone_says_nothing_about_patience(world):
    world.gone.add("b")
    world.run(unreachable(world.a.ask("b", PeerTestHello("x"))))
    world.gone.clear()
    world.silent.add("b")
    start = world.loop.time()
    world.run(unreachable(world.a.ask("b", PeerTestHello("x"))))
    assert world.loop.time() - start == 60


@pytest.mark.parametrize(
    ("answers", "seconds"),
    [
        ([], 60.0),
        ([1.0], 3.0),  # 2 x 1, + 1
        ([0.0], 1.0),
        ([1, 2, 3, 4, 10], 14.0),  # median 3, deviations 2 1 0 1 7, their median 1: 3 + 10, + 1
        ([1, 2, 3, 10], 13.5),  # median 2.5, deviations 1.5 0.5 0.5 7.5, their median 1: 12.5, + 1
        ([5, 5, 5, 5, 100], 11.0),  # median 5, no deviation: 2 x 5, + 1
        ([1000.0] * 32 + [2.0] * 32, 5.0),  # the last 32 only
    ],
)
def test_patience(answers, seconds):
    patience = Patience()
    for answer in answers:
        patience.answered(answer)
    assert patience.seconds() == pytest.approx(seconds)


def test_patience_after_time_outs():
    patience = Patience()
    waits = []
    for _ in range(5):
        patience.timed_out()
        waits.append(patience.seconds())
    assert waits == [30, 15, 7.5, 7.5, 7.5]
    patience.answered(1.0)  # one answer, and it is no longer silent
    assert patience.seconds() == 3
    patience.timed_out()
    assert patience.seconds() == 1.5


def test_who_answers_in_the_last_moment_is_not_waited_for_ever_longer():
    """Each such answer would else let the next one come twice as late: an hour after ten of them."""
    everybody = Patience()
    liar, honest = Patience(everybody), [Patience(everybody) for _ in range(2)]
    for _ in range(50):
        for patience in honest:
            patience.answered(3.0)
        liar.answered(0.99 * liar.seconds())
    assert liar.seconds() == Patience.SLOWEST * 3.0
    assert honest[0].seconds() == 7.0
    slow = Patience(everybody)
    for _ in range(50):
        slow.answered(30.0)
    assert slow.seconds() == 61.0, "ten times as slow, and honest"


def test_answers_to_questions_with_a_time_of_their_own_say_nothing_about_patience(world):
    """Looks at records, every few seconds, are answered at once; a pull waits for a round that takes minutes."""
    world.b.handle(PeerTestHello, lambda sender, hello: hello)
    world.a.transport.delays = {"b": 40.0 - DELAY}
    world.run(world.a.ask("b", PeerTestHello("x")))
    world.a.transport.delays = {}
    for _ in range(40):
        world.run(world.a.ask("b", PeerTestHello("x"), 5.0))
    world.silent.add("b")
    for timeout in (5.0, 5.0, None):
        start = world.loop.time()
        world.run(unreachable(world.a.ask("b", PeerTestHello("x"), timeout)))
    assert world.loop.time() - start == 81  # 2 x 40, + 1


def test_a_late_answer_is_waited_for_the_next_time(world):
    world.b.handle(PeerTestHello, lambda sender, hello: hello)
    world.a.transport.delays = {"b": 100.0 - DELAY}
    start = world.loop.time()
    world.run(unreachable(world.a.ask("b", PeerTestHello("x"))))
    assert world.loop.time() - start == 60
    world.run(asyncio.sleep(60))  # the answer comes at 100
    assert world.run(world.a.ask("b", PeerTestHello("y"))) == PeerTestHello("y")
    assert world.dropped == []


def test_waiting_adapts_to_each_peer(world):
    world.b.handle(PeerTestHello, lambda sender, hello: hello)
    for delay in (0.75, 1.75, 2.75):  # and DELAY back: answers of 1, 2 and 3 s
        world.a.transport.delays = {"b": delay}
        world.run(world.a.ask("b", PeerTestHello("x")))
    world.silent.update("bc")

    def waited(to):
        start = world.loop.time()
        world.run(unreachable(world.a.ask(to, PeerTestHello("x"))))
        return world.loop.time() - start

    assert waited("b") == 13  # median 2, deviation 1: 2 + 10, + 1
    assert waited("b") == 6.5  # half as long for one that was silent
    assert waited("c") == 13  # nothing is known of c: from the answers of all


# What is not in order


def drops(world):
    assert all(isinstance(error, MessageError) for _, _, error in world.dropped)
    return [(at, sender) for at, sender, _ in world.dropped]


def test_an_unexpected_message_is_dropped_and_counted(world):
    world.run(unreachable(world.a.ask("b", PeerTestHello("x"), 1.0)))
    world.a.send("b", PeerTestOther(3))
    world.wait(1)
    assert drops(world) == [("b", "a"), ("b", "a")]
    assert world.dropped[0][2].what == "a PeerTestHello was not expected"
    assert world.dropped[1][2].where == "a"


@pytest.mark.parametrize("coroutine", [False, True])
def test_a_handler_may_refuse(world, coroutine):
    def refuse(sender, hello):
        raise MessageError("not in this round", where=sender)

    async def later(sender, hello):
        await asyncio.sleep(0.1)
        refuse(sender, hello)

    world.b.handle(PeerTestHello, later if coroutine else refuse)
    world.run(unreachable(world.a.ask("b", PeerTestHello("x"), 1.0)))
    assert drops(world) == [("b", "a")]
    assert world.dropped[0][2].what == "not in this round"
    assert world.sent("b") == []


def test_a_handler_that_fails_is_not_hidden(world):
    async def fail(sender, hello):
        raise ZeroDivisionError

    world.b.handle(PeerTestHello, fail)
    world.run(unreachable(world.a.ask("b", PeerTestHello("x"), 1.0)))
    (context,) = world.faults
    assert isinstance(context["exception"], ZeroDivisionError)
    world.faults.clear()


@pytest.mark.parametrize("header", [b"", b"\xc1", b"\x94\xa3ask\x01\xc0\x90", b"\x91" * 9999])
def test_broken_frames_are_dropped_and_counted(world, header):
    world.b.receive("a", Frame(header, ()))
    world.b.receive("a", Frame(header, (snapshot(1),)))
    assert drops(world) == [("b", "a")] * 2


def test_a_reply_of_the_wrong_peer(world):
    async def answer(sender, hello):
        (number,) = [e.id for to, e in world.a.transport.posted if to == "b"]
        world.c.transport.post("a", Codec().encode(Envelope("reply", number, PeerTestHello("forged"))), lambda: None)
        await asyncio.sleep(1)
        return PeerTestHello("true")

    world.b.handle(PeerTestHello, answer)
    assert world.run(world.a.ask("b", PeerTestHello("x"))).text == "true"
    assert drops(world) == [("a", "c")]
    assert "another peer's question" in world.dropped[0][2].what


def test_a_reply_to_no_question_and_a_second_reply(world):
    world.b.handle(PeerTestHello, lambda sender, hello: hello)
    assert world.run(world.a.ask("b", PeerTestHello("x"))).text == "x"
    number = world.a.transport.posted[0][1].id
    for wrong in (0, number, number + 1, 2**63):
        world.b.transport.post("a", Codec().encode(Envelope("reply", wrong, PeerTestHello("y"))), lambda: None)
    world.wait(1)
    assert world.run(world.a.ask("b", PeerTestHello("z"))).text == "z"


def test_two_replies_in_one_instant(world):
    def answer(sender, hello):
        number = world.a.transport.posted[-1][1].id
        world.b.transport.post(sender, Codec().encode(Envelope("reply", number, PeerTestHello("one"))), lambda: None)
        return PeerTestHello("two")

    world.b.handle(PeerTestHello, answer)
    assert world.run(world.a.ask("b", PeerTestHello("x"))).text == "one"
    world.wait(1)


# Publishing


def vector(model):
    return model.vector.tensor().tolist()


def test_pull_brings_what_was_published(world):
    world.b.publish(snapshot(1, 2), 4, degree=3)
    models = world.run(world.a.pull(["b"], 4))
    model = models["b"]
    assert isinstance(model.vector, Snapshot)
    assert (model.round, model.channel, model.samples, model.degree) == (4, "model", 20, 3)
    assert (vector(model), model.vector.layout_hash) == ([1, 2], LAYOUT)
    assert world.loop.time() == 2 * DELAY


def test_a_pull_waits_for_its_round(world):
    world.b.publish(snapshot(1), 3)
    for delay, round_ in ((5, 4), (10, 5)):
        world.loop.call_later(delay, world.b.publish, snapshot(round_), round_)

    async def pull():
        return await asyncio.gather(*(world.a.pull(["b"], round_) for round_ in (5, 3, 4)))

    fifth, third, fourth = world.run(pull())
    assert [m["b"].round for m in (third, fourth, fifth)] == [3, 4, 5]
    assert vector(fifth["b"]) == [5]
    assert world.loop.time() == 10 + DELAY
    assert len(world.sent("b")) == 3  # each pull was answered once
    assert not any(world.b._waiting.values())


def test_who_is_slow_gets_the_round_it_asks_for(world):
    for round_ in range(6):
        world.b.publish(snapshot(round_), round_)
    found = {round_: world.run(world.a.pull(["b"], round_))["b"] for round_ in (1, 2, 4, LATEST)}
    assert {round_: model.round for round_, model in found.items()} == {1: 5, 2: 2, 4: 4, LATEST: 5}
    assert vector(found[2]) == [2]
    world.b.forget(4)
    assert [world.run(world.a.pull(["b"], round_))["b"].round for round_ in (3, 4)] == [5, 4]


def test_the_latest_is_not_the_first_and_is_waited_for(world):
    world.loop.call_later(5, world.b.publish, snapshot(0), 0)
    assert world.run(world.a.pull(["b"], LATEST))["b"].round == 0
    world.b.publish(snapshot(1), 1)
    assert world.run(world.a.pull(["b"], LATEST))["b"].round == 1
    assert world.run(world.a.pull(["b"], 0))["b"].round == 0


def test_a_later_round_answers_an_earlier_pull(world):
    world.loop.call_later(5, world.b.publish, snapshot(9), 9)
    assert world.run(world.a.pull(["b"], 4))["b"].round == 9
    assert world.run(world.a.pull(["b"], 4))["b"].round == 9
    world.b.publish(snapshot(10), 10)
    assert world.run(world.a.pull(["b"], 4))["b"].round == 10


def test_channels_are_separate(world):
    world.b.publish(snapshot(1), 4)
    world.loop.call_later(3, world.b.publish, snapshot(5), 5)  # the other channel still has nothing
    world.loop.call_later(7, lambda: world.b.publish(snapshot(2), 4, channel="merged"))

    async def pull():
        return await asyncio.gather(world.a.pull(["b"], 4, "merged"), world.a.pull(["b"], 4))

    merged, model = world.run(pull())
    assert (vector(merged["b"]), merged["b"].channel) == ([2], "merged")
    assert vector(model["b"]) == [1]
    assert world.loop.time() == 7 + DELAY


def test_pull_leaves_out_who_does_not_answer(world):
    world.b.publish(snapshot(1), 4)
    world.gone.add("c")
    assert list(world.run(world.a.pull("cb", 4))) == ["b"]
    assert world.run(world.a.pull([], 4)) == {}
    world.silent.add("b")
    assert world.run(world.a.pull("bc", 4)) == {}
    assert world.dropped == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"round": 3},
        {"channel": "merged"},
        None,
    ],
)
def test_a_pull_answered_with_something_else(world, wrong):
    model = {"round": 4, "channel": "model", "vector": snapshot(1), "samples": 1, "degree": 0}
    world.c.handle(Pull, lambda sender, pull: PeerTestOther(1) if wrong is None else Model(**model | wrong))
    world.b.publish(snapshot(1), 4)
    assert list(world.run(world.a.pull("cb", 4))) == ["b"]
    assert drops(world) == [("a", "c")]


@pytest.mark.parametrize(
    "wrong", [{"degree": -1}, {"round": -1}, {"samples": -1}, {"samples": 1 << 32}, {"channel": "x" * 33}]
)
def test_figures_out_of_range_are_no_message(wrong):
    model = {"round": 4, "channel": "model", "vector": snapshot(1), "samples": 1, "degree": 0}
    codec = Codec()
    fine, frame = (codec.encode(Envelope("reply", 1, Model(**model | change))) for change in ({}, wrong))
    assert codec.decode(fine.header, fine.snapshots).message.samples == 1
    with pytest.raises(MessageError):
        codec.decode(frame.header, frame.snapshots)


def test_only_the_last_pulls_of_a_sender_wait(world):
    async def pull():
        asked = []
        for round_ in range(1, 13):
            asked.append(asyncio.ensure_future(world.a.ask_all(["b"], Pull(round_, "model"), 20.0)))
            await asyncio.sleep(0.1)
        return await asyncio.gather(*asked)

    world.loop.call_later(10, world.b.publish, snapshot(1), 12)
    replies = [reply for (reply,) in world.run(pull())]
    assert [reply is not None for reply in replies] == [False] * 4 + [True] * 8
    assert world.dropped == []


# The end


def test_close_cancels_whatever_waits(world):
    ended = []

    async def forever(sender, hello):
        try:
            await asyncio.sleep(1e9)
        finally:
            ended.append("handler")

    async def asking(name, awaitable):
        try:
            return await awaitable
        except asyncio.CancelledError:
            ended.append(name)
            raise

    for peer in (world.b, world.c):
        peer.handle(PeerTestHello, forever)
    world.a.handle(PeerTestHello, forever)
    asks = {
        "ask": world.a.ask("b", PeerTestHello("x"), 1e6),
        "ask_all": world.a.ask_all("bc", PeerTestHello("x")),
        "pull": world.a.pull("bc", 4),
        "other": world.b.ask("a", PeerTestHello("x"), 5.0),
        "puller": world.b.pull("a", 4),
    }

    async def main():
        tasks = [asyncio.create_task(asking(name, awaitable)) for name, awaitable in asks.items()]
        await asyncio.sleep(1)
        assert world.a.waits_for() == "an answer of b, c"
        world.a.close()
        await asyncio.sleep(0)
        assert all(task.cancelled() for task in tasks[:3])
        assert not any(task.done() for task in tasks[3:])
        world.a.publish(snapshot(1), 4)  # nobody is told any more
        return await asyncio.gather(*tasks, return_exceptions=True)

    outcomes = world.run(main())
    assert sorted(ended) == ["ask", "ask_all", "handler", "pull"]
    assert isinstance(outcomes[3], PeerUnreachable)
    assert outcomes[4] == {}
    assert [kind for _, kind, _ in world.sent("a")] == ["ask"] * 5
    assert world.a.waits_for() == "something other than an answer"
    assert world.dropped == []


def test_close_leaves_no_timers(world):
    world.silent.add("b")

    async def main():
        task = asyncio.create_task(world.a.ask("b", PeerTestHello("x"), 1e6))
        await asyncio.sleep(1)
        world.a.close()
        await asyncio.gather(task, return_exceptions=True)

    world.run(main())
    assert [timer for timer in world.loop._scheduled if not timer.cancelled()] == []
    world.a.close()  # twice does no harm


@pytest.mark.parametrize("to", ["b", "bc"])
def test_a_cancelled_caller_leaves_nothing_behind(world, to):
    world.silent.update("bc")

    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                await (world.a.ask(to, PeerTestHello("x")) if to == "b" else world.a.ask_all(to, PeerTestHello("x")))

    world.run(main())
    assert world.loop.time() == 2
    assert world.a.waits_for() == "something other than an answer"
    assert world.a._questions.asked == []
    assert [timer for timer in world.loop._scheduled if not timer.cancelled()] == []


def test_a_time_out_nobody_sees_leaves_no_warning(world):
    """The second of two questions fails while the first is still awaited, and then the caller is cancelled."""
    world.silent.add("b")
    world.gone.add("c")

    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                await world.a.ask_all("bc", PeerTestHello("x"))

    world.run(main())


def test_waits_for(world):
    world.silent.update("bc")

    async def main():
        assert world.a.waits_for() == "something other than an answer"
        tasks = [asyncio.create_task(world.a.ask(to, PeerTestHello("x"), 5.0)) for to in "cbc"]
        await asyncio.sleep(1)
        assert world.a.waits_for() == "an answer of b, c"
        await asyncio.gather(*tasks, return_exceptions=True)
        assert world.a.waits_for() == "something other than an answer"

    world.run(main())


def test_bytes_on_the_wire_are_those_of_the_frames(world):
    frame = Codec().encode(Envelope("send", 0, PeerTestHello("x")))
    world.a.send("b", PeerTestHello("x"))
    assert world.a.transport.bytes_sent == frame.nbytes


def test_one_call_of_the_learner_at_a_time():
    require_idle(False, "peer a")
    with pytest.raises(VectorBusy, match="peer a: the vector was touched"):
        require_idle(True, "peer a")
