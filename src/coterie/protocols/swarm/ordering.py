"""The training as an application of the consensus: which merge becomes final, and what follows from it.

A leader lets everybody have the merged model before it is voted on; a voter votes only for a merge whose model it has,
bytes checked against the hash. So a final merge's model is at a quorum of the voters: it survives its leader.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from coterie.errors import LayoutMismatch, LedgerError, SpecError, TrainingDiverged
from coterie.identity import PeerId as Key
from coterie.layout import Snapshot
from coterie.ledger.records import Record
from coterie.ledger.shared import Removal, SharedBlock
from coterie.ledger.shared.changes import record as change_record
from coterie.protocols.consensus import Payload, View
from coterie.protocols.swarm import state as rules
from coterie.protocols.swarm.joins import LASTS, may_leave, read_join, read_leave
from coterie.protocols.swarm.records import CheckInRecord
from coterie.protocols.swarm.site import Part
from coterie.protocols.swarm.state import MergeBlock
from coterie.protocols.swarm.training import Proposal, Training

_AGAIN = 1.0
_MOST_PROPOSALS = 8


class Ordering:
    """Implements the consensus' ``Application``. ``changed`` is called when a merge is final, and when one is held.

    ``fail`` is called with what ends the training here.
    """

    def __init__(self, training: Training, changed: Callable[[], None], fail: Callable[[BaseException], None]) -> None:
        self._training, self._changed, self._fail = training, changed, fail

    # Application

    async def due(self, view: View) -> None:
        training = self._training
        while True:
            best = training.best()
            if best is not None and best.found.merge.epoch == view.epoch and training.is_carried(best):
                return
            await training.bell.wait()

    async def payload(self, view: View) -> Payload | None:
        best = self._training.best()
        if best is None or best.found.merge.epoch != view.epoch or view.ancestors:
            return None
        return Payload([*best.records, *self._changes(best.found)], closes=True)

    async def accepts(self, view: View, block: SharedBlock, records: tuple[Record, ...]) -> bool:
        training = self._training
        try:
            found = rules.read_block(records, training.genesis)
            if found is None or not block.closes or view.ancestors:
                return False
            since, state = rules.checked_in(training.state, found), training.ledger.chain.state
            rules.require_changes(records, state, self._is_admitted, since)
            self.require(found)
        except LedgerError as error:
            proposer = training.peer_of(block.proposer) or block.proposer
            training.peer.metrics.dropped(proposer, error)
            return False
        while not await self.hold(found):
            await training.bell.wait(_AGAIN)
        return True

    def final(self, block: SharedBlock, records: tuple[Record, ...]) -> None:
        if self._take_in(block, records):
            self._changed()
            self._training.bell.ring()

    def _take_in(self, block: SharedBlock, records: tuple[Record, ...]) -> bool:
        """Whether the block holds a merge."""
        training, stands = self._training, (block.epoch, block.height)
        found = rules.read_block(records, training.genesis)
        before = training.ledger.checkpoint(block.epoch)
        if found is None or before is None:
            return False
        for check_in in found.check_ins:
            if difference := training.agreed.against(check_in.says.agreed):
                self._fail(
                    SpecError(
                        f"the others train on other terms: {difference}",
                        where=training.site.terms.contract,
                        remedy="Use the same settings at all sites, or another name for a training of your own.",
                    )
                )
                return False
        training.state = rules.after(training.state, found, training.agreed, before.voters, stands)
        own = training.state.parts.get(training.key)
        if own is not None:
            training.merged_serial = max(training.merged_serial, own.serial)
        held = [proposal for proposal in training.proposals.values() if proposal.digest == found.merge.model]
        training.merged = held[0].snapshot if held else None
        training.proposals = {}
        training.roll.begin_epoch()
        return True

    @property
    def stands(self) -> tuple[int, int]:
        return self._training.state.stands

    def replay(self) -> None:
        """Take in all that is final already."""
        ledger = self._training.ledger
        for epoch in range(ledger.chain.state.epoch + 1):
            height = 0
            while (batch := ledger.blocks(epoch, height)) is not None:
                for full in batch.blocks:
                    self._take_in(full.block, full.read_records())
                height = batch.blocks[-1].block.height

    def put_back(self, records: tuple[Record, ...], snapshot: Snapshot) -> None:
        """A proposed merge that was held before a crash."""
        training, found = self._training, rules.read_block(records, self._training.genesis)
        if found is not None and found.merge.epoch == training.state.epoch:
            training.models.publish(found.merge.model, snapshot, training.state.epoch)
            training.proposals[found.record.id] = Proposal(found, snapshot)

    # Merges that were proposed

    def require(self, found: MergeBlock) -> None:
        """Raise LedgerError for a merge that this peer would not vote for, whatever its model."""
        training = self._training
        rules.require_merge(training.state, found, training.agreed, training.voters, training.is_member)

    def let_go(self) -> None:
        """Of merges that nobody votes for any more, as one that has checked in is no member now: another is made."""
        kept = {name: held for name, held in self._training.proposals.items() if self._may_be(held.found)}
        if len(kept) < len(self._training.proposals):
            self._training.proposals = kept
            self._changed()

    def _may_be(self, found: MergeBlock) -> bool:
        try:
            self.require(found)
        except LedgerError:
            return False
        return True

    async def hold(self, found: MergeBlock, snapshot: Snapshot | None = None) -> bool:
        """Get the model of a proposed merge, checked, and let others have it; whether it is here now.

        ``snapshot``: where this peer has made it itself.
        """
        training, name = self._training, found.record.id
        if name in training.proposals:
            return True
        epoch, digest = training.state.epoch, found.merge.model
        if snapshot is None:
            there = [key for key in training.roll.holders(digest, epoch) if key != found.leader]
            whom = [training.peer_of(key) for key in [found.leader, *there] if key != training.key]
            at_once = len(training.others())  # all get it from the leader
            snapshot = await training.models.get(digest, [peer for peer in whom if peer is not None], at_once)
            if snapshot is None or not await self._is_right(found, digest):
                return False
        if training.state.epoch != epoch or len(training.proposals) >= _MOST_PROPOSALS:
            return False
        training.models.publish(digest, snapshot, epoch)
        training.proposals[name] = Proposal(found, snapshot)
        self._changed()
        training.bell.ring()
        return True

    async def merge(self, found: Sequence[CheckInRecord], leader: str) -> Snapshot | None:
        """The merge of these check-ins; None where a model of them cannot be had."""
        training, parts = self._training, []
        last, state = training.merged, training.state
        shares = rules.contributions(state, found, leader, training.agreed)
        for check_in, share in zip(found, shares, strict=True):
            if share.weight <= 0:
                continue
            snapshot = last if share.merged else await self.model(check_in, len(found))
            if snapshot is None:
                return None
            name = training.name(check_in.author)
            parts.append(Part(name, snapshot, share.weight, check_in.says.samples))
        if not parts:
            return last if state.merged else await self.model(next(c for c in found if c.author == leader), 1)
        if training.agreed.opening and state.epoch == 0:
            return parts[0].snapshot
        async with training.at_work:
            if training.state.epoch != state.epoch:
                return None
            return await training.site.merge(parts, last, state.epoch)

    async def model(self, check_in: CheckInRecord, parts: int) -> Snapshot | None:
        """The model of a check-in, one of ``parts`` to merge; None where it cannot be had."""
        training = self._training
        peer = training.peer_of(check_in.author)
        found = await training.models.get(check_in.says.model, [] if peer is None else [peer], parts)
        training.progress += 1
        training.bell.ring()
        return found

    async def _is_right(self, found: MergeBlock, digest: bytes) -> bool:
        """Whether the merged model is what the models make, where that is to be looked at."""
        training = self._training
        if not training.settings.recompute or found.leader == training.key:
            return True
        try:
            merged = await self.merge(found.check_ins, found.leader)
        except (TrainingDiverged, LayoutMismatch):
            return False
        if merged is None:
            return False
        if await training.site.digest(merged) == digest:
            return True
        error = LedgerError("the merged model is not the merge of the models", where=found.record.where)
        training.peer.metrics.dropped(training.name(found.leader), error)
        if found.leader not in training.liars:
            training.liars.append(found.leader)
        return False

    # Who votes

    def _is_admitted(self, key: Key) -> bool:
        """Whether it is a member of the federation now: of those who vote, one may have been one."""
        return self._training.peer_of(key) is not None

    def _changes(self, merge: MergeBlock) -> list[Record]:
        """Joins of members that would vote, leaves, and removals of voters that are no members any more."""
        training, since = self._training, rules.checked_in(self._training.state, merge)
        state, now, found = training.ledger.chain.state, training.now(), []
        locked = {entry.key for entry in state.locked}
        for key in sorted(training.roll.heard):
            join = read_join(training.roll.heard[key].beat.join, training.genesis)
            new = key not in state.following and key not in locked
            if join is not None and join.key == key and new and self._is_admitted(key) and state.epoch <= join.until:
                found.append(change_record(training.peer.identity, join, now))
        left = len(state.following)
        for voter in state.voters.members:
            if not self._is_admitted(voter.key) and voter.key in state.following:
                until = state.epoch + LASTS
                removal = Removal(genesis=training.genesis, until=until, key=voter.key)
                found.append(change_record(training.peer.identity, removal, now))
                left -= 1
        for key in sorted(training.roll.heard):
            leave = read_leave(training.roll.heard[key].beat.leave, training.genesis, key, state.epoch, since)
            if leave is not None and key in state.following and may_leave(state.rule, left - 1):
                found.append(leave)
                left -= 1
        return found
