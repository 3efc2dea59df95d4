"""What a shared chain starts from: the charter, or a checkpoint that stands for everything before an epoch.

Who is believed: the charter is the word of its founder, whose signature it bears; an auditor checks that the founder
is the author of the federation's genesis record. A founder could sign two charters, and choose a beacon that gives it
the first heights: the charter's id, told in the invitation, is what pins it.

A checkpoint bears no signature. Its id must come from somebody trusted, such as the invitation. That is also what a
joiner needs against old keys: whoever holds the keys of more than two thirds of some past epoch's stake, stolen long
after their owners left, can write another history from there on, and every certificate in it is good. No check of the
chain itself finds that out; a later checkpoint's id does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Annotated

import msgspec

from coterie.errors import LedgerError
from coterie.identity import Identity, PeerId, verify
from coterie.ledger.encoding import Hash, Key, Signature, pack, parse
from coterie.ledger.shared.voters import MOST_VOTERS_BYTES, QuorumRule, Voters
from coterie.ledger.shared.votes import Epoch

MOST_LOCKED = 4096
MOST_CHECKPOINT_BYTES = 2 * MOST_VOTERS_BYTES + 160 * MOST_LOCKED + 1024
MOST_LOCK_EPOCHS = 1 << 20
_PURPOSE = "charter"
_BEACON, _CHECKPOINT = b"coterie beacon", b"coterie checkpoint"

LockEpochs = Annotated[int, msgspec.Meta(ge=1, le=MOST_LOCK_EPOCHS)]
"""Evidence about an epoch may be recorded so many epochs later, and no later; leaving stake stays locked as long."""


class Locked(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A key that votes no more and can still be accused."""

    key: Key
    weight: Annotated[int, msgspec.Meta(ge=0, le=1 << 48)]
    """The stake that evidence would take; 0 where it is taken already, or has gone to the heir."""
    heir: Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{64})?\Z")]
    """The key that has taken its place and answers for it; empty where there is none."""
    until: Epoch
    """The last epoch in which evidence may be recorded."""


class Checkpoint(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, dict=True):
    """All that must be known of the epochs before one to go on from there."""

    genesis: Hash
    rule: QuorumRule
    lock_epochs: LockEpochs
    epoch: Epoch
    anchor: Hash
    """Id of the block that closed the epoch before, or of the charter."""
    beacon: Hash
    voters: Voters
    """Of this epoch."""
    following: Voters
    """Of the next one."""
    locked: Annotated[tuple[Locked, ...], msgspec.Meta(max_length=MOST_LOCKED)]
    """Sorted by key."""

    @classmethod
    def decode(cls, data: bytes) -> Checkpoint:
        """The checkpoint in ``data``. Raises LedgerError. Whether to believe it is seen by its id."""
        found = parse(_checkpoint, data, "a checkpoint", MOST_CHECKPOINT_BYTES)
        found.voters.check()
        found.following.check()
        keys = [locked.key for locked in found.locked]
        if keys != sorted(set(keys)):
            raise LedgerError("locked keys are not in order, or named twice")
        if _in_circles(found.locked):
            raise LedgerError("the heirs of locked keys lead round in circles")
        return found

    def encode(self) -> bytes:
        return pack(self)

    @classmethod
    def restore(cls, summary: bytes, voters: Mapping[bytes, Voters]) -> Checkpoint:
        """The checkpoint with this ``summary``; ``voters`` are looked up by hash. Raises LedgerError."""
        found = parse(_summary, summary, "a checkpoint's summary", MOST_CHECKPOINT_BYTES)
        if found.voters not in voters or found.following not in voters:
            raise LedgerError("a checkpoint's voters are missing")
        head = (found.genesis, found.rule, found.lock_epochs, found.epoch, found.anchor, found.beacon)
        return cls(*head, voters[found.voters], voters[found.following], found.locked)

    @cached_property
    def summary(self) -> bytes:
        """All but the voters, who are named by their hashes."""
        head = (self.genesis, self.rule, self.lock_epochs, self.epoch, self.anchor, self.beacon)
        return pack((*head, self.voters.hash, self.following.hash, self.locked))

    @cached_property
    def id(self) -> bytes:
        """SHA-256 over a tag and the summary, 32 bytes."""
        return hashlib.sha256(_CHECKPOINT + self.summary).digest()

    def leader(self, height: int) -> PeerId:
        """Who may propose at ``height`` of this epoch."""
        return self.voters.leader(self.beacon, height)


