"""Record kinds with a fixed content: what protocols write down so that others can count, recompute and accuse.

    contribution      the author commits to its update of a round
    committee         who has which seat of a role in a round, drawn from the epoch's beacon
    round commit      a round begins: the model, and how many contributions it counts
    round challenge   the proof that fixes the round's random combinations, once the commitments are final
    round list        a round ends: whose updates are summed, and who is blamed
    privacy           what the author has spent of a privacy budget so far

These are the blocks C, B and L of secure aggregation and what goes into them, as far as the audit reads them. Shares,
receipts and revealed openings, and the records of protocols that are not built yet, are not among them.

A record of one of these kinds whose content is another one is nobody's fault but its author's: readers pass it over
and count it. Whether what is said is true is not seen here: a privacy total is its author's own reckoning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Generic, Literal, TypeVar

import msgspec

from coterie.errors import LedgerError
from coterie.identity import Identity, PeerId
from coterie.ledger.encoding import Hash, Height, Key
from coterie.ledger.records import Record

MOST_PEERS = 1024
MOST_BUDGETS = 16
"""Of one author that a tally tells apart."""

_Peers = Annotated[tuple[Key, ...], msgspec.Meta(max_length=900)]
"""Sorted. What 64 KiB can hold."""
_Amount = Annotated[float, msgspec.Meta(ge=0)]


class Content(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a record of some kind says."""


C = TypeVar("C", bound=Content)


class Kinds(Generic[C]):
    """Contents by kind."""

    def __init__(self, types: Mapping[str, type[C]]) -> None:
        self.types = dict(types)
        self._names = {content: kind for kind, content in self.types.items()}
        self._decoders = {kind: msgspec.msgpack.Decoder(content) for kind, content in self.types.items()}

    def record(self, identity: Identity, says: C, time: int | None = None) -> Record:
        """A signed record that says this; ``time`` in ms since 1970, now where None. Raises LedgerError."""
        content = msgspec.to_builtins(says, builtin_types=(bytes,))
        return Record.make(identity, self._names[type(says)], content, time=time)

    def read(self, record: Record) -> C | None:
        """What a checked record says; None for one of another kind. Raises LedgerError for one of bad form."""
        decoder = self._decoders.get(record.kind)
        if decoder is None:
            return None
        try:
            return decoder.decode(record.body)
        except (msgspec.MsgspecError, ValueError) as error:
            raise LedgerError(
                f"it does not say what a record of its kind does: {str(error)[:200]!a}", where=record.where
            ) from None


class Contribution(Content, frozen=True, kw_only=True):
    round: Height
    model: Hash
    """Of the model that the update starts from."""
    commitment: Hash
    """Merkle root over the shares' leaves."""


class Committee(Content, frozen=True, kw_only=True):
    round: Height
    role: Literal["aggregator", "verifier", "noiser"]
    seats: Annotated[tuple[Key, ...], msgspec.Meta(min_length=1, max_length=900)]
    """Who has each seat, in the order of the seats; a peer may have several."""
    most: Annotated[int, msgspec.Meta(ge=1, le=900)] | None = None
    """How many seats one peer may have, where the draw was limited."""


class RoundCommit(Content, frozen=True, kw_only=True):
    round: Height
    model: Hash
    contributions: Annotated[int, msgspec.Meta(ge=0, le=MOST_PEERS)]


class RoundChallenge(Content, frozen=True, kw_only=True):
    round: Height
    commit: Hash
    """Id of the block that committed."""
    proof: Annotated[bytes, msgspec.Meta(min_length=80, max_length=80)]
    """Of the author's verifiable random function over ``commit``."""


class RoundList(Content, frozen=True, kw_only=True):
    round: Height
    accepted: _Peers
    """Empty: the round changes nothing."""
    blamed: _Peers = ()


class Privacy(Content, frozen=True, kw_only=True):
    budget: Annotated[str, msgspec.Meta(pattern=r"\A[a-z][a-z0-9 _.-]{0,31}\Z")]
    """Its name: an author may keep several."""
    uses: Height
    """How often it was drawn upon, in all."""
    epsilon: _Amount
    """Spent in all, by the author's accountant; at this ``delta``."""
    delta: Annotated[float, msgspec.Meta(ge=0, lt=1)]


ROUNDS: Kinds[Content] = Kinds(
    {
        "contribution": Contribution,
        "committee": Committee,
        "round commit": RoundCommit,
        "round challenge": RoundChallenge,
        "round list": RoundList,
        "privacy": Privacy,
    }
)


@dataclass
class Spending:
    """What an author says it has spent of one budget."""

    last: Privacy
    """By the author's time, wherever the record stands: anybody may record it once more."""
    time: int
    fell: bool = False
    """Whether a later total was lower than an earlier one: then the author contradicts itself."""


@dataclass
class Tally:
    """What was read of records of known kinds."""

    counts: dict[str, int] = field(default_factory=dict)
    """By kind."""
    unread: int = 0
    """Records of a known kind that say something else."""
    spent: dict[PeerId, dict[str, Spending]] = field(default_factory=dict)
    """By author and budget."""

    def add(self, record: Record) -> None:
        """Count a checked record."""
        try:
            says = ROUNDS.read(record)
        except LedgerError:
            self.unread += 1
            return
        if says is None:
            return
        self.counts[record.kind] = self.counts.get(record.kind, 0) + 1
        if isinstance(says, Privacy):
            self._spend(self.spent.setdefault(record.author, {}), says, record.time)

    def _spend(self, budgets: dict[str, Spending], says: Privacy, time: int) -> None:
        known = budgets.get(says.budget)
        if known is not None:
            earlier, later = (says, known.last) if time < known.time else (known.last, says)
            less = later.uses < earlier.uses or (later.delta == earlier.delta and later.epsilon < earlier.epsilon)
            budgets[says.budget] = Spending(later, max(time, known.time), known.fell or less)
        elif len(budgets) < MOST_BUDGETS:
            budgets[says.budget] = Spending(says, time)
        else:
            self.unread += 1

    def lines(self) -> list[str]:
        """In words, for a terminal."""
        found = [f"  {kind}: {count:,}" for kind, count in sorted(self.counts.items())]
        if self.unread:
            found.append(f"  not what their kind says: {self.unread:,}")
        for author, budgets in sorted(self.spent.items()):
            for name, spending in sorted(budgets.items()):
                last = spending.last
                doubt = "; an earlier total was higher" if spending.fell else ""
                spent = f"epsilon {last.epsilon:.4g} at delta {last.delta:.3g} in {last.uses:,} uses"
                found.append(f"  privacy, by its own word, of {author}, budget {name}: {spent}{doubt}")
        return found
