"""Who votes in an epoch, with what weight; who leads a height; and how many are enough.

Weights are integers, and so is all that is reckoned with them: every peer and every auditor gets the same answer.
"""

from __future__ import annotations

import hashlib
import struct
from bisect import bisect_right
from collections.abc import Iterable
from functools import cached_property
from itertools import accumulate
from typing import Annotated, Literal

import msgspec

from coterie.errors import LedgerError
from coterie.identity import PeerId, is_peer_id, is_vrf_key
from coterie.ledger.encoding import Hash, Key, pack, parse

MOST_VOTERS = 1024
MOST_VOTERS_BYTES = 128 * MOST_VOTERS
_LEADER, _HASH = b"coterie leader", b"coterie voters"

Weight = Annotated[int, msgspec.Meta(ge=1, le=1 << 48)]
"""Stake. The unit is the federation's."""
Count = Annotated[int, msgspec.Meta(ge=1, le=MOST_VOTERS)]
Place = Annotated[int, msgspec.Meta(ge=0, lt=MOST_VOTERS)]


class Voter(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A peer that votes."""

    key: Key
    vrf: Hash
    """Its public key for verifiable random functions, 32 bytes."""
    weight: Weight


class Voters(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, dict=True):
    """The voters of an epoch, sorted by key. ``of`` and ``decode`` give valid ones."""

    members: Annotated[tuple[Voter, ...], msgspec.Meta(min_length=1, max_length=MOST_VOTERS)]

    @classmethod
    def of(cls, members: Iterable[Voter]) -> Voters:
        """These voters, in any order. Raises LedgerError for none, too many, a key twice, or what is no key."""
        found = cls(tuple(sorted(members, key=lambda voter: voter.key)))
        return cls.decode(found.encode())

    @classmethod
    def decode(cls, data: bytes) -> Voters:
        """The voters in ``data``. Raises LedgerError."""
        voters = parse(_voters, data, "a list of voters", MOST_VOTERS_BYTES)
        voters.check()
        return voters

    def encode(self) -> bytes:
        return pack(self)

    def check(self) -> None:
        """Raise LedgerError unless the keys are keys, sorted, and none is there twice."""
        keys = [voter.key for voter in self.members]
        if keys != sorted(set(keys)):
            raise LedgerError("voters are not sorted by key, or named twice")
        for voter in self.members:
            if not (is_peer_id(voter.key) and is_vrf_key(voter.vrf)):
                raise LedgerError(f"the voter {voter.key[:12]} has no usable keys")

    @cached_property
    def total(self) -> int:
        """All weights together."""
        return sum(voter.weight for voter in self.members)

    @cached_property
    def hash(self) -> bytes:
        """SHA-256 over a tag and the encoding, 32 bytes."""
        return hashlib.sha256(_HASH + self.encode()).digest()

    def index(self, key: PeerId) -> int | None:
        """The place of a voter, as certificates name it; None for who is none."""
        return self._places.get(key)

    def get(self, key: PeerId) -> Voter | None:
        place = self._places.get(key)
        return None if place is None else self.members[place]

    def leader(self, beacon: bytes, height: int) -> PeerId:
        """Who may propose at ``height`` in the epoch of this ``beacon`` (32 bytes): drawn by weight.

        x = SHA-256("coterie leader" || beacon || height, 8 bytes) as a big-endian integer; the leader is the voter in
        whose part of the cumulative weight floor(x W / 2^256) falls, W the total: each has its share of the weight to
        within W / 2^256.
        """
        digest = hashlib.sha256(_LEADER + beacon + struct.pack(">Q", height)).digest()
        point = int.from_bytes(digest, "big") * self.total >> 256
        return self.members[bisect_right(self._ends, point)].key

    def __len__(self) -> int:
        return len(self.members)

    def __contains__(self, key: object) -> bool:
        return key in self._places

    @cached_property
    def _places(self) -> dict[PeerId, int]:
        return {voter.key: place for place, voter in enumerate(self.members)}

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(voter.weight for voter in self.members))


class QuorumRule(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How many must sign. Chosen in the charter, for good.

    stake        3 * sum(w) > 2 * W. No fork while less than a third of the stake lies.
    two thirds   max(min_peers, floor(2 n / 3) + 1) distinct voters. The same, by heads.
    majority     max(min_peers, floor(n / 2) + 1) distinct voters. No fork while nobody lies, whoever crashes: one
                 voter that signs twice may make a fork, and only evidence of that remains.
    """

    kind: Literal["stake", "two thirds", "majority"] = "stake"
    min_peers: Count = 1
    """Fewer never agree, however few are left. With ``stake``, weights alone count."""

    def reached(self, voters: Voters, signers: Iterable[int]) -> bool:
        """Whether the voters at these places are enough; a place named twice counts once."""
        distinct = set(signers)
        return self.enough(voters, sum(voters.members[place].weight for place in distinct), len(distinct))

    def enough(self, voters: Voters, weight: int, count: int) -> bool:
        """Whether ``count`` distinct voters with this ``weight`` together are enough."""
        if self.kind == "stake":
            return 3 * weight > 2 * voters.total
        share = 2 * len(voters) // 3 if self.kind == "two thirds" else len(voters) // 2
        return count >= max(self.min_peers, share + 1)


_voters = msgspec.msgpack.Decoder(Voters)
