"""One peer's own ledger: what its protocol appends becomes a record in a block of its chain.

The danger is to sign two blocks for one height. A peer that goes on from an older state does so: from a back-up, or
from a disk that lost its last page although it had said that it was written. If nobody saw the lost block, the chain
simply goes on from the last good one, and nothing is wrong. If somebody did, the next block is an equivocation, and it
speaks against this peer for ever. So a node that starts first takes back what others have of its own chain
(``LedgerStore.receive``). Where a damaged file still holds later blocks without those before them, ``append`` refuses
until they are back. Whether nobody else has a later block cannot be known, only asked: ask as many as can be reached.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from coterie.errors import LedgerError
from coterie.identity import Identity
from coterie.ledger.blocks import Block, FullBlock
from coterie.ledger.records import Record
from coterie.ledger.store import LedgerStore


class PeerLedger:
    """The ``Ledger`` of a real peer, over a store that may hold others' chains too."""

    def __init__(self, identity: Identity, store: LedgerStore, clock: Callable[[], float] = time.time) -> None:
        """``clock``: seconds since 1970. A chain's time never goes back: a clock that does stands still meanwhile."""
        self._identity, self._store, self._clock = identity, store, clock

    @property
    def head(self) -> Block | None:
        """The last block of the own chain."""
        return self._store.head(self._identity.id)

    def append(self, kind: str, content: Mapping[str, str | int | float]) -> None:
        """Add a record of a ``kind`` in a block of its own; it is on disk when this returns.

        Raises LedgerError, and nothing is added: content that has no canonical form, a disk that is full, or later
        blocks of this peer that others have and this store has not.
        """
        head, awaited = self.head, self._store.awaited(self._identity.id)
        height, previous = (0, self._store.genesis) if head is None else (head.height + 1, head.id)
        if awaited is not None:
            raise LedgerError(
                f"block {awaited} of this peer's chain is with others, but blocks from {height} on are missing here",
                where=str(self._store.path),
                remedy="Catch up from another peer first; a new block now would contradict the old one.",
            )
        now = max(int(self._clock() * 1000), 0 if head is None else head.time)
        records = [Record.make(self._identity, kind, content, time=now)]
        block = Block.make(self._identity, self._store.genesis, height, previous, records, time=now)
        self._store.append(FullBlock.of(block, records))
