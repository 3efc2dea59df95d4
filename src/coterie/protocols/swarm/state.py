"""What follows from a training's chain alone: every peer that has the same chain has the same state.

Checked before a vote, from the records: that the block holds one merge and the signed check-ins that went into it, of
members, for this epoch, on the same terms, enough of them, the leader's among them; that the training is not called
over while somebody trains. Reckoned from them, so nobody can lie about it: weights, next interval, whose turn it is.

Not checked: that the merged model is what the rule makes of the models, unless ``recompute`` is set; that the leader
left nobody out whose check-in it had; that it was its turn, as who has failed is seen by each with its own eyes; and
what sites say of themselves - base, samples, loss, metric.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from coterie.errors import LedgerError, MessageError
from coterie.identity import PeerId as Key
from coterie.ledger.records import Record
from coterie.ledger.shared import Checkpoint, Join, Leave, Removal, Voters
from coterie.ledger.shared.changes import read as read_change
from coterie.protocols.swarm.checkin import CheckIn, Contribution, Mode, contribution
from coterie.protocols.swarm.interval import Bounds, Interval, adapted
from coterie.protocols.swarm.joins import is_back, may_leave
from coterie.protocols.swarm.leader import lead_order, turns_after
from coterie.protocols.swarm.records import (
    CHECK_IN,
    MERGE,
    Agreed,
    CheckInRecord,
    SaysMerge,
    read_check_in,
    read_merge,
)


class PartRecord(msgspec.Struct, frozen=True):
    """One site's part in the last merge."""

    serial: int
    weight: float
    """All together 1, or all 0 where none counted."""
    loss: float | None
    metric: float | None
    epochs: int
    finished: bool


class State(msgspec.Struct, frozen=True):
    """Of a training, after a final block."""

    beacon: bytes
    """What draws the leaders of the next merge: the id of the last merge's record, or of what the chain began with."""
    interval: int
    epoch: int = 0
    """The next merge's; the merges so far."""
    stands: tuple[int, int] = (0, 0)
    """(epoch, height) of the last final block that is in here."""
    turns: dict[Key, int] = {}
    losses: dict[Key, float] = {}
    merged: bytes | None = None
    """Hash of the last merged model."""
    leader: Key = ""
    """Of the last merge."""
    over: bool = False
    parts: dict[Key, PartRecord] = {}
    """Of the last merge."""
    checked_in: dict[Key, int] = {}
    """The last merge that each site's check-in went into."""


class MergeBlock(NamedTuple):
    """A block that makes a merge."""

    leader: Key
    record: Record
    merge: SaysMerge
    check_ins: tuple[CheckInRecord, ...]
    """Sorted by their authors."""


def read_block(records: Sequence[Record], genesis: bytes) -> MergeBlock | None:
    """The merge in a block; None where it holds none. Raises LedgerError for one that is not well formed."""
    merges = [record for record in records if record.kind == MERGE]
    check_ins = tuple(read_check_in(record, genesis) for record in records if record.kind == CHECK_IN)
    if not merges and not check_ins:
        return None
    if len(merges) != 1:
        raise LedgerError(f"a block with {len(merges)} merges")
    authors = [check_in.author for check_in in check_ins]
    if authors != sorted(set(authors)):
        raise LedgerError("check-ins are not sorted by their authors, or one is there twice")
    return MergeBlock(merges[0].author, merges[0], read_merge(merges[0], genesis), check_ins)


def require_merge(
    state: State,
    found: MergeBlock,
    agreed: Agreed,
    voters: Voters,
    is_member: Callable[[Key], bool],
) -> None:
    """Raise LedgerError for a merge that must not become final: see the module's docstring."""
    says, authors = found.merge, [check_in.author for check_in in found.check_ins]
    where = found.record.where
    if says.epoch != state.epoch or any(check_in.says.epoch != state.epoch for check_in in found.check_ins):
        raise LedgerError(f"a merge or a check-in that is not of epoch {state.epoch}", where=where)
    if len(authors) < agreed.min_peers:
        raise LedgerError(f"a merge of {len(authors)} check-ins; {agreed.min_peers} are needed", where=where)
    if found.leader not in voters or found.leader not in authors:
        raise LedgerError("a merge by a peer that does not vote, or has not checked in", where=where)
    if says.over and not all(check_in.says.finished for check_in in found.check_ins):
        raise LedgerError("the training is called over while a site trains", where=where)
    for check_in in found.check_ins:
        if not is_member(check_in.author):
            raise LedgerError("a check-in of one that is no member", where=check_in.record.where)
        if difference := agreed.against(check_in.says.agreed):
            raise LedgerError(f"a check-in on other terms: {difference}", where=check_in.record.where)
        _part(state, check_in)


