"""A peer's open questions: each is answered, or given up once the peer's patience with the asked one has ended.

Threat model: replies come from anybody. One counts only from the peer that was asked, under the number of the question;
numbers start at a secret one, so a reply that was meant for this peer before a crash matches none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import msgspec

from coterie.errors import MessageError, PeerUnreachable
from coterie.identity import PeerId
from coterie.network import Codec, Envelope, Message, Transport
from coterie.protocols.interfaces import Clock, PeerMemory
from coterie.protocols.patience import Patience

_PARTNERS = 64
_TICK = 1e-9
"""Seconds by which a timer may come early: an event loop's resolution."""


class _Question(msgspec.Struct):
    number: int
    to: PeerId
    asked: float
    seconds: float
    adaptive: bool
    """Whether ``seconds`` is what the peer has shown. Only these answers tell of it: others are to other questions, as
    quick as a look into a table, beside which a wait for a round would seem endless."""
    position: int
    together: _Together


class _Together:
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


class Questions:
    """All that one peer has asked and not heard about yet. ``first``: the number before the first question's."""

    def __init__(self, transport: Transport, codec: Codec, clock: Clock, memory: PeerMemory, first: int) -> None:
        self._transport, self._codec, self._clock, self._memory = transport, codec, clock, memory
        self._asked = first
        self._open: dict[int, _Question] = {}
        self._overdue: dict[PeerId, tuple[int, float]] = {}
        """The last question to each peer that was given up: its number, and when it was asked."""

    @property
    def asked(self) -> list[PeerId]:
        """Whose answers are waited for, sorted."""
        return sorted({question.to for question in self._open.values()})

    async def ask(
        self, to: Sequence[PeerId], message: Message, timeout: float | None
    ) -> list[Message | PeerUnreachable | None]:
        """For each of ``to`` its reply, or why there is none. One future and one timer, however many they are."""
        if not to:
            return []
        loop = asyncio.get_running_loop()
        together = _Together(len(to), loop)
        now = loop.time()
        for position, peer in enumerate(to):
            self._asked += 1
            seconds = self._patience_with(peer).seconds() if timeout is None else timeout
            question = _Question(self._asked, peer, now, seconds, timeout is None, position, together)
            self._open[self._asked] = question
            together.posted.append(question)
            frame = self._codec.encode(Envelope("ask", self._asked, message))
            self._transport.post(peer, frame, partial(self._gone, question))
        if together.open:
            self._wait_for_next(together)
        try:
            await together.over
        finally:
            self._forget(together)
        return together.replies

    def on_reply(self, sender: PeerId, envelope: Envelope) -> None:
        """A reply has come in. Raises MessageError where it answers another peer's question."""
        question = self._open.get(envelope.id)
        if question is None:
            number, asked = self._overdue.get(sender, (None, 0.0))
            if number == envelope.id:
                del self._overdue[sender]
                self._patience_with(sender).answered(self._clock.time() - asked)
            return
        if question.to != sender:
            raise MessageError("a reply to another peer's question", where=sender)
        if question.adaptive:
            self._patience_with(sender).answered(self._clock.time() - question.asked)
        del self._open[question.number]
        question.together.settle(question, envelope.message)

    def close(self) -> None:
        """Give up: whoever waits is cancelled."""
        for question in list(self._open.values()):
            self._forget(question.together)
            question.together.over.cancel()

    def _wait_for_next(self, together: _Together) -> None:
        """Set the timer to the first of the open questions that will be given up."""
        ends = [q.asked + q.seconds for q in together.posted if q.number in self._open]
        if ends:
            together.timer = asyncio.get_running_loop().call_at(min(ends), self._time_out, together)

    def _patience_with(self, peer: PeerId) -> Patience:
        """What is known of a peer's answers; of the last ``_PARTNERS`` peers dealt with."""
        known = self._memory.patience
        patience = known.pop(peer, None) or Patience(self._memory.patience_with_all)
        known[peer] = patience
        if len(known) > _PARTNERS:
            del known[next(iter(known))]
        return patience

    def _time_out(self, together: _Together) -> None:
        now = asyncio.get_running_loop().time() + _TICK
        for question in together.posted:
            if question.number in self._open and question.asked + question.seconds <= now:
                del self._open[question.number]
                if question.adaptive:
                    self._patience_with(question.to).timed_out()
                    self._overdue[question.to] = question.number, question.asked
                what = f"no answer within {question.seconds:.3g} s"
                together.settle(question, PeerUnreachable(what, where=question.to))
        self._wait_for_next(together)

    def _gone(self, question: _Question) -> None:
        if self._open.pop(question.number, None) is not None:
            question.together.settle(question, PeerUnreachable("the peer is not running", where=question.to))

    def _forget(self, together: _Together) -> None:
        if together.timer is not None:
            together.timer.cancel()
        for question in together.posted:
            self._open.pop(question.number, None)
        together.posted = []  # a question knows those asked with it: replies, vectors among them, would stay in a cycle
