"""Who votes when: what records in final blocks change, two epochs later.

    voter join      a peer becomes a voter; it has agreed by a signature of its own
    voter leave     the author votes no more
    voter key       the author's seat goes to a new key, which has agreed
    voter removal   a voter votes no more, whatever it says: one that was expelled, or is gone for good
    evidence        a voter has contradicted itself, and loses its weight

What epoch r records holds from epoch r + 2, so the voters are fixed before the beacon that draws their leaders. Nothing
else changes a weight. A record that is not well formed makes its block bad; one that says what cannot be, such as a
leave of who is no voter, is passed over: two blocks may both bring one, and the first counts.

Who may do what: joins, their weights and removals are vouched for by the certificates alone, so a voter must ask its
application before it votes for a block with such records. Leaves, new keys and evidence prove themselves. Nobody can
use a record twice: each names the federation and the last epoch, ``until``, in which it may be recorded, and a key that
has left stays locked longer than that.

Evidence about an epoch counts until ``lock_epochs`` later. So long, stake that has left is locked, and a new key
answers for what the old one signed. What a voter signed before that goes unpunished. A seat may have
``MOST_OLD_KEYS`` old keys locked; a further new key is passed over until one of them is free.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple, TypeAlias

import msgspec

from coterie.errors import LedgerError
from coterie.identity import Identity, PeerId, is_vrf_key, verify
from coterie.ledger.encoding import Hash, Key, Signature, pack
from coterie.ledger.kinds import Content, Kinds
from coterie.ledger.records import Record
from coterie.ledger.shared.charter import MOST_LOCKED, Checkpoint, Locked
from coterie.ledger.shared.evidence import MOST_EVIDENCE_BYTES, Evidence
from coterie.ledger.shared.signatures import Signatures
from coterie.ledger.shared.voters import MOST_VOTERS, Voter, Voters, Weight
from coterie.ledger.shared.votes import Epoch

MOST_OLD_KEYS = 2
"""Of one seat, locked at a time: so nobody can fill the room for locked keys, and keep others from joining."""
_CONSENT = "voter consent"


class Dated(Content, frozen=True, kw_only=True):
    genesis: Hash
    until: Epoch
    """The last epoch in which it may be recorded; at most ``lock_epochs`` after the one in which it is."""


class Join(Dated, frozen=True, kw_only=True):
    key: Key
    vrf: Hash
    weight: Weight
    consent: Signature = bytes(64)
    """Of ``key``, over everything else."""

    @classmethod
    def make(cls, identity: Identity, genesis: bytes, vrf: bytes, weight: int, until: int) -> Join:
        """The consent of ``identity`` to become a voter; who admits it makes a record of it."""
        join = cls(genesis=genesis, until=until, key=identity.id, vrf=vrf, weight=weight)
        return msgspec.structs.replace(join, consent=identity.sign(_CONSENT, join.agreed))

    @property
    def agreed(self) -> bytes:
        return pack(("join", self.genesis, self.key, self.vrf, self.weight, self.until))


class Leave(Dated, frozen=True, kw_only=True):
    pass


class NewKey(Dated, frozen=True, kw_only=True):
    old: Key
    """The record's author."""
    key: Key
    vrf: Hash
    consent: Signature = bytes(64)
    """Of ``key``, over everything else."""

    @classmethod
    def make(cls, identity: Identity, genesis: bytes, old: PeerId, vrf: bytes, until: int) -> NewKey:
        """The consent of ``identity`` to take the seat of ``old``, which must be the record's author."""
        change = cls(genesis=genesis, until=until, old=old, key=identity.id, vrf=vrf)
        return msgspec.structs.replace(change, consent=identity.sign(_CONSENT, change.agreed))

    @property
    def agreed(self) -> bytes:
        return pack(("key", self.genesis, self.old, self.key, self.vrf, self.until))


class Removal(Dated, frozen=True, kw_only=True):
    key: Key


class Accusation(Content, frozen=True, kw_only=True):
    evidence: Annotated[bytes, msgspec.Meta(max_length=MOST_EVIDENCE_BYTES)]
    """The encoding of an Evidence."""

    @property
    def shown(self) -> Evidence:
        return Evidence.decode(self.evidence)


Saying: TypeAlias = Join | Leave | NewKey | Removal | Accusation
KINDS: Kinds[Content] = Kinds(
    {
        "voter join": Join,
        "voter leave": Leave,
        "voter key": NewKey,
        "voter removal": Removal,
        "evidence": Accusation,
    }
)
record = KINDS.record
"""Makes a signed record that says one of these."""


