"""What a protocol sees: one peer, its learner, and the others by their ids. No socket, no file, no process.

The same class serves a simulated and a real peer; the runtime gives it a transport, a learner and a store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import msgspec

from coterie.errors import CoterieError, MessageError, NodeError, PeerUnreachable, VectorBusy
from coterie.identity import Identity
from coterie.layout import Snapshot
from coterie.ledger import Ledger
from coterie.network import Codec, Envelope, Frame, Message, Transport, message
from coterie.protocols.patience import Patience

if TYPE_CHECKING:
    from random import Random

    from coterie.protocols.consensus.place import ChainTerms, PeerChain

PeerId = str
_PARTNERS, _PULLS = 64, 8
ROUNDS_KEPT = 3
"""So far may a peer be ahead of a slow one that still pulls its model of an earlier round. Each is one vector."""
LATEST = -1
"""Instead of a round's number: the last there is, of whatever round."""
_TICK = 1e-9
"""Seconds by which a timer may come early: an event loop's resolution."""
Natural = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
Channel = Annotated[str, msgspec.Meta(max_length=32)]
Handler = Callable[[PeerId, Any], Message | Awaitable[Message | None] | None]
M = TypeVar("M", bound=Message)


@message
class Pull(Message, frozen=True):
    """Ask for what the other has published on a channel in this round or, where that is gone, later.

    The reply waits for the round. ``LATEST`` asks for the last publication there is, and waits for the first.
    """

    round: Annotated[int, msgspec.Meta(ge=LATEST, lt=1 << 32)]
    channel: Channel


@message
class Model(Message, frozen=True):
    """What a peer has published: its vector, on how many training samples, and its degree in the graph.

    Samples and degree are the sender's word; a rule that uses them trusts it.
    """

    round: Natural
    channel: Channel
    vector: Snapshot
    samples: Natural
    degree: Natural


@dataclass(frozen=True)
class Fitted:
    """The outcome of a fit: a snapshot of the vector, and the mean loss over the local steps."""

    snapshot: Snapshot
    loss: float


@dataclass(frozen=True)
class Mixed:
    """The outcome of an aggregation: what each vector weighed, what is trusted, and the rule's state for next time."""

    weights: Mapping[PeerId, float]
    trust: Mapping[PeerId, float] | None
    state: Any
    refused: tuple[PeerId, ...]


class PeerLearner(Protocol):
    """A peer's own model and data. One call at a time: a second one during the first raises VectorBusy."""

    @property
    def samples(self) -> int:
        """Number of training samples."""
        ...

    async def fit(self, round: int, steps: int | None = None) -> Fitted:
        """Train on the peer's own data, as the spec's ``[training]`` says for this round.

        ``steps``: so many minibatches, in place of the spec's local steps or epochs.
        """
        ...

    async def aggregate(
        self,
        received: Mapping[PeerId, Model],
        round: int,
        *,
        degree: int,
        state: Any = None,
        rule: str | None = None,
    ) -> Mixed:
        """Mix the vector with those received, by the spec's rule or the named one, and go on from the outcome."""
        ...

    async def adopt(self, snapshot: Snapshot) -> None:
        """Go on from this vector instead."""
        ...

    async def snapshot(self) -> Snapshot:
        """A copy of the vector as it is now."""
        ...


class Store(Protocol):
    """What survives a crash of the peer. Values: numbers, strings, snapshots, and lists and dicts of such."""

    def get(self, key: str) -> Any:
        """The value last put under ``key``; None if there is none."""
        ...

    def put(self, key: str, value: Any) -> None:
        """Keep ``value``; it replaces the earlier one at once or not at all."""
        ...

    def put_durably(self, key: str, value: Any) -> None:
        """Keep ``value`` as ``put`` does, and return once it is on disk. Raises OutputError where it cannot be."""
        ...


class Clock(Protocol):
    def time(self) -> float:
        """Seconds since some start; virtual in a simulation."""
        ...


