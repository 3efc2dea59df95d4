"""A user's script as a site of protocol swarm: the script's calls on one side, the protocol's on the other.

The script's thread is in a call, and waits for it, or trains; the protocol asks for a check-in, and waits until the
script brings one. All of this happens on the process's background loop; hashing and merging in a thread beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from coterie import aggregation, registry
from coterie.aggregation.merging import METHODS, Readers, merge, merge_by_rule
from coterie.aggregation.merging.models import Piece
from coterie.layout import Layout, Snapshot
from coterie.network import MemorySnapshot
from coterie.network.spool import Spool, SpooledSnapshot
from coterie.protocols.swarm import Adopted, CheckedIn, Mode, Part, Terms
from coterie.swarm.session import CheckIn, Merged

_ = aggregation  # registers the rules
_ENDLESS = 1 << 31
"""Rounds of a training, for rules that ask how many there are: nobody knows."""


class ScriptSite:
    """Implements ``SwarmSite`` for a script. ``say``: what the user should know; None when all is well again.
    ``spool``: where merged models go; None: they are small, and stay in memory.

    ``samples`` is 1: models weigh by ``nodeWeightage`` alone.
    """

    remembers = False
    samples = 1

    def __init__(self, terms: Terms, layout: Layout, spool: Spool | None, say: Callable[[str | None], None]) -> None:
        self.terms, self.layout, self._spool, self._say = terms, layout, spool, say
        self._brought: CheckedIn | None = None
        """What the script has brought, and the protocol has not taken."""
        self._taken: CheckedIn | None = None
        """What the protocol has taken, and nothing has come of yet."""
        self._waiting: asyncio.Future[Merged] | None = None
        """The script, in a call."""
        self._outcome: Merged | None = None
        """What came while nobody waited, or the final one."""
        self._snapshot: Snapshot | None = None
        """Owns the memory of the last outcome, which the script reads until its next call."""
        self._interval = terms.sync_frequency
        self._round = 0
        self._arrived = asyncio.Event()
        self._failure: BaseException | None = None

    # What the script calls

    async def bring(self, checkin: CheckIn, *, ending: bool = False) -> Merged:
        """Check in, and wait for what comes of it. Raises what has ended the training here.

        Cancelled, it takes back what was not taken yet; what comes of the rest is the answer to the next call.
        """
        if self._failure is not None:
            raise self._failure
        made = MemorySnapshot(self.layout.hash, checkin.vector)
        digest = await asyncio.to_thread(made.digest)
        outcome, self._outcome = self._outcome, None
        if outcome is not None and outcome.over:
            self._outcome = outcome
        if outcome is not None and (outcome.over or not ending):
            return outcome
        self._brought = CheckedIn(
            made,
            digest,
            weight=max(1, checkin.weight),
            steps=checkin.steps,
            epochs=checkin.epochs,
            loss=checkin.figures.loss,
            metric=checkin.figures.metric,
            ending=ending,
            mode=Mode.INACTIVE if checkin.weight == 0 else Mode(checkin.mode),
        )
        self._arrived.set()
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            return await self._waiting
        finally:
            self._waiting, self._brought = None, None
            self._arrived.clear()

    def fail(self, error: BaseException) -> None:
        """The training has ended here: whoever waits is told, and who calls later."""
        self._failure = error
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)

    @property
    def failed(self) -> bool:
        """Whether the training has ended here by an error."""
        return self._failure is not None

    def _answer(self, merged: Merged, snapshot: Snapshot) -> None:
        self._snapshot, self._taken = snapshot, None
        if merged.over:
            self._outcome = merged
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(merged)
        else:
            self._outcome = merged
        self._brought = None
        self._arrived.clear()

    # What the protocol calls

    async def check_in(self, round: int) -> CheckedIn:
        taken = self._taken
        if taken is not None and self._waiting is not None and not taken.ending:  # nothing is merged: train on alone
            alone = Merged(taken.snapshot.tensor(), self._round, 1, self._interval, over=False)
            self._answer(alone, taken.snapshot)
        await self._arrived.wait()
        self._arrived.clear()
        self._taken, self._brought = self._brought, None
        if self._taken is None:
            raise RuntimeError("a check-in arrived that is none")
        return self._taken

    async def merge(self, parts: Sequence[Part], last: Snapshot | None, round: int) -> Snapshot:
        return await asyncio.to_thread(self._merge, parts, last, round)

    async def digest(self, snapshot: Snapshot) -> bytes:
        return await asyncio.to_thread(snapshot.digest)  # of what came, the network has made it from the bytes

    async def adopt(self, adopted: Adopted) -> None:
        self._round, self._interval = adopted.round, adopted.next_interval
        if self._taken is not None and self._taken.ending and not adopted.over:
            return  # the others go on; what the script waits for is the final model
        merged = Merged(
            adopted.snapshot.tensor(), adopted.round, adopted.peers, adopted.next_interval, over=adopted.over
        )
        self._answer(merged, adopted.snapshot)

    def blocked(self, reason: str | None) -> None:
        self._say(reason)

    def _merge(self, parts: Sequence[Part], last: Snapshot | None, round: int) -> Snapshot:
        room = self._spool.room(self.layout.hash, self.layout.size) if self._spool is not None else None
        made = room or MemorySnapshot(self.layout.hash, torch.empty(self.layout.size))
        models = Readers(self.layout.size, {part.peer: _reader(part.snapshot) for part in parts})
        weights, method = [part.weight for part in parts], self.terms.merge
        if isinstance(method, str) and method in METHODS:
            merge(models, weights, method, made.tensor())
        else:
            base = last.tensor() if last is not None else parts[0].snapshot.tensor()
            merged = merge_by_rule(
                rule_of(method),
                models,
                weights,
                base=base,
                layout=self.layout,
                samples=[part.samples for part in parts],
                round=round,
                rounds=_ENDLESS,
            )
            made.tensor().copy_(merged.vector)
        return made


def _reader(snapshot: Snapshot) -> Callable[[int, Piece], None]:
    if isinstance(snapshot, SpooledSnapshot):
        return snapshot.read
    elements = snapshot.tensor().numpy()

    def read(start: int, out: Piece) -> None:
        out[:] = elements[start : start + len(out)]

    return read


def rule_of(method: str | Callable[..., object]) -> Callable[..., object]:
    """The rule of aggregation that ``mergeMethod`` names. Raises SpecError and PluginError."""
    if not isinstance(method, str):
        return method
    return registry.rules.resolve(method, Path.cwd(), "SwarmCallback: mergeMethod").function
