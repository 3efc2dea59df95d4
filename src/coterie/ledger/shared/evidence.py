"""Evidence that a voter has contradicted itself: two signed things of one key at one height of one epoch.

    two blocks              a proposer signed two different ones
    two votes of one kind   for different blocks
    a final and a dummy     the height was closed with a block and, by the same voter, without one

A block vote and a dummy vote are no contradiction: that is what a voter does whose timer fires. Two signatures prove
the rest to anybody. A voter that forgot what it signed, such as one restored from a back-up, contradicts itself too,
and nothing distinguishes it from a liar.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from coterie.errors import LedgerError
from coterie.identity import PeerId
from coterie.ledger.encoding import pack, parse
from coterie.ledger.shared.blocks import MOST_BLOCK_BYTES, SharedBlock
from coterie.ledger.shared.signatures import Signatures
from coterie.ledger.shared.votes import Vote

MOST_EVIDENCE_BYTES = 2 * MOST_BLOCK_BYTES + 32

_Signed = Annotated[bytes, msgspec.Meta(max_length=MOST_BLOCK_BYTES)]


class Evidence(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """``of`` and ``decode`` give what contradicts itself; ``check`` whether it was signed."""

    what: Literal["blocks", "votes"]
    first: _Signed
    """The encoding of a SharedBlock or a Vote; the smaller one first, so that two things make one piece of evidence."""
    second: _Signed

    @classmethod
    def of(cls, one: SharedBlock | Vote, other: SharedBlock | Vote) -> Evidence:
        """The evidence in two signed things. Raises LedgerError where they do not contradict each other."""
        first, second = sorted((one.encode(), other.encode()))
        return cls.decode(cls("votes" if isinstance(one, Vote) else "blocks", first, second).encode())

    @classmethod
    def decode(cls, data: bytes) -> Evidence:
        """The evidence in ``data``; no signature is checked. Raises LedgerError where it would prove nothing."""
        found = parse(_evidence, data, "evidence", MOST_EVIDENCE_BYTES)
        one, other = found._parts()
        if (_signer(one), one.epoch, one.height) != (_signer(other), other.epoch, other.height):
            raise LedgerError("these two are not of one voter at one height")
        if found.first >= found.second or not _contradict(one, other):
            raise LedgerError("these two do not contradict each other", where=one.where)
        return found

    def encode(self) -> bytes:
        return pack(self)

    def check(self, genesis: bytes, known: Signatures | None = None) -> None:
        """Raise LedgerError unless the voter signed both in the federation with this genesis hash."""
        for part in self._parts():
            if isinstance(part, Vote):
                part.check(genesis, known)
            else:
                part.check(known)
                if part.genesis != genesis:
                    raise LedgerError("a block of another federation proves nothing here", where=part.where)

    @property
    def voter(self) -> PeerId:
        """Who has signed both."""
        return _signer(self._parts()[0])

    @property
    def epoch(self) -> int:
        """In which both were signed."""
        return self._parts()[0].epoch

    def _parts(self) -> tuple[SharedBlock | Vote, SharedBlock | Vote]:
        decode = SharedBlock.decode if self.what == "blocks" else Vote.decode
        return decode(self.first), decode(self.second)


def _signer(part: SharedBlock | Vote) -> PeerId:
    return part.voter if isinstance(part, Vote) else part.proposer


def _contradict(one: SharedBlock | Vote, other: SharedBlock | Vote) -> bool:
    if isinstance(one, SharedBlock) or isinstance(other, SharedBlock):
        return isinstance(one, SharedBlock) and isinstance(other, SharedBlock) and one.id != other.id
    if one.kind == other.kind:
        return one.hash != other.hash
    return {one.kind, other.kind} == {"final", "dummy"}


_evidence = msgspec.msgpack.Decoder(Evidence)