class Metrics(Protocol):
    """Where a protocol reports what happened. Reporting never changes the run."""

    def round_done(self, round: int, loss: float, mixed: Mixed | None) -> None:
        """The round is over at this peer: ``loss`` of its fit, and how it mixed (None: it did not)."""
        ...

    def dropped(self, sender: PeerId, error: CoterieError) -> None:
        """Bytes from ``sender`` were refused."""
        ...


class _Question(msgspec.Struct):
    number: int
    to: PeerId
    asked: float
    seconds: float
    position: int
    together: _Questions


class _Questions:
    """Questions asked together: over when each has been answered or given up."""

    def __init__(self, count: int, loop: asyncio.AbstractEventLoop) -> None:
        self.over: asyncio.Future[None] = loop.create_future()
        self.open = count
        self.posted: list[_Question] = []
        self.replies: list[Message | PeerUnreachable | None] = [None] * count
        self.timer: asyncio.TimerHandle | None = None

    def settle(self, question: _Question, reply: Message | PeerUnreachable) -> None:
        self.replies[question.position] = reply
        self.open -= 1
        if not self.open and not self.over.done():
            self.over.set_result(None)


@dataclass
class PeerMemory:
    """What a peer's process knows beside its store and its model."""

    published: dict[str, Model] = field(default_factory=dict)
    """By channel. Lost in a crash."""
    patience: dict[PeerId, Patience] = field(default_factory=dict)
    """How long others took to answer: a few numbers, which survive a crash."""
    patience_with_all: Patience = field(default_factory=Patience)


