"""What consensus asks of the application whose records it orders, and what the application is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from coterie.ledger.records import Record
from coterie.ledger.shared import CheckedBlock, Checkpoint, SharedBlock


@dataclass(frozen=True)
class View:
    """Where a block would stand: its epoch and height, and what it would follow."""

    state: Checkpoint
    """The epoch's: number, beacon, voters."""
    height: int
    ancestors: tuple[CheckedBlock, ...]
    """Blocks it would follow that are not final yet, oldest first, as of the call: what is final, ``final`` has told.

    It may tell more while a coroutine that was given this view waits: ancestors up to ``stands`` are then counted twice
    by who adds both.
    """

    @property
    def epoch(self) -> int:
        return self.state.epoch


@dataclass(frozen=True)
class Payload:
    """What the next block is to hold."""

    records: Sequence[Record] = ()
    closes: bool = False
    """Whether it closes the epoch (rule 19). Above height ``LAST_OPEN`` it does in any case."""


class Application(Protocol):
    """Whose records are ordered. Its coroutines may wait; they are cancelled when their height is left.

    What differs between peers here costs time, not safety: a peer that refuses a block does not vote for it.
    """

    async def due(self, view: View) -> None:
        """Return when a block should be made here: until then nobody's timer runs, and nothing is voted away.

        A peer whose voters are at rest for long, such as while all train, waits here. It is not asked for blocks after
        the one that closes the epoch, nor where something has not become final in time: those are due at once.
        """
        ...

    async def payload(self, view: View) -> Payload | None:
        """What to put into the block; asked only of the leader. None: nothing, and another leads the next height."""
        ...

    async def accepts(self, view: View, block: SharedBlock, records: tuple[Record, ...]) -> bool:
        """Whether to vote for this block. It is well formed, signed by the leader, and follows what it should.

        Above height ``LAST_OPEN`` every block closes its epoch: who refuses them all there stops the chain.
        """
        ...

    def final(self, block: SharedBlock, records: tuple[Record, ...]) -> None:
        """This block is final: each once, in order; after a restart from ``stands`` on."""
        ...

    @property
    def stands(self) -> tuple[int, int]:
        """(epoch, height) of the last final block it has taken in; (0, 0) before the first."""
        ...
