"""What a protocol sees: one peer, its learner, and the others by their ids. No socket, no file, no process.

The same class serves a simulated and a real peer; the runtime gives it a transport, a learner and a store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from coterie.errors import MessageError, NodeError, PeerUnreachable
from coterie.identity import Identity, PeerId
from coterie.layout import Snapshot
from coterie.ledger import Ledger
from coterie.network import Codec, Envelope, Frame, Message, Transport
from coterie.protocols.interfaces import (
    Clock,
    Fitted,
    Metrics,
    Mixed,
    PeerLearner,
    PeerMemory,
    Store,
    require_idle,
)
from coterie.protocols.published import LATEST, Channel, Model, Natural, Pull, content_of, serves
from coterie.protocols.questions import Questions

if TYPE_CHECKING:
    from random import Random

    from coterie.protocols.consensus.place import ChainTerms, PeerChain

__all__ = [
    "LATEST",
    "ROUNDS_KEPT",
    "Channel",
    "Clock",
    "Fitted",
    "Metrics",
    "Mixed",
    "Model",
    "Natural",
    "Peer",
    "PeerId",
    "PeerLearner",
    "PeerMemory",
    "Pull",
    "Store",
    "require_idle",
]

ROUNDS_KEPT = 3
"""So far may a peer be ahead of a slow one that still pulls its model of an earlier round. Each is one vector."""
_PULLS = 8
Handler = Callable[[PeerId, Any], Message | Awaitable[Message | None] | None]
M = TypeVar("M", bound=Message)


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
    _questions: Questions = field(init=False)
    _waiting: dict[PeerId, list[Envelope]] = field(default_factory=dict)
    """Pulls that wait for their round, by sender: the last ``_PULLS`` of each, so that nobody can fill the memory."""
    _tasks: list[asyncio.Future[Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        start = self.secrets.getrandbits(62)
        self._questions = Questions(self.transport, self.codec, self.clock, self.memory, start)

    # Asking and telling

    async def ask(self, to: PeerId, message: Message, timeout: float | None = None) -> Message:
        """The reply of ``to``. ``timeout`` in seconds; None: from what that peer has shown.

        Raises PeerUnreachable if no reply came in time or the peer is known to be gone.
        """
        (reply,) = await self._questions.ask((to,), message, timeout)
        if isinstance(reply, Message):
            return reply
        raise reply or PeerUnreachable("no answer", where=to)

    async def ask_all(
        self, to: Sequence[PeerId], message: Message, timeout: float | None = None
    ) -> list[Message | None]:
        """The replies in the order of ``to``; None for a peer that did not answer."""
        replies = await self._questions.ask(to, message, timeout)
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
        self.ledger.append("model", content_of(model))
        if channel in self.memory.published:
            earlier = self._earlier.setdefault(channel, [])
            earlier.append(self.memory.published[channel])
            del earlier[: max(0, len(earlier) - kept)]
        self.memory.published[channel] = model
        for sender, waiting in list(self._waiting.items()):
            ready = [envelope for envelope in waiting if serves(envelope.message, model)]
            if ready:
                self._waiting[sender] = [envelope for envelope in waiting if envelope not in ready]
                for envelope in ready:
                    self._reply(sender, envelope, model)

    async def record_again(self, snapshot: Snapshot, round: int, *, degree: int = 0, channel: str = "model") -> None:
        """Back from a crash: if the ledger has lost the record of what was published last, it gets it again."""
        content = content_of(Model(round, channel, snapshot, self.learner.samples, degree))
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
            if await self.ledger.confirms(sender, "model", content_of(model)):
                found[sender] = model
            else:
                error = MessageError("a model of which its sender's chain knows nothing", where=sender)
                self.metrics.dropped(sender, error)
        return found

    def _on_pull(self, sender: PeerId, envelope: Envelope, pull: Pull) -> None:
        earlier = (model for model in self._earlier.get(pull.channel, ()) if model.round == pull.round)
        model = next(earlier, self.memory.published.get(pull.channel))
        if model is not None and serves(pull, model):
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
                self._questions.on_reply(sender, envelope)
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
        self._questions.close()
        self._waiting = {}

    def waits_for(self) -> str:
        """What this peer waits for, in words: named when nothing can go on."""
        if asked := self._questions.asked:
            return f"an answer of {', '.join(asked)}"
        return self.waiting() if self.waiting else "something other than an answer"

    def _handler(self, sender: PeerId, message: Message) -> Handler:
        handler = self._handlers.get(type(message))
        if handler is None:
            raise MessageError(f"a {type(message).__name__} was not expected", where=sender)
        return handler

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


def _ignore() -> None:
    """Nobody waits for this message."""
