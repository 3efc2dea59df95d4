"""Blocks: a peer's own hash chain. Each block commits to its records, to the block before, and to the federation.

A block's bytes are the msgpack array [author, federation, height, previous, root, count, time, signature]. Its id is
SHA-256 over the array without the signature; the author signs the same bytes for the purpose "block". A chain begins
at height 0, and the first block's ``previous`` is the genesis hash, which is also its ``federation``.

Who may lie: the author, about its clock and about what it records. What it cannot do is take back or exchange a block
that others hold: two blocks of one author at one height are an equivocation, and two signatures prove it to anybody. A
chain cut short cannot be told from a chain that never was longer, except by those who saw the later blocks.
"""

from __future__ import annotations

import hashlib
import time as clock
from collections.abc import Sequence
from typing import Annotated, TypeAlias

import msgspec

from coterie.errors import LedgerError
from coterie.identity import Identity, PeerId, verify
from coterie.ledger import merkle
from coterie.ledger.encoding import Hash, Height, Key, Signature, Time, pack, parse
from coterie.ledger.records import MOST_RECORD_BYTES, Record

MOST_RECORDS = 1024
"""In a block."""
MOST_RECORDS_BYTES = 1 << 19
"""Of a block's records together. A block with its records fits into one message."""
_MOST_BLOCK_BYTES = 512
MOST_FULL_BYTES = MOST_RECORDS_BYTES + 5 * MOST_RECORDS + 2 * _MOST_BLOCK_BYTES
_PURPOSE = "block"

BlockId: TypeAlias = bytes
"""SHA-256, 32 bytes."""


class Block(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A signed block, without its records. ``decode`` and ``make`` give valid ones."""

    author: Key
    federation: Hash
    """The genesis hash."""
    height: Height
    previous: Hash
    """Id of the block before; the genesis hash at height 0."""
    root: Hash
    """Merkle tree hash over the records' bytes, signatures included."""
    count: Annotated[int, msgspec.Meta(ge=1, le=MOST_RECORDS)]
    """Number of records. No block is empty."""
    time: Time
    signature: Signature

    @classmethod
    def make(
        cls,
        identity: Identity,
        genesis: bytes,
        height: int,
        previous: BlockId,
        records: Sequence[Record],
        time: int | None = None,
    ) -> Block:
        """A signed block over ``records``; ``time`` (ms) is now where None. Raises LedgerError."""
        now = int(clock.time() * 1000) if time is None else time
        root = merkle.tree_hash([record.encode() for record in records])
        unsigned = cls(identity.id, genesis, height, previous, root, len(records), now, bytes(64))
        signed = msgspec.structs.replace(unsigned, signature=identity.sign(_PURPOSE, unsigned._signed))
        return cls.decode(signed.encode())

    @classmethod
    def decode(cls, data: bytes) -> Block:
        """The block in ``data``, in canonical form and signed by its author. Raises LedgerError."""
        block = parse(_blocks, data, "a block", _MOST_BLOCK_BYTES)
        if (block.height == 0) != (block.previous == block.federation):
            raise LedgerError("a chain's first block, and no other, follows the genesis record", where=block.where)
        if not verify(block.author, _PURPOSE, block._signed, block.signature):
            raise LedgerError("a block is not signed by its author", where=block.where)
        return block

    def encode(self) -> bytes:
        return pack(self)

    @property
    def id(self) -> BlockId:
        return hashlib.sha256(self._signed).digest()

    @property
    def where(self) -> str:
        return f"block {self.height} of {self.author[:12]}"

    @property
    def _signed(self) -> bytes:
        fields = (self.author, self.federation, self.height, self.previous, self.root, self.count, self.time)
        return pack(fields)


class FullBlock(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A block with its records, all as bytes: as it travels and as it lies in a store. Not checked until it is read."""

    block: Annotated[bytes, msgspec.Meta(max_length=_MOST_BLOCK_BYTES)]
    records: Annotated[
        tuple[Annotated[bytes, msgspec.Meta(max_length=MOST_RECORD_BYTES)], ...], msgspec.Meta(max_length=MOST_RECORDS)
    ]

    @classmethod
    def of(cls, block: Block, records: Sequence[Record]) -> FullBlock:
        return cls(block.encode(), tuple(record.encode() for record in records))

    @classmethod
    def decode(cls, data: bytes) -> FullBlock:
        """Its two parts; neither is checked. Raises LedgerError."""
        return parse(_full_blocks, data, "a block with its records", MOST_FULL_BYTES)

    def encode(self) -> bytes:
        return pack(self)

    @property
    def nbytes(self) -> int:
        return len(self.block) + sum(map(len, self.records))


class Equivocation(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Evidence that a peer has signed two blocks for one height of one chain. ``decode`` and ``of`` give valid ones."""

    first: Block
    """The one with the smaller id, so that two blocks make one piece of evidence."""
    second: Block

    @classmethod
    def of(cls, one: Block, other: Block) -> Equivocation:
        """The evidence in two blocks. Raises LedgerError where they prove nothing."""
        first, second = sorted((one, other), key=lambda block: block.id)
        return cls.decode(cls(first, second).encode())

    @classmethod
    def decode(cls, data: bytes) -> Equivocation:
        """The evidence in ``data``, both signatures checked. Raises LedgerError where it proves nothing."""
        found = parse(_equivocations, data, "evidence of an equivocation", 2 * _MOST_BLOCK_BYTES + 1)
        first, second = Block.decode(found.first.encode()), Block.decode(found.second.encode())
        if (first.author, first.federation, first.height) != (second.author, second.federation, second.height):
            raise LedgerError("these two blocks are not of one author, one federation and one height")
        if first.id >= second.id:
            raise LedgerError("these are not two different blocks, the smaller id first", where=first.where)
        return found

    def encode(self) -> bytes:
        return pack(self)

    @property
    def author(self) -> PeerId:
        """Who has signed both."""
        return self.first.author


class Proof(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """That a record is in a block, for somebody who has neither the chain nor the block's other records."""

    block: Block
    index: Annotated[int, msgspec.Meta(ge=0, lt=MOST_RECORDS)]
    """The record's place in the block."""
    path: Annotated[tuple[Hash, ...], msgspec.Meta(max_length=10)]
    """The audit path of RFC 6962, section 2.1.1."""

    @classmethod
    def decode(cls, data: bytes) -> Proof:
        """The proof in ``data``, its block checked. Raises LedgerError."""
        found = parse(_proofs, data, "a proof", 2 * _MOST_BLOCK_BYTES)
        Block.decode(found.block.encode())
        return found

    def encode(self) -> bytes:
        return pack(self)

    def proves(self, record: Record, genesis: bytes) -> bool:
        """Whether ``record`` is in the block, and the block is of this federation and signed."""
        try:
            block = Block.decode(self.block.encode())
        except LedgerError:
            return False
        included = merkle.verify(record.encode(), self.index, block.count, self.path, block.root)
        return included and block.federation == genesis


_blocks = msgspec.msgpack.Decoder(Block)
_full_blocks = msgspec.msgpack.Decoder(FullBlock)
_equivocations = msgspec.msgpack.Decoder(Equivocation)
_proofs = msgspec.msgpack.Decoder(Proof)
