"""How members keep each other's chains: each asks another now and then what it has, and takes what is missing.

What comes is checked as ``ledger.take`` says; junk is counted against the sender. Two blocks of one author for one
height are evidence, which this peer records in its own chain for anybody to verify. A node that has lost the end of its
own chain gets it back from those who have it, before it adds to it (see ``PeerLedger``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec

from coterie.errors import LedgerError, MessageError
from coterie.identity import PeerId, short_name
from coterie.ledger import Equivocation, FullBlock, Head, LedgerStore, PeerLedger, Record, Request, StoreError, requests
from coterie.network import Message, message
from coterie.protocols import Peer
from coterie.protocols.allowance import Allowance

MOST_HEADS = 2000
MOST_CHAIN_BYTES = 64 << 20
"""Of another's chain, about: what it adds beyond that is not taken. A round of an honest one takes some 500 bytes."""
_ASKS_A_SECOND, _BURST = 20.0, 500.0
"""Of one member, answered: a look at all chains asks once a chain."""
_MOST_BLOCKS = 256
_STEPS = 64
_EVERY = 20.0
"""Seconds between two looks at another member."""
_ANSWER = 10.0
_RECENT = 64
"""Blocks from the end of a chain in which a record is looked for."""
_log = logging.getLogger("coterie.ledger")
Author = Annotated[str, msgspec.Meta(min_length=64, max_length=64)]


@message
class ChainHeadsAsk(Message, frozen=True):
    """Which chains have you, and how far?"""


@message
class ChainHeads(Message, frozen=True):
    """By author, the last block of each chain here."""

    heads: Annotated[dict[Author, Head], msgspec.Meta(max_length=MOST_HEADS)]


@message
class ChainAsk(Message, frozen=True):
    """Give me these blocks of one chain."""

    request: Request


@message
class ChainBlocks(Message, frozen=True):
    """Blocks, in the order of their heights."""

    blocks: Annotated[tuple[FullBlock, ...], msgspec.Meta(max_length=_MOST_BLOCKS)]


class Chains:
    """The chains at one node, kept like the others'. ``members``: present and former ones, whose chains are kept."""

    def __init__(self, peer: Peer, store: LedgerStore, own: PeerLedger, members: Callable[[], set[PeerId]]) -> None:
        self._peer, self._store, self._own, self._members = peer, store, own, members
        self._evidence: dict[PeerId, Equivocation] = {}
        self._recovered = False
        self._full: set[PeerId] = set()
        self._unkept = False
        """The last pull found no room here."""
        self._allowance = Allowance(_ASKS_A_SECOND, _BURST)
        peer.handle(ChainHeadsAsk, self._on_heads)
        peer.handle(ChainAsk, self._on_ask)

    async def run(self) -> None:
        """Look at one member after another, until cancelled."""
        while True:
            await asyncio.sleep(_EVERY * (0.5 + self._peer.secrets.random()))
            others = sorted(self._members() - {self._peer.id})
            if others:
                await self.pull(self._peer.secrets.choice(others))

    async def recover(self, others: list[PeerId]) -> None:
        """At a start: whatever of the own chain others have and this node has lost."""
        await asyncio.gather(*(self.pull(other) for other in others))
        self._recovered = True
        for evidence in self._evidence.values():
            self._accuse(evidence)

    async def pull(self, other: PeerId) -> None:
        """Take what ``other`` has and this node lacks. Whatever is wrong with it ends it, and is counted against it."""
        try:
            for _ in range(_STEPS):
                (answer,) = await self._peer.ask_all([other], ChainHeadsAsk(), _ANSWER)
                if not isinstance(answer, ChainHeads):
                    return
                authors = self._wanted()
                wanted = requests(self._store.heads(), answer.heads, authors)
                if not await self._fetch(other, wanted, authors):
                    return
                self._unkept = False
        except StoreError as error:
            if not self._unkept:
                _log.error("what others have is not kept: %s", error)
            self._unkept = True
        except LedgerError as error:
            self._peer.metrics.dropped(other, error)

    async def confirms(self, author: PeerId, kind: str, content: Mapping[str, Any]) -> bool:
        """Whether the author's chain holds a record of this kind and content; asks the author if it is not here."""
        if not self._found(author, kind, content) and author != self._peer.id:
            await self.pull(author)
        return self._found(author, kind, content)

    def _found(self, author: PeerId, kind: str, content: Mapping[str, Any]) -> bool:
        head = self._store.head(author)
        if head is None:
            return False
        for full in reversed(self._store.blocks(author, max(0, head.height + 1 - _RECENT), _RECENT)):
            for record in map(Record.decode, full.records):
                if record.kind == kind and record.content == dict(content):
                    return True
        return False

    def _wanted(self) -> set[PeerId]:
        """Whose chains are taken: not those of members that fill others' disks."""
        authors = self._members()
        full = {a for a in authors if a != self._peer.id and self._store.nbytes(a) >= MOST_CHAIN_BYTES}
        for author in sorted(full - self._full):
            _log.warning("the chain of %s is longer than is kept of one: no more of it is taken", short_name(author))
        self._full |= full
        return authors - full

    async def _fetch(self, other: PeerId, wanted: tuple[Request, ...], authors: set[PeerId]) -> bool:
        """Whether anything new came."""
        taken = 0
        for request in wanted:
            (answer,) = await self._peer.ask_all([other], ChainAsk(request), _ANSWER)
            if not isinstance(answer, ChainBlocks):
                return False
            received = self._store.receive(answer.blocks, authors)
            taken += received.taken
            for evidence in received.evidence:
                if evidence.author not in self._evidence:
                    self._evidence[evidence.author] = evidence
                    _log.warning("%s has signed two blocks for one height", short_name(evidence.author))
                    if self._recovered:  # before that, a block of ours might contradict one that was lost here
                        self._accuse(evidence)
        return taken > 0

    def _accuse(self, evidence: Equivocation) -> None:
        try:
            self._own.append("equivocation", {"author": evidence.author, "evidence": evidence.encode().hex()})
        except LedgerError as error:
            _log.error("evidence is not on disk: %s", error)

    def _on_heads(self, sender: PeerId, question: ChainHeadsAsk) -> ChainHeads:
        self._require_member(sender)
        heads = self._store.heads()
        return ChainHeads(dict(sorted(heads.items())[:MOST_HEADS]))

    def _on_ask(self, sender: PeerId, question: ChainAsk) -> ChainBlocks:
        self._require_member(sender)
        request = question.request
        return ChainBlocks(tuple(self._store.blocks(request.author, request.start, min(request.limit, _MOST_BLOCKS))))

    def _require_member(self, sender: PeerId) -> None:
        if sender not in self._members():
            raise MessageError("one that is no member asked for chains", where=sender)
        if not self._allowance.take(sender, self._peer.clock.time()):
            raise MessageError("a member asks for chains too often", where=sender)
