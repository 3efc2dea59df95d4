"""A peer's copy of all membership records: what it takes from others, and what it adds itself.

Limits on what others can make it keep: no record longer than ``records.MOST_BYTES``; none whose parents are missing;
none dated more than ``SKEW_MS`` after this peer's own clock; at most ``MOST_OF_ONE`` of one author that no other author
has followed, and ``MOST_RECORDS`` in all. A member that floods the others is thus limited, named, and can be expelled:
the expulsion follows some of its records, so peers that have refused those fetch them after all (``cited``), and what
lies beside the expulsion does not count.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

from coterie.errors import MembershipError
from coterie.identity import Certificate, Identity, PeerId, short_name
from coterie.ledger.records import MOST_PARENTS, Record, RecordId
from coterie.protocols.membership.graph import Node
from coterie.protocols.membership.records import (
    KIND_OF,
    MOST_BYTES,
    Countersignature,
    Deed,
    Expulsion,
    Leave,
    Renewal,
    content_of,
)
from coterie.protocols.membership.replay import Membership, Replay

MOST_RECORDS = 10_000
MOST_OF_ONE = 1000
SKEW_MS = 600_000
"""By so much a record may be ahead of this peer's clock."""
_log = logging.getLogger(__name__)


class Book:
    """The records of one federation at one peer.

    ``keep(record)`` must have stored it durably when it returns; ``now()`` gives ms since 1970. ``records`` are those
    stored earlier, in any order.
    """

    def __init__(
        self,
        genesis: Record,
        now: Callable[[], int],
        keep: Callable[[Record], None],
        records: Iterable[Record] = (),
    ) -> None:
        self.now, self._keep = now, keep
        self.replay = Replay(genesis)
        self.watchers: list[Callable[[], None]] = []
        """Called after every record that was added."""
        self._uncited: dict[PeerId, dict[int, None]] = {}
        for record in records:
            self.replay.add(record)
        for node in self.replay.graph.nodes:
            self._note(node)

    @property
    def federation(self) -> RecordId:
        return self.replay.federation

    @property
    def membership(self) -> Membership:
        return self.replay.membership()

    @property
    def size(self) -> int:
        """Records here, genesis not counted."""
        return len(self.replay.graph.nodes) - 1

    def log(self, start: int, count: int) -> Sequence[Node]:
        """Records in the order they came here, each after those it follows; genesis left out. It only grows."""
        return self.replay.graph.nodes[1 + start : 1 + start + count]

    def has(self, record: RecordId) -> bool:
        return record in self.replay.graph.by_id

    def offer(self, record: Record, *, cited: bool = False) -> str:
        """Take a record from elsewhere, already checked by ``Record.decode``. What came of it:

        "kept"; "known"; "waiting": parents are missing, and it was not kept; "early": it is from the future; "full":
        its author has filled its share, or all have; ``cited`` lifts the author's share, for what others' records
        follow.
        Raises MembershipError for what no honest peer would have kept.
        """
        if self.has(record.id):
            return "known"
        if len(record.body) > MOST_BYTES:
            raise MembershipError("it is too long", where=record.where)
        if self.replay.graph.missing(record):
            return "waiting"
        if record.time > self.now() + SKEW_MS:
            return "early"
        node = self.replay.graph.place(record)
        mine = self._uncited.get(record.author, {})
        if len(self.replay.graph.nodes) >= MOST_RECORDS or (len(mine) >= MOST_OF_ONE and not cited):
            return "full"
        self._add(node)
        return "kept"

    def may_widen(self, peer: PeerId) -> bool:
        """Whether what this peer's record follows may be taken beyond its authors' shares.

        Not for a stranger, one that was expelled, or one whose own share is filled: its record would only be refused.
        """
        return peer in self._heard() and len(self._uncited.get(peer, ())) < MOST_OF_ONE

    # What this peer adds

    def expel(self, identity: Identity, peer: PeerId, reason: str = "") -> Record:
        """Sign an expulsion. Raises MembershipError, as do those below, if the record would not count."""
        return self._sign(identity, Expulsion(peer=peer, reason=reason))

    def leave(self, identity: Identity, reason: str = "") -> Record:
        return self._sign(identity, Leave(reason=reason))

    def renew(self, identity: Identity, certificate: Certificate) -> Record:
        """Announce this peer's new transport certificate; use it once the others have heard."""
        return self._sign(identity, Renewal(certificate=certificate.der, binding=certificate.signature))

    def countersign(self, identity: Identity, record: RecordId) -> Record:
        return self._sign(identity, Countersignature(record=record))

    def draft(self, identity: Identity, deed: Deed) -> Record:
        """A signed record of ``deed`` that follows all there is here, not added yet.

        It may need more signatures. Raises MembershipError if it would not count.
        """
        parents, time = self.follow()
        record = Record.make(identity, KIND_OF[type(deed)], content_of(deed), parents, time)
        self._try([record])
        return record

    def follow(self) -> tuple[list[RecordId], int]:
        """The parents, and the time in ms since 1970, of a record that follows all there is here.

        What the expelled and strangers alone have followed is left out: others, who may have refused it, would have to
        take it.
        """
        heads = sorted(self._heads(), key=lambda node: (-node.depth, node.id))[:MOST_PARENTS]
        return [node.id for node in heads], max([self.now(), *(node.record.time for node in heads)])

    def _heads(self) -> Iterable[Node]:
        graph, heard = self.replay.graph, self._heard()
        if not self.membership.expelled:
            return graph.heads.values()
        seen = graph.nodes[0].bit
        for node in graph.nodes:
            if node.author in heard:
                seen |= node.past | node.bit
        kept = [node for node in graph.nodes if node.bit & seen]
        followed = {parent for node in kept for parent in node.record.parents}
        return [node for node in kept if node.id not in followed]

    def _heard(self) -> set[PeerId]:
        """Whose records may count: members, those who have left, and recovery keys."""
        membership = self.membership
        return {*membership.members, *membership.left, *self.replay.genesis.policy.recovery}

    def accept(self, records: Sequence[Record]) -> None:
        """Keep records signed elsewhere by keys that need not be members', each after those it follows.

        Raises MembershipError, and keeps none, unless each counts, or will with more signatures.
        """
        self._try(records)
        for record in records:
            outcome = self.offer(record)
            if outcome not in ("kept", "known"):
                raise MembershipError(f"it was not kept: {outcome}", where=record.where)

    def add(self, record: Record) -> None:
        """Keep a record that has just been drafted."""
        self._add(self.replay.graph.place(record))

    def _try(self, records: Sequence[Record]) -> None:
        """Raise MembershipError where one of the records would not count."""
        trial = self.replay.copy()
        for record in records:
            outcome = trial.add(record)
            if outcome == "waiting":
                raise MembershipError("it follows records that are not here", where=record.where)
        rejected = trial.membership().rejected
        for record in records:
            if record.id in rejected:
                raise MembershipError(f"that would not count: {rejected[record.id]}", where=record.where)

    def _sign(self, identity: Identity, deed: Deed) -> Record:
        record = self.draft(identity, deed)
        self.add(record)
        return record

    def _add(self, node: Node) -> None:
        before = len(self.replay.graph.nodes)
        self._keep(node.record)
        self.replay.insert(node)
        for fresh in self.replay.graph.nodes[before:]:
            self._note(fresh)
        for watcher in self.watchers:
            watcher()

    def _note(self, node: Node) -> None:
        """Count the record against its author until another's follows it, directly or not."""
        for author, uncited in self._uncited.items():
            if author != node.author:
                for other in [other for other in uncited if other & node.past]:
                    del uncited[other]
        mine = self._uncited.setdefault(node.author, {})
        mine[node.bit] = None
        if len(mine) == MOST_OF_ONE:
            _log.warning("%s has filled its share of membership records: expel it", short_name(node.author))
