"""A protocol of a user's own on the shared chain: whoever leads adds a small signed note, until there are enough.

coterie run --set federation.protocol=chain.py:chain --set federation.peers=7 --set federation.rounds=20
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from coterie.ledger.records import Record
from coterie.ledger.shared import SharedBlock
from coterie.protocols import Peer
from coterie.protocols.consensus import ChainTerms, Payload, PeerChain, View


async def chain(
    peer: Peer,
    rounds: int,
    *,
    closing: Annotated[int, Field(ge=1)] = 4,
    pause: Annotated[float, Field(ge=0)] = 0.0,
    delay: Annotated[float, Field(gt=0)] = 0.5,
) -> None:
    """``rounds`` notes, each ``closing``-th block of an epoch the one that closes it; ``pause`` seconds before each.

    ``delay``: seconds within which messages should arrive.
    """
    place = await peer.chain(ChainTerms())
    notes = Notes(peer, place, rounds, closing, pause)
    consensus = place.agree(peer, notes, delay)
    peer.beside(consensus.run()).add_done_callback(notes.ended)
    for round in range(notes.count, rounds):
        await peer.checkpoint(round)
        await notes.reach(round + 1)
        peer.metrics.round_done(round, 0.0, None)


class Notes:
    """The application: what it has taken in of the chain, and what it puts there."""

    def __init__(self, peer: Peer, place: PeerChain, rounds: int, closing: int, pause: float) -> None:
        self._peer, self._place, self._rounds, self._closing, self._pause = peer, place, rounds, closing, pause
        self.stands, self.count, self._in_epoch = (0, 0), 0, 0
        kept = peer.store.get("chain")
        if kept is not None and tuple(kept["stands"]) <= (place.ledger.chain.state.epoch, place.ledger.chain.height):
            self.stands, self.count, self._in_epoch = tuple(kept["stands"]), kept["count"], kept["in_epoch"]
        self._reached: asyncio.Future[None] | None = None
        self._wanted = 0

    async def reach(self, count: int) -> None:
        """Return when so many notes are final. Raises what went wrong in consensus."""
        if self.count < count:
            self._wanted, self._reached = count, asyncio.get_running_loop().create_future()
            await self._reached

    def ended(self, running: asyncio.Future[None]) -> None:
        error = None if running.cancelled() else running.exception()
        if error is not None and self._reached is not None and not self._reached.done():
            self._reached.set_exception(error)

    # What consensus asks

    async def due(self, view: View) -> None:
        if self._is_enough(view):
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(self._pause)

    async def payload(self, view: View) -> Payload | None:
        if self._is_enough(view):
            return None
        content = {"number": self._number(view), "by": self._peer.id}
        return Payload([Record.make(self._peer.identity, "note", content, time=self._place.now())], self._closes(view))

    async def accepts(self, view: View, block: SharedBlock, records: tuple[Record, ...]) -> bool:
        notes = _notes(records)
        if not notes:
            return not block.closes
        said = [(note.author, note.content.get("number")) for note in notes]
        return said == [(block.proposer, self._number(view))] and block.closes == self._closes(view)

    def final(self, block: SharedBlock, records: tuple[Record, ...]) -> None:
        for note in _notes(records):  # one that has begun with a checkpoint learns the number from the first
            self.count = int(note.content["number"])
        self.stands, self._in_epoch = (block.epoch, block.height), 0 if block.closes else self._in_epoch + 1
        kept = {"stands": list(self.stands), "count": self.count, "in_epoch": self._in_epoch}
        self._peer.store.put("chain", kept)
        if self._reached is not None and not self._reached.done() and self.count >= self._wanted:
            self._reached.set_result(None)

    def _is_enough(self, view: View) -> bool:
        return self._number(view) > self._rounds

    def _number(self, view: View) -> int:
        """Of the next note, from 1."""
        return self.count + sum(len(_notes(block.records)) for block in view.ancestors) + 1

    def _closes(self, view: View) -> bool:
        return self._in_epoch + len(view.ancestors) + 1 >= self._closing


def _notes(records: Sequence[Record]) -> list[Record]:
    """Without what consensus itself has recorded."""
    return [record for record in records if record.kind == "note"]
