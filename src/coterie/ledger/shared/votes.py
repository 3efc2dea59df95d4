"""Votes, and certificates: enough votes for one thing.

    block   this block may be built upon: a quorum of these notarises it
    dummy   nothing was heard in time at this height: go on without a block
    final   this height is closed with this block, for good

A vote is signed over (genesis, epoch, height, kind, hash) for the purpose "vote": it is worth nothing in another
federation, another epoch or at another height. A certificate names its signers by their places in the epoch's voters.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, TypeAlias

import msgspec

from coterie.errors import LedgerError
from coterie.identity import Identity, verify
from coterie.ledger.encoding import Hash, Height, Key, Signature, pack, parse
from coterie.ledger.shared.signatures import Signatures
from coterie.ledger.shared.voters import MOST_VOTERS, Place, QuorumRule, Voters

VoteKind: TypeAlias = Literal["block", "dummy", "final"]
Epoch: TypeAlias = Height
"""Counted from 0."""
BlockHeight = Annotated[int, msgspec.Meta(ge=1, lt=1 << 53)]
"""Within an epoch; 0 is the anchor."""
NO_BLOCK = bytes(32)
"""What a dummy vote names."""
VOTE = "vote"
"""The purpose of a vote's signature."""
_MOST_VOTE_BYTES = 256
MOST_CERTIFICATE_BYTES = 72 * MOST_VOTERS + 128


class Vote(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One voter's vote. ``decode`` checks its form, ``check`` its signature."""

    voter: Key
    epoch: Epoch
    height: BlockHeight
    kind: VoteKind
    hash: Hash
    """Id of the block; zeros in a dummy vote."""
    signature: Signature

    @classmethod
    def make(
        cls, identity: Identity, genesis: bytes, epoch: int, height: int, kind: VoteKind, block: bytes = NO_BLOCK
    ) -> Vote:
        """A signed vote; ``block`` is an id. Raises LedgerError."""
        _require_form(kind, block)
        signature = identity.sign(VOTE, statement(genesis, epoch, height, kind, block))
        return cls.decode(cls(identity.id, epoch, height, kind, block, signature).encode())

    @classmethod
    def decode(cls, data: bytes) -> Vote:
        """The vote in ``data``; its signature is not checked. Raises LedgerError."""
        vote = parse(_vote, data, "a vote", _MOST_VOTE_BYTES)
        _require_form(vote.kind, vote.hash)
        return vote

    def encode(self) -> bytes:
        return pack(self)

    def check(self, genesis: bytes, known: Signatures | None = None) -> None:
        """Raise LedgerError unless the voter signed it. Whether it may vote in the epoch is another question."""
        said = statement(genesis, self.epoch, self.height, self.kind, self.hash)
        if not (known.verify if known else verify)(self.voter, VOTE, said, self.signature):
            raise LedgerError("a vote is not signed by its voter", where=self.where)

    @property
    def where(self) -> str:
        return f"{self.kind} vote of {self.voter[:12]} at {self.epoch}.{self.height}"


class Certificate(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Votes of a quorum for one thing. ``decode`` checks its form, ``check`` that it is one."""

    epoch: Epoch
    height: BlockHeight
    kind: VoteKind
    hash: Hash
    votes: Annotated[tuple[tuple[Place, Signature], ...], msgspec.Meta(min_length=1, max_length=MOST_VOTERS)]
    """The signers' places in the epoch's voters, ascending, with their signatures."""

    @classmethod
    def of(cls, votes: Iterable[Vote], voters: Voters, rule: QuorumRule) -> Certificate | None:
        """A certificate from ``votes`` for one thing, checked each; None while they are too few.

        It takes the heaviest voters and no more than a quorum needs: whoever checks it later has less to do.
        """
        found: dict[int, Vote] = {}
        for vote in votes:
            place = voters.index(vote.voter)
            if place is not None:
                found.setdefault(place, vote)
        chosen: list[int] = []
        weight = 0
        for place in sorted(found, key=lambda place: (-voters.members[place].weight, place)):
            chosen.append(place)
            weight += voters.members[place].weight
            if rule.enough(voters, weight, len(chosen)):
                break
        else:
            return None
        things = {(found[place].epoch, found[place].height, found[place].kind, found[place].hash) for place in chosen}
        if len(things) > 1:
            raise LedgerError("votes for different things make no certificate")
        return cls(*things.pop(), tuple((place, found[place].signature) for place in sorted(chosen)))

    @classmethod
    def decode(cls, data: bytes) -> Certificate:
        """The certificate in ``data``; nothing is believed of it before ``check``. Raises LedgerError."""
        found = parse(_certificate, data, "a certificate", MOST_CERTIFICATE_BYTES)
        found.require_form()
        return found

    def require_form(self) -> None:
        """Raise LedgerError unless its signers are in order, once each, and its hash fits its kind."""
        _require_form(self.kind, self.hash)
        places = [place for place, _ in self.votes]
        if places != sorted(set(places)):
            raise LedgerError("a certificate's voters are not in order, or named twice", where=self.where)

    def encode(self) -> bytes:
        return pack(self)

    def check(self, genesis: bytes, voters: Voters, rule: QuorumRule, known: Signatures | None = None) -> None:
        """Raise LedgerError unless a quorum of ``voters`` signed it. ``voters`` must be those of its epoch."""
        self.require_form()
        if self.votes[-1][0] >= len(voters):
            raise LedgerError("a certificate names a voter that there is not", where=self.where)
        if not rule.reached(voters, (place for place, _ in self.votes)):
            raise LedgerError("a certificate has less than a quorum", where=self.where)
        said = statement(genesis, self.epoch, self.height, self.kind, self.hash)
        signed = known.verify if known else verify
        for place, signature in self.votes:
            voter = voters.members[place].key
            if not signed(voter, VOTE, said, signature):
                raise LedgerError(f"a certificate is not signed by {voter[:12]}, whom it names", where=self.where)

    @property
    def where(self) -> str:
        return f"{self.kind} certificate at {self.epoch}.{self.height}"


def statement(genesis: bytes, epoch: int, height: int, kind: VoteKind, block: bytes) -> bytes:
    """What a vote signs."""
    return pack((genesis, epoch, height, kind, block))


def _require_form(kind: VoteKind, block: bytes) -> None:
    if (kind == "dummy") != (block == NO_BLOCK):
        raise LedgerError("dummy votes, and no others, name no block")


_vote = msgspec.msgpack.Decoder(Vote)
_certificate = msgspec.msgpack.Decoder(Certificate)