@dataclass
class Peer:
    """One member of the federation, as its protocol coroutine sees it."""

    id: PeerId
    members: Sequence[PeerId]
    """All members, this one included, in an order all agree on."""
    neighbours: Sequence[PeerId]
    """Those it may talk to by the topology; never itself."""
    learner: PeerLearner
    ledger: Ledger
    store: Store
    random: Random
    """Seeded: for choices that must replay."""
    secrets: Random
    """The operating system's generator in a real peer: for keys, shares and masks."""
    clock: Clock
    metrics: Metrics
    transport: Transport
    codec: Codec
    memory: PeerMemory = field(default_factory=PeerMemory)
    returned: bool = False
    """It comes back from a crash: the store is what it was, the learner stands at the initial vector."""
    meet: Callable[[int], Awaitable[None]] | None = None
    """The runtime's barrier, where it has one."""
    open_chain: Callable[[ChainTerms], Awaitable[PeerChain]] | None = None
    """The runtime's way to the shared chain, where it has one."""
    identity: Identity = field(default_factory=Identity.generate)
    """Its key, for what it signs itself. A runtime whose runs replay gives one made from its seed."""
    waiting: Callable[[], str] | None = None
    """What its protocol waits for beside answers, in words, where it can say."""
    _earlier: dict[str, list[Model]] = field(default_factory=dict)
    """By channel, the publications before the last one: others, who are slower, may still pull them."""
    _handlers: dict[type[Message], Handler] = field(default_factory=dict)
    _questions: dict[int, _Question] = field(default_factory=dict)
    _asked: int = field(init=False)
    _overdue: dict[PeerId, tuple[int, float]] = field(default_factory=dict)
    """The last question to each peer that was given up: its number, and when it was asked."""
    _waiting: dict[PeerId, list[Envelope]] = field(default_factory=dict)
    """Pulls that wait for their round, by sender: the last ``_PULLS`` of each, so that nobody can fill the memory."""
    _tasks: list[asyncio.Future[Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Questions are numbered from a secret start: a reply meant for this peer before a crash matches none of them.
        self._asked = self.secrets.getrandbits(62)

    # Asking and telling

    async def ask(self, to: PeerId, message: Message, timeout: float | None = None) -> Message:
        """The reply of ``to``. ``timeout`` in seconds; None: from what that peer has shown.

        Raises PeerUnreachable if no reply came in time or the peer is known to be gone.
        """
        (reply,) = await self._ask((to,), message, timeout)
        if isinstance(reply, Message):
            return reply
        raise reply or PeerUnreachable("no answer", where=to)

    async def ask_all(
        self, to: Sequence[PeerId], message: Message, timeout: float | None = None
    ) -> list[Message | None]:
        """The replies in the order of ``to``; None for a peer that did not answer."""
        replies = await self._ask(to, message, timeout)
        return [reply if isinstance(reply, Message) else None for reply in replies]

    def send(self, to: PeerId, message: Message) -> None:
        """Tell ``to`` something; no reply, and no notice if it is lost."""
        self.send_all((to,), message)

    def send_all(self, to: Sequence[PeerId], message: Message) -> None:
        """Tell each of ``to`` the same; it is encoded once."""
        frame = self.codec.encode(Envelope("send", 0, message))
        for peer in to:
            self.transport.post(peer, frame, _ignore)

    def handle(self, kind: type[M], function: Callable[[PeerId, M], Any]) -> None:
        """Answer messages of a type with ``function(sender, message)``: a message, an awaitable of one, or None."""
        self._handlers[kind] = function

    # Rounds

    async def checkpoint(self, round: int) -> None:
        """Stand before a round, everything in the store and the learner: the runtime may save the peer here.

        In some rounds this is a barrier, at which all peers meet; a run that is resumed starts again from it. A
        protocol that never comes here runs all the same, without checkpoints.
        """
        if self.meet is not None:
            await self.meet(round)

    # The shared chain, and what goes on beside the protocol

    async def chain(self, terms: ChainTerms) -> PeerChain:
        """This peer's shared chain, opened, or founded by these terms: the same one after a crash.

        Waits for the founder where there is none yet. Raises LedgerError where it cannot be opened, or was founded on
        other terms, and NodeError where the runtime has none to offer.
        """
        if self.open_chain is None:
            raise NodeError("there is no shared chain here", where=self.id)
        return await self.open_chain(terms)

    def beside(self, work: Awaitable[None]) -> asyncio.Future[None]:
        """Do some work beside the protocol and after its end, until this peer stops or crashes.

        What it raises, its caller must look at.
        """
        task = asyncio.ensure_future(work)
        self._tasks.append(task)
        task.add_done_callback(self._tasks.remove)
        return task

    # Publishing

    def publish(
        self, snapshot: Snapshot, round: int, *, degree: int = 0, channel: str = "model", kept: int = ROUNDS_KEPT
    ) -> None:
        """Let others pull this snapshot from now on; answers those who wait for this round. The ledger records it.

        ``kept``: how many publications before this one the slower may still pull by their rounds.
        """
        model = Model(round, channel, snapshot, self.learner.samples, degree)
        self.ledger.append("model", _content(model))
        if channel in self.memory.published:
            earlier = self._earlier.setdefault(channel, [])
            earlier.append(self.memory.published[channel])
            del earlier[: max(0, len(earlier) - kept)]
        self.memory.published[channel] = model
        for sender, waiting in list(self._waiting.items()):
            ready = [envelope for envelope in waiting if _served(envelope.message, model)]
            if ready:
                self._waiting[sender] = [envelope for envelope in waiting if envelope not in ready]
                for envelope in ready:
                    self._reply(sender, envelope, model)

    async def record_again(self, snapshot: Snapshot, round: int, *, degree: int = 0, channel: str = "model") -> None:
        """Back from a crash: if the ledger has lost the record of what was published last, it gets it again."""
        content = _content(Model(round, channel, snapshot, self.learner.samples, degree))
        if not await self.ledger.confirms(self.id, "model", content):
            self.ledger.append("model", content)

    async def pull(
        self,
        whom: Sequence[PeerId],
        round: int,
        channel: str = "model",
        timeout: float | None = None,
    ) -> dict[PeerId, Model]:
        """What each of ``whom`` has published for this round, or has now for a later one; or ``LATEST``.

        Who did not answer is left out.
        """
        replies = await self.ask_all(whom, Pull(round, channel), timeout)
        models: dict[PeerId, Model] = {}
        for peer, reply in zip(whom, replies, strict=True):
            if isinstance(reply, Model) and reply.round >= round and reply.channel == channel:
                models[peer] = reply
            elif reply is not None:
                self.metrics.dropped(peer, MessageError("a reply to a pull was not what was asked for", where=peer))
        return models

    def forget(self, round: int) -> None:
        """Let go of what was published before this round, the last of each channel apart: nobody needs it any more."""
        for earlier in self._earlier.values():
            earlier[:] = [model for model in earlier if model.round >= round]

    async def confirmed(self, models: Mapping[PeerId, Model]) -> dict[PeerId, Model]:
        """Those of the models of which their senders have signed a record, where there is a ledger at all."""
        found: dict[PeerId, Model] = {}
        for sender, model in models.items():
            if await self.ledger.confirms(sender, "model", _content(model)):
                found[sender] = model
            else:
                error = MessageError("a model of which its sender's chain knows nothing", where=sender)
                self.metrics.dropped(sender, error)
        return found

    def _on_pull(self, sender: PeerId, envelope: Envelope, pull: Pull) -> None:
        earlier = (model for model in self._earlier.get(pull.channel, ()) if model.round == pull.round)
        model = next(earlier, self.memory.published.get(pull.channel))
        if model is not None and _served(pull, model):
            self._reply(sender, envelope, model)
        elif envelope.kind == "ask":
            waiting = self._waiting.setdefault(sender, [])
            waiting.append(envelope)
            if len(waiting) > _PULLS:
                del waiting[0]

    # What the transport calls

    def receive(self, sender: PeerId, frame: Frame) -> None:
        """A frame has come in. Whatever is wrong with it is counted against the sender, and the frame dropped."""
        try:
            envelope = self.codec.decode(frame.header, frame.snapshots)
            if envelope.kind == "reply":
                self._on_reply(sender, envelope)
                return
            if isinstance(envelope.message, Pull) and Pull not in self._handlers:
                self._on_pull(sender, envelope, envelope.message)
                return
            outcome = self._handler(sender, envelope.message)(sender, envelope.message)
        except MessageError as error:
            self.metrics.dropped(sender, error)
            return
        if isinstance(outcome, Message):
            self._reply(sender, envelope, outcome)
        elif outcome is not None:
            task = asyncio.ensure_future(outcome)
            self._tasks.append(task)
            task.add_done_callback(self._tasks.remove)
            task.add_done_callback(lambda future: self._reply_later(sender, envelope, future))

    def close(self) -> None:
        """Stop: everything that waits is cancelled."""
        for task in self._tasks:
            task.cancel()
        for question in list(self._questions.values()):
            self._forget(question.together)
            question.together.over.cancel()
        self._waiting = {}

    def waits_for(self) -> str:
        """What this peer waits for, in words: named when nothing can go on."""
        asked = sorted({question.to for question in self._questions.values()})
        if asked:
            return f"an answer of {', '.join(asked)}"
        return self.waiting() if self.waiting else "something other than an answer"

    async def _ask(
        self, to: Sequence[PeerId], message: Message, timeout: float | None
    ) -> list[Message | PeerUnreachable | None]:
        """For each of ``to`` its reply, or why there is none. One future and one timer, however many they are."""
        if not to:
            return []
        loop = asyncio.get_running_loop()
        together = _Questions(len(to), loop)
        now = loop.time()
        for position, peer in enumerate(to):
            self._asked += 1
            seconds = self._patience_with(peer).seconds() if timeout is None else timeout
            question = _Question(self._asked, peer, now, seconds, position, together)
            self._questions[self._asked] = question
            together.posted.append(question)
            frame = self.codec.encode(Envelope("ask", self._asked, message))
            self.transport.post(peer, frame, partial(self._gone, question))
        if together.open:
            self._wait_for_next(together)
        try:
            await together.over
        finally:
            self._forget(together)
        return together.replies

    def _wait_for_next(self, together: _Questions) -> None:
        """Set the timer to the first of the open questions that will be given up."""
        ends = [q.asked + q.seconds for q in together.posted if q.number in self._questions]
        if ends:
            together.timer = asyncio.get_running_loop().call_at(min(ends), self._time_out, together)

    def _patience_with(self, peer: PeerId) -> Patience:
        """What is known of a peer's answers; of the last ``_PARTNERS`` peers dealt with."""
        known = self.memory.patience
        patience = known.pop(peer, None) or Patience(self.memory.patience_with_all)
        known[peer] = patience
        if len(known) > _PARTNERS:
            del known[next(iter(known))]
        return patience

    def _handler(self, sender: PeerId, message: Message) -> Handler:
        handler = self._handlers.get(type(message))
        if handler is None:
            raise MessageError(f"a {type(message).__name__} was not expected", where=sender)
        return handler

    def _on_reply(self, sender: PeerId, envelope: Envelope) -> None:
        question = self._questions.get(envelope.id)
        if question is None:
            number, asked = self._overdue.get(sender, (None, 0.0))
            if number == envelope.id:
                del self._overdue[sender]
                self._patience_with(sender).answered(self.clock.time() - asked)
            return
        if question.to != sender:
            raise MessageError("a reply to another peer's question", where=sender)
        self._patience_with(sender).answered(self.clock.time() - question.asked)
        del self._questions[question.number]
        question.together.settle(question, envelope.message)

    def _reply(self, to: PeerId, envelope: Envelope, reply: Message) -> None:
        if envelope.kind == "ask":
            self.transport.post(to, self.codec.encode(Envelope("reply", envelope.id, reply)), _ignore)

    def _reply_later(self, to: PeerId, envelope: Envelope, future: asyncio.Future[Message | None]) -> None:
        if future.cancelled():
            return
        try:
            reply = future.result()
        except MessageError as error:
            self.metrics.dropped(to, error)
            return
        if reply is not None:
            self._reply(to, envelope, reply)

    def _time_out(self, together: _Questions) -> None:
        now = asyncio.get_running_loop().time() + _TICK
        for question in together.posted:
            if question.number in self._questions and question.asked + question.seconds <= now:
                del self._questions[question.number]
                self._patience_with(question.to).timed_out()
                self._overdue[question.to] = question.number, question.asked
                what = f"no answer within {question.seconds:.3g} s"
                together.settle(question, PeerUnreachable(what, where=question.to))
        self._wait_for_next(together)

    def _gone(self, question: _Question) -> None:
        if self._questions.pop(question.number, None) is not None:
            question.together.settle(question, PeerUnreachable("the peer is not running", where=question.to))

    def _forget(self, together: _Questions) -> None:
        if together.timer is not None:
            together.timer.cancel()
        for question in together.posted:
            self._questions.pop(question.number, None)
        together.posted = []  # a question knows those asked with it: replies, vectors among them, would stay in a cycle


def _content(model: Model) -> dict[str, str | int]:
    """What the ledger records of a published model."""
    return {"channel": model.channel, "round": model.round, "vector": model.vector.digest().hex()}


def _served(pull: Message, model: Model) -> bool:
    """Whether this model answers the pull."""
    return isinstance(pull, Pull) and pull.channel == model.channel and pull.round <= model.round


def _ignore() -> None:
    """Nobody waits for this message."""


def require_idle(busy: bool, where: str) -> None:
    """Raise VectorBusy if a peer's learner is already at work."""
    if busy:
        raise VectorBusy(
            "the vector was touched while the learner is at work",
            where=where,
            remedy="Await one call of the learner before the next.",
        )
