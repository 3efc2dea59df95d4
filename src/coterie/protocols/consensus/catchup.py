"""How one that is behind comes to know what others know: it asks, one peer at a time, and checks what it is told.

Final blocks come in batches, from where the asker stands to the end, epoch by epoch; then certificates of the present
epoch and blocks that they name. A voter asks when a message shows others to be ahead, when a block is lacking, and when
it is stuck; a peer that does not vote asks every 2 D.

Threat model. Answers are certified or refused, so a liar can only keep something back: the next one is asked, those
that say they are ahead three times out of four. One question is under way at a time, and a fruitless one is followed by
a pause of D / 2, whatever others claim. An answer is one message; who asks more than ``ASKS_A_SECOND`` is refused.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from coterie.errors import LedgerError, MessageError, PeerUnreachable
from coterie.ledger.shared import Certificate, FullSharedBlock
from coterie.network import Message
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

ASKS_A_SECOND = 20.0
_BURST = 100.0


class CatchUp:
    """The pulls of one peer, and its answers to those of others."""

    def __init__(self, consensus: Consensus) -> None:
        self._consensus, self._peer = consensus, consensus.peer
        self._wanted = asyncio.Event()
        self._ahead: dict[PeerId, tuple[int, int]] = {}
        """(epoch, height) that peers claim to be at, where that is ahead of this one."""
        self._allowed: dict[PeerId, tuple[float, float]] = {}
        self._hinted: dict[PeerId, float] = {}
        self._peer.handle(ConsensusPull, self._on_pull)
        self._peer.handle(ConsensusAhead, self._on_ahead)

    def want(self) -> None:
        """Ask somebody as soon as may be."""
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
        if (epoch, height) > self._consensus.stands:
            self._ahead[sender] = epoch, height

    async def run(self) -> None:
        """Pull whenever that is wanted, until cancelled."""
        pause = 2 * self._consensus.delay
        while True:
            try:
                async with asyncio.timeout(None if self._consensus.machine.votes else pause):
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
        return dice.choice(others) if others else None

    async def _pull(self, whom: PeerId) -> bool:
        """Whether the answer brought final blocks, so that there may be more where they came from."""
        machine = self._consensus.machine
        question = ConsensusPull(
            machine.state.epoch, machine.final, machine.gap(), tuple(machine.lacking()[:MOST_LACKING])
        )
        try:
            return self._take(whom, await self._peer.ask(whom, question, 4 * self._consensus.delay))
        except PeerUnreachable:
            pass
        except (LedgerError, MessageError) as error:
            self._peer.metrics.dropped(whom, error)
        self._ahead.pop(whom, None)
        return False

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
        if sender in self._ahead:
            self.want()

    def _on_pull(self, sender: PeerId, pull: ConsensusPull) -> ConsensusNews:
        self._consensus.require_member(sender)
        self._require_patience(sender)
        machine, ledger = self._consensus.machine, self._consensus.ledger
        epoch, certificates, blocks = machine.state.epoch, list[Certificate](), list[FullSharedBlock]()
        history = None
        if (pull.epoch, pull.final) < (epoch, machine.final):
            with suppress(LedgerError):  # what cannot be proved in one message
                history = ledger.blocks(pull.epoch, pull.final)
        elif pull.epoch == epoch:
            room = MOST_NEWS_BYTES
            for full in self._asked(pull):
                room -= len(full.encode())
                if room >= 0 or not blocks:
                    blocks.append(full)
            for height in sorted(machine.tallies):
                if height >= pull.gap:
                    for certificate in machine.tallies[height].certificates.values():
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
        now = self._peer.clock.time()
        left, since = self._allowed.pop(sender, (_BURST, now))
        left = min(_BURST, left + (now - since) * ASKS_A_SECOND)
        self._allowed[sender] = (max(0.0, left - 1.0), now)
        if left < 1.0:
            raise MessageError("a peer asks for the shared chain too often", where=sender)