def require_changes(
    records: Sequence[Record], chain: Checkpoint, is_member: Callable[[Key], bool], checked_in: Mapping[Key, int]
) -> None:
    """Raise LedgerError for other records than merges bring, joins of strangers, removals of members, and leaves: after
    which too few would vote, before the merge, or of who is back.

    ``chain``: what the epoch began with; ``checked_in``: with the check-ins among ``records``.
    """
    gone, leaves, merged = set[Key](), False, False
    for record in records:
        if record.kind in (CHECK_IN, MERGE):
            merged = merged or record.kind == MERGE
            continue
        change = read_change(record, chain.genesis)
        if change is None:
            raise LedgerError("a record that does not belong here", where=record.where)
        if isinstance(change.says, Join) and not (is_member(change.says.key) and change.says.weight == 1):
            raise LedgerError("one that is no member, or with more than one vote, would vote", where=record.where)
        if isinstance(change.says, Removal) and is_member(change.says.key):
            raise LedgerError("a member would be removed", where=record.where)
        if isinstance(change.says, Leave) and not merged:
            raise LedgerError("a leave is recorded before a merge", where=record.where)
        if isinstance(change.says, Leave) and is_back(change.author, change.says, checked_in):
            raise LedgerError("a site would leave that has checked in since", where=record.where)
        if isinstance(change.says, Leave | Removal):
            leaves = leaves or isinstance(change.says, Leave)
            gone.add(change.author if isinstance(change.says, Leave) else change.says.key)
    left = sum(voter.key not in gone for voter in chain.following.members)
    if leaves and not may_leave(chain.rule, left):
        raise LedgerError(f"voters would leave, and {left} remain")


def checked_in(state: State, found: MergeBlock) -> dict[Key, int]:
    """The last merge that each site's check-in went into, once this one is final."""
    return {**state.checked_in, **{check_in.author: found.merge.epoch for check_in in found.check_ins}}


def contributions(state: State, found: Sequence[CheckInRecord], leader: Key, agreed: Agreed) -> list[Contribution]:
    """What goes into the merge for each check-in. Raises LedgerError for a base that does not exist."""
    if agreed.opening and state.epoch == 0:
        return [Contribution(merged=False, weight=float(check_in.author == leader)) for check_in in found]
    parts = [_part(state, check_in) for check_in in found]
    return [part if not part.merged or state.merged else Contribution(False, 0.0) for part in parts]


def after(state: State, found: MergeBlock, agreed: Agreed, voters: Voters, stands: tuple[int, int]) -> State:
    """The state once this merge is final."""
    parts = contributions(state, found.check_ins, found.leader, agreed)
    total = sum(part.weight for part in parts) or 1.0
    opening = agreed.opening and state.epoch == 0
    says = [check_in.says for check_in in found.check_ins]
    fresh = {
        check_in.author: check_in.says.loss
        for check_in in found.check_ins
        if check_in.says.loss is not None and check_in.says.base == state.epoch and not check_in.says.finished
    }
    interval = Interval(state.interval, state.losses)
    if agreed.adaptive and not opening:
        interval = adapted(interval, fresh, Bounds.about(agreed.sync_frequency))
    order = lead_order([voter.key for voter in voters.members], state.turns, state.beacon)
    return State(
        beacon=found.record.id,
        interval=interval.batches,
        epoch=state.epoch + 1,
        stands=stands,
        turns=turns_after(order, state.turns, found.leader),
        losses=dict(interval.losses),
        merged=found.merge.model,
        leader=found.leader,
        over=found.merge.over,
        parts={
            check_in.author: PartRecord(one.serial, part.weight / total, one.loss, one.metric, one.epochs, one.finished)
            for check_in, one, part in zip(found.check_ins, says, parts, strict=True)
        },
        checked_in=checked_in(state, found),
    )


def _part(state: State, check_in: CheckInRecord) -> Contribution:
    says = check_in.says
    # One that is done still adopts what is merged: where it has not, it is late, and its model ages like any other.
    stands_in = says.finished and says.mode is not Mode.SNAPSHOT
    try:
        said = CheckIn(says.base, says.weight, says.samples, stands_in, says.mode)
        return contribution(said, state.epoch, check_in.record.where)
    except MessageError as error:
        raise LedgerError(error.what, where=error.where) from None
