"""What the shared chain of a training holds: check-ins, and one merge for each epoch. Never a model, only its hash.

A merge's block closes its epoch, so epochs are merges: the merge of epoch e is number e + 1. The block holds the
check-ins that went into it, each signed by its site, and one record of the leader. Whoever reads the chain sees who
brought which model, with what weight, loss and metric.
"""

from __future__ import annotations

import hashlib
import math
from typing import Annotated, Any, TypeVar

import msgspec

from coterie.errors import LedgerError
from coterie.identity import Identity
from coterie.ledger.encoding import Hash, pack
from coterie.ledger.records import Record
from coterie.protocols.swarm.checkin import LEAST_WEIGHT, MOST_SAMPLES, MOST_WEIGHT, Mode
from coterie.protocols.swarm.site import CheckedIn, Terms

CHECK_IN, MERGE = "swarm check-in", "swarm merge"
_GENESIS = b"coterie swarm"
Number = Annotated[int, msgspec.Meta(ge=0, lt=1 << 48)]
MOST_NAME = 256
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MOST_NAME)]
Finite = Annotated[float, msgspec.Meta(ge=-1e300, le=1e300)]


class Agreed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What all sites of a training must have the same."""

    min_peers: Number
    sync_frequency: Number
    adaptive: bool
    merge: Name
    opening: bool
    layout: Name
    """Hash of the models' layout."""

    @classmethod
    def of(cls, terms: Terms, layout: str) -> Agreed:
        merge = terms.merge
        if not isinstance(merge, str):  # one made by functools.partial has no name
            merge = f"function {getattr(merge, '__qualname__', type(merge).__qualname__)}"
        return cls(terms.min_peers, terms.sync_frequency, terms.adaptive, merge[:MOST_NAME], terms.opening, layout)

    def against(self, other: Agreed) -> str:
        """In what they differ, for a message; empty where they do not."""
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in self.__struct_fields__)
        return ", ".join(f"{name} {mine} here and {theirs} there" for name, mine, theirs in pairs if mine != theirs)


class SaysCheckIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a check-in says."""

    genesis: Hash
    epoch: Number
    """The merge that it is for."""
    base: Number
    """The merges behind the model it was trained from."""
    serial: Number
    """Of the site's check-ins; one that was made again for a later epoch keeps its own."""
    model: Hash
    weight: Annotated[int, msgspec.Meta(ge=LEAST_WEIGHT, le=MOST_WEIGHT)]
    samples: Annotated[int, msgspec.Meta(ge=1, le=MOST_SAMPLES)]
    steps: Number
    epochs: Number
    loss: Finite | None
    metric: Finite | None
    finished: bool
    mode: Mode
    agreed: Agreed


class SaysMerge(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the leader of a merge says."""

    genesis: Hash
    epoch: Number
    model: Hash
    """Of the merged model."""
    over: bool


class CheckInRecord(msgspec.Struct, frozen=True):
    """A check-in as its site has signed it."""

    record: Record
    says: SaysCheckIn

    @property
    def author(self) -> str:
        return self.record.author


def chain_genesis(federation: bytes, contract: str) -> bytes:
    """What the chain of a training is named by, 32 bytes: one of its own, so that no vote counts in another one."""
    return hashlib.sha256(_GENESIS + pack((federation, contract))).digest()


def check_in_record(
    identity: Identity,
    checked: CheckedIn,
    *,
    genesis: bytes,
    epoch: int,
    base: int,
    serial: int,
    agreed: Agreed,
    time: int,
) -> CheckInRecord:
    """A signed check-in. Raises LedgerError for what others would refuse, such as a weight of 0."""
    says = SaysCheckIn(
        genesis=genesis,
        epoch=epoch,
        base=base,
        serial=serial,
        model=checked.digest,
        weight=checked.weight,
        samples=max(checked.samples, 1),
        steps=checked.steps,
        epochs=checked.epochs,
        loss=_finite(checked.loss),
        metric=_finite(checked.metric),
        finished=checked.ending,
        mode=checked.mode,
        agreed=agreed,
    )
    record = Record.make(identity, CHECK_IN, _content(says), time=time)
    return CheckInRecord(record, _read(record, CHECK_IN, SaysCheckIn, genesis))


def read_check_in(record: Record, genesis: bytes) -> CheckInRecord:
    """The check-in in a checked record. Raises LedgerError where it is none of this chain."""
    return CheckInRecord(record, _read(record, CHECK_IN, SaysCheckIn, genesis))


def merge_record(identity: Identity, genesis: bytes, epoch: int, model: bytes, over: bool, time: int) -> Record:
    """The leader's record of a merge, signed."""
    says = SaysMerge(genesis=genesis, epoch=epoch, model=model, over=over)
    return Record.make(identity, MERGE, _content(says), time=time)


def read_merge(record: Record, genesis: bytes) -> SaysMerge:
    """What a checked record says of a merge. Raises LedgerError where it is none of this chain."""
    return _read(record, MERGE, SaysMerge, genesis)


Says = TypeVar("Says", SaysCheckIn, SaysMerge)


def _read(record: Record, kind: str, form: type[Says], genesis: bytes) -> Says:
    if record.kind != kind:
        raise LedgerError(f"not a {kind}", where=record.where)
    try:
        says = msgspec.msgpack.decode(record.body, type=form)
    except (msgspec.MsgspecError, ValueError) as error:
        raise LedgerError(f"it does not say what a {kind} does: {str(error)[:200]!a}", where=record.where) from None
    if says.genesis != genesis:
        raise LedgerError("a record of another training", where=record.where)
    return says


def _content(says: SaysCheckIn | SaysMerge) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(says, builtin_types=(bytes,))
    return found


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) and abs(value) <= 1e300 else None
