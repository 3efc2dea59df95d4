"""How one that is behind comes to know what others know: it asks, one peer at a time, and checks what it is told.

Final blocks come in batches, from where the asker stands to the end, epoch by epoch; then certificates of the present
epoch and blocks that they name. A voter asks when a message shows others to be ahead, when a block is lacking, and when
it is stuck; a peer that does not vote asks every 2 D, and a voter that hears nothing every 128 D: it may have been
cut off while the others rest.

Threat model. Answers are certified or refused, so a liar can only keep something back: the next one is asked, those
that say they are ahead three times out of four. Who brings nothing, or is slow, is then neither believed nor often
asked for a while, twice as long each time: otherwise one liar that never answers could keep a peer that follows from
ever coming to the end. One question is under way at a time, and one in vain is followed by a pause of D / 2, whatever
others claim. An answer is one message; who asks more than ``ASKS_A_SECOND`` is refused.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from coterie.errors import LedgerError, MessageError, PeerUnreachable
from coterie.ledger.shared import Certificate, FullSharedBlock
from coterie.network import Message
from coterie.protocols.allowance import Allowance
from coterie.protocols.consensus import steps
from coterie.protocols.consensus.messages import (
    MOST_LACKING,
    MOST_NEWS,
    MOST_NEWS_BYTES,
    ConsensusAhead,
    ConsensusNews,
    ConsensusPull,
)
from coterie.protocols.peer import PeerId

if TYPE_CHECKING:
    from coterie.protocols.consensus.consensus import Consensus

_REST = 128
_MOST_DOUBLINGS = 7
ASKS_A_SECOND = 20.0
_BURST = 100.0


class CatchUp:
    """The pulls of one peer, and its answers to those of others."""

    def __init__(self, consensus: Consensus) -> None:
        self._consensus, self._peer = consensus, consensus.peer
        self._wanted = asyncio.Event()
        self._ahead: dict[PeerId, tuple[int, int]] = {}
        """(epoch, height) that peers claim to be at, where that is ahead of this one."""
        self._doubted: dict[PeerId, tuple[int, float]] = {}
        """How often in a row a peer was asked in vain, and until when its claims count for nothing."""
        self._allowance = Allowance(ASKS_A_SECOND, _BURST)
        self._hinted: dict[PeerId, float] = {}
        self._peer.handle(ConsensusPull, self._on_pull)
        self._peer.handle(ConsensusAhead, self._on_ahead)

    def want(self, stood: tuple[int, int] | None = None) -> None:
        """Ask somebody as soon as may be; where this peer ``stood`` at a place, only if it is there still."""
        if stood is None or stood == self._consensus.stands:
            self._wanted.set()

    def hint(self, to: PeerId) -> None:
        """Tell one that is behind that this peer is not; at most once in D / 2."""
        now = self._peer.clock.time()
        if self._hinted.get(to, float("-inf")) + self._consensus.delay / 2 <= now:
            self._hinted[to] = now
            machine = self._consensus.machine
            self._peer.send(to, ConsensusAhead(machine.state.epoch, machine.height))

    def claims(self, sender: PeerId, epoch: int, height: int) -> None:
        """A peer has shown, or says, that it is so far."""
        if (epoch, height) > self._consensus.stands and not self._doubts(sender):
            self._ahead[sender] = epoch, height

    async def run(self) -> None:
        """Pull whenever that is wanted, until cancelled."""
        while True:
            pause = self._consensus.delay * (_REST if self._consensus.machine.votes else 2)
            try:
                async with asyncio.timeout(pause):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            while (whom := self._whom()) is not None and await self._pull(whom):
                pass
            await asyncio.sleep(self._consensus.delay / 2)

    def _whom(self) -> PeerId | None:
        stands, dice = self._consensus.stands, self._peer.secrets
        self._ahead = {peer: place for peer, place in self._ahead.items() if place > stands}
        if self._ahead and dice.randrange(4):
            return dice.choice(list(self._ahead))
        others = self._consensus.unheard() or self._consensus.others()
        if self._is_alone() and (not others or not dice.randrange(4)):
            others = self._consensus.members() or others
        if dice.randrange(4):
            others = [peer for peer in others if not self._doubts(peer)] or others
        return dice.choice(others) if others else None

    def _is_alone(self) -> bool:
        """Whether the voters that this peer knows of may all be gone since: others must then be asked as well."""
        machine = self._consensus.machine
        return not machine.votes or len(machine.silent()) >= len(machine.state.voters) - 1

    async def _pull(self, whom: PeerId) -> bool:
        """Whether the answer brought final blocks, so that there may be more where they came from."""
        question, asked = self._question(), self._peer.clock.time()
        more = useful = False
        try:
            more = self._take(whom, await self._peer.ask(whom, question, 4 * self._consensus.delay))
            useful = more or question != self._question()
        except PeerUnreachable:
            pass
        except (LedgerError, MessageError) as error:
            self._peer.metrics.dropped(whom, error)
        self._judge(whom, asked, useful)
        return more

    def _question(self) -> ConsensusPull:
        machine = self._consensus.machine
        lacking = tuple(machine.lacking()[:MOST_LACKING])
        return ConsensusPull(machine.state.epoch, machine.final, machine.gap(), lacking)

    def _judge(self, whom: PeerId, asked: float, useful: bool) -> None:
        """Whether to believe a peer that it is ahead: what can be got of it comes within 2 D."""
        now, delay = self._peer.clock.time(), self._consensus.delay
        if useful and now - asked <= 2 * delay:
            self._doubted.pop(whom, None)
            return
        self._ahead.pop(whom, None)
        times = min(self._doubted.get(whom, (0, 0.0))[0] + 1, _MOST_DOUBLINGS)
        self._doubted[whom] = times, now + 8 * delay * 2**times

    def _doubts(self, peer: PeerId) -> bool:
        return self._doubted.get(peer, (0, float("-inf")))[1] > self._peer.clock.time()

    def _take(self, whom: PeerId, news: Message) -> bool:
        if not isinstance(news, ConsensusNews):
            raise MessageError("an answer is not what was asked for", where=whom)
        consensus = self._consensus
        if news.history is not None:
            more = consensus.receive(news.history)
        else:
            more = False
            self._ahead.pop(whom, None)
            told: list[steps.Event] = [steps.Certified(certificate) for certificate in news.certificates]
            for event in told + [steps.Fetched(full) for full in news.blocks]:
                if news.epoch == consensus.machine.state.epoch:  # it may close meanwhile
                    consensus.step(event)
        consensus.answered(whom, news.epoch)
        return more

    # Answering

    def _on_ahead(self, sender: PeerId, hint: ConsensusAhead) -> None:
        self._consensus.require_member(sender)
        self.claims(sender, hint.epoch, hint.height)
        if (hint.epoch, hint.height) > self._consensus.stands:
            self.want()

    def _on_pull(self, sender: PeerId, pull: ConsensusPull) -> ConsensusNews:
        self._consensus.require_member(sender)
        self._require_patience(sender)
        machine, ledger = self._consensus.machine, self._consensus.ledger
        epoch, certificates, blocks = machine.state.epoch, list[Certificate](), list[FullSharedBlock]()
        history = None
        if (pull.epoch, pull.final) < (epoch, machine.final):
            with suppress(LedgerError):  # a ledger that was damaged in an earlier epoch
                history = ledger.blocks(pull.epoch, pull.final)
        elif pull.epoch == epoch:
            room = MOST_NEWS_BYTES
            for full in self._asked(pull):
                room -= len(full.encode())
                if room >= 0 or not blocks:
                    blocks.append(full)
            for height in sorted(machine.tallies):
                if height >= pull.gap:
                    for certificate in filter(machine.may_tell, machine.tallies[height].certificates.values()):
                        room -= len(certificate.encode())
                        if room >= 0 and len(certificates) < MOST_NEWS:
                            certificates.append(certificate)
        else:
            self.claims(sender, pull.epoch, pull.final)
        return ConsensusNews(epoch, machine.height, history, tuple(certificates), tuple(blocks))

    def _asked(self, pull: ConsensusPull) -> list[FullSharedBlock]:
        tallies = self._consensus.machine.tallies.values()
        return [tally.blocks[name] for name in pull.lacking for tally in tallies if name in tally.blocks]

    def _require_patience(self, sender: PeerId) -> None:
        if not self._allowance.take(sender, self._peer.clock.time()):
            raise MessageError("a peer asks for the shared chain too often", where=sender)
