"""Catching up: what to ask another peer for, and what to believe of its answer. Pure; the network is elsewhere.

Peers tell each other their heads, ask for what they miss, and check what comes. The other peer may lie about heads (it
then has nothing to show), send blocks that were never asked for, or leave some out; it cannot invent a block: each is
signed by its author and names the one before. A request begins at our own head, so that an author who has shown
different blocks to different peers is found out by the first one that comes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, NamedTuple, Protocol

import msgspec

from coterie.errors import LedgerError
from coterie.identity import PeerId
from coterie.ledger.blocks import MOST_FULL_BYTES, Block, Equivocation, FullBlock
from coterie.ledger.chain import extend
from coterie.ledger.encoding import Hash, Height, Key
from coterie.ledger.records import Record

MOST_BATCH_BLOCKS = 256
"""In one answer."""
MOST_BATCH_BYTES = 3 << 18
"""Of the blocks in one answer with their records: it fits into one message."""


class Head(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How far a chain goes, at some peer."""

    height: Height
    id: Hash
    """Of the block at that height."""


class Request(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """For the blocks of ``author`` from height ``start``, at most ``limit`` of them."""

    author: Key
    start: Height
    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST_BATCH_BLOCKS)]


class Known(Protocol):
    """What is known already; a LedgerStore is one."""

    def head(self, author: PeerId) -> Block | None:
        """The last block of a chain."""
        ...

    def block(self, author: PeerId, height: int) -> Block | None:
        """One block."""
        ...


class Received(NamedTuple):
    """What came of an answer."""

    taken: int
    """Number of blocks that were new."""
    evidence: tuple[Equivocation, ...]
    """Of authors who have signed another block than the one known here."""


class Batch(NamedTuple):
    """An answer, checked."""

    blocks: tuple[tuple[Block, tuple[Record, ...], FullBlock], ...]
    """What is new, in an order in which it can be added."""
    evidence: tuple[Equivocation, ...]


def requests(
    ours: Mapping[PeerId, Head], theirs: Mapping[PeerId, Head], members: Collection[PeerId]
) -> tuple[Request, ...]:
    """What to ask a peer with the heads ``theirs`` for, by author; only chains of ``members`` are wanted.

    Each request overlaps by the block at our own head, which the other must have too. Long chains take several rounds.
    """
    wanted = []
    for author in sorted(set(theirs) & set(members)):
        own, other = ours.get(author), theirs[author]
        if own is None or other.height > own.height or (other.height == own.height and other.id != own.id):
            start = 0 if own is None else own.height
            wanted.append(Request(author, start, min(other.height - start + 1, MOST_BATCH_BLOCKS)))
    return tuple(wanted)


def take(known: Known, blocks: Sequence[FullBlock], genesis: bytes, members: Collection[PeerId]) -> Batch:
    """What is new in ``blocks``, which came from another peer, beside what is ``known``.

    Once an author is shown to have signed two blocks for one height, further blocks of that author are passed over.
    Raises LedgerError for anything wrong, naming the block and record: nothing of the answer is then to be believed.
    """
    if len(blocks) > MOST_BATCH_BLOCKS:
        raise LedgerError(f"{len(blocks)} blocks came, at most {MOST_BATCH_BLOCKS} are read")
    total = sum(full.nbytes for full in blocks)
    if total > max(MOST_BATCH_BYTES, MOST_FULL_BYTES):
        raise LedgerError(f"blocks of {total} bytes came, at most {MOST_BATCH_BYTES} are read")
    new: list[tuple[Block, tuple[Record, ...], FullBlock]] = []
    chains: dict[PeerId, dict[int, Block]] = {}  # the new ones, by author and height
    evidence: dict[PeerId, Equivocation] = {}
    for full in blocks:
        block = Block.decode(full.block)
        if block.federation != genesis:
            raise LedgerError("it is of another federation", where=block.where)
        if block.author not in members:
            raise LedgerError("its author is not a member", where=block.where)
        chain = chains.setdefault(block.author, {})
        head = next(reversed(chain.values())) if chain else known.head(block.author)
        if block.author in evidence:
            continue
        if head is None or block.height > head.height:
            records = extend(head, block, full.records, genesis)
            chain[block.height] = block
            new.append((block, records, full))
            continue
        same = chain.get(block.height) or known.block(block.author, block.height)
        if same is not None and same.id != block.id:
            evidence[block.author] = Equivocation.of(same, block)
    return Batch(tuple(new), tuple(evidence[author] for author in sorted(evidence)))