class Change(NamedTuple):
    """A well-formed record that may change who votes."""

    kind: str
    author: PeerId
    says: Saying


def read(found: Record, genesis: bytes, known: Signatures | None = None) -> Change | None:
    """What a checked record changes; None for one of another kind.

    Raises LedgerError for one that no block of this federation may have: its form, consent or evidence is no good.
    """
    says = KINDS.read(found)
    if not isinstance(says, Saying):
        return None
    if isinstance(says, Accusation):
        says.shown.check(genesis, known)
        return Change(found.kind, found.author, says)
    if says.genesis != genesis:
        raise LedgerError("it is of another federation", where=found.where)
    if isinstance(says, Join | NewKey):
        if not is_vrf_key(says.vrf):
            raise LedgerError("the new voter has no usable key for its random function", where=found.where)
        if not (known.verify if known else verify)(says.key, _CONSENT, says.agreed, says.consent):
            raise LedgerError("the new voter has not agreed", where=found.where)
        if isinstance(says, NewKey) and says.old != found.author:
            raise LedgerError("another's seat is given away", where=found.where)
    return Change(found.kind, found.author, says)


def advanced(state: Checkpoint, changes: tuple[Change, ...], anchor: bytes, beacon: bytes) -> Checkpoint:
    """The state of the next epoch, after this one has recorded ``changes``, in order, and closed with ``anchor``."""
    roll = _Roll(state)
    for _, author, says in changes:
        roll.apply(author, says)
    return msgspec.structs.replace(
        state,
        epoch=state.epoch + 1,
        anchor=anchor,
        beacon=beacon,
        voters=state.following,
        following=roll.voters(),
        locked=tuple(entry for _, entry in sorted(roll.locked.items()) if entry.until > state.epoch),
    )


class _Roll:
    """The voters of the epoch after the next one, while changes are made to them."""

    def __init__(self, state: Checkpoint) -> None:
        self._state = state
        self._members = {voter.key: voter for voter in state.following.members}
        self.locked = {entry.key: entry for entry in state.locked}
        self._until = state.epoch + 1 + state.lock_epochs  # they vote in the next epoch still

    def voters(self) -> Voters:
        members = tuple(self._members[key] for key in sorted(self._members))
        return self._state.following if members == self._state.following.members else Voters(members)

    def apply(self, author: PeerId, says: Saying) -> None:
        epoch, lock = self._state.epoch, self._state.lock_epochs
        if isinstance(says, Accusation):
            shown = says.shown
            if shown.epoch <= epoch <= shown.epoch + lock:
                self._slash(shown.voter)
        elif not epoch <= says.until <= epoch + lock:
            return
        elif isinstance(says, Join):
            if self._is_new(says.key) and len(self._members) < MOST_VOTERS:
                self._members[says.key] = Voter(says.key, says.vrf, says.weight)
        elif isinstance(says, NewKey):
            if says.old in self._members and self._is_new(says.key) and self._old_keys(says.old) < MOST_OLD_KEYS:
                weight = self._members.pop(says.old).weight
                self._members[says.key] = Voter(says.key, says.vrf, weight)
                self.locked[says.old] = Locked(says.old, 0, says.key, self._until)
        else:
            self._leave(says.key if isinstance(says, Removal) else author)

    def _is_new(self, key: PeerId) -> bool:
        """Also that there is room: each voter may come to be locked."""
        room = len(self._members) + len(self.locked) < MOST_LOCKED
        return room and key not in self._members and key not in self.locked

    def _old_keys(self, key: PeerId) -> int:
        """How many keys this seat has had before, that are locked still."""
        before = {entry.heir: entry.key for entry in self.locked.values() if entry.heir}
        count = 0
        while key in before:
            count, key = count + 1, before[key]
        return count

    def _leave(self, key: PeerId) -> None:
        if key in self._members and len(self._members) > 1:  # the last one stays: a chain has voters
            self.locked[key] = Locked(key, self._members.pop(key).weight, "", self._until)

    def _slash(self, key: PeerId) -> None:
        while key in self.locked and self.locked[key].heir:
            key = self.locked[key].heir
        self._leave(key)
        if key in self.locked:
            self.locked[key] = msgspec.structs.replace(self.locked[key], weight=0)