class _Summary(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A checkpoint as its id is made of it."""

    genesis: Hash
    rule: QuorumRule
    lock_epochs: LockEpochs
    epoch: Epoch
    anchor: Hash
    beacon: Hash
    voters: Hash
    following: Hash
    locked: Annotated[tuple[Locked, ...], msgspec.Meta(max_length=MOST_LOCKED)]


class Charter(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, dict=True):
    """What a federation's shared chain begins with. ``make`` and ``decode`` give valid ones."""

    genesis: Hash
    voters: Voters
    """Of the epochs 0 and 1."""
    beacon: Hash
    """Of epoch 0."""
    rule: QuorumRule
    lock_epochs: LockEpochs
    founder: Key
    signature: Signature

    @classmethod
    def make(
        cls,
        identity: Identity,
        genesis: bytes,
        voters: Voters,
        beacon: bytes,
        rule: QuorumRule | None = None,
        lock_epochs: int = 100,
    ) -> Charter:
        """A charter signed by ``identity``, the founder: by stake, unless there is another ``rule``.

        Raises LedgerError, also where two thirds of fewer than four voters are asked for: that tolerates no liar.
        """
        unsigned = cls(genesis, voters, beacon, rule or QuorumRule(), lock_epochs, identity.id, bytes(64))
        signed = msgspec.structs.replace(unsigned, signature=identity.sign(_PURPOSE, unsigned._signed))
        return cls.decode(signed.encode())

    @classmethod
    def decode(cls, data: bytes) -> Charter:
        """The charter in ``data``, signed by its founder. Raises LedgerError."""
        found = parse(_charter, data, "a charter", MOST_VOTERS_BYTES + 512)
        found.voters.check()
        if found.rule.kind == "two thirds" and len(found.voters) < 4:
            raise LedgerError("two thirds of fewer than four voters tolerate no liar")
        if not verify(found.founder, _PURPOSE, found._signed, found.signature):
            raise LedgerError("a charter is not signed by its founder")
        return found

    def encode(self) -> bytes:
        return pack(self)

    @cached_property
    def id(self) -> bytes:
        """SHA-256, 32 bytes: the anchor of epoch 0."""
        return hashlib.sha256(self._signed).digest()

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The state at the beginning of epoch 0."""
        rest = (0, self.id, self.beacon, self.voters, self.voters, ())
        return Checkpoint(self.genesis, self.rule, self.lock_epochs, *rest)

    @cached_property
    def _signed(self) -> bytes:
        return pack(msgspec.structs.astuple(self)[:-1])


def decode_start(data: bytes) -> Charter | Checkpoint:
    """What a chain starts from: a charter, its signature checked, or a checkpoint. Raises LedgerError."""
    try:
        return Charter.decode(data)
    except LedgerError as fault:
        try:
            return Checkpoint.decode(data)
        except LedgerError:
            raise fault from None


def state_of(start: Charter | Checkpoint) -> Checkpoint:
    """The state with which a chain starts."""
    return start.checkpoint if isinstance(start, Charter) else start


def next_beacon(beacon: bytes, output: bytes) -> bytes:
    """The next epoch's beacon, from this one's and the output of the closing proposer's random function (64 bytes)."""
    return hashlib.sha256(_BEACON + beacon + output).digest()


def _in_circles(locked: Iterable[Locked]) -> bool:
    """Whether who follows keys to their heirs might never come to an end."""
    heirs = {entry.key: entry.heir for entry in locked}
    while ends := [key for key, heir in heirs.items() if heir not in heirs]:
        for key in ends:
            del heirs[key]
    return bool(heirs)


_charter = msgspec.msgpack.Decoder(Charter)
_checkpoint = msgspec.msgpack.Decoder(Checkpoint)
_summary = msgspec.msgpack.Decoder(_Summary)
