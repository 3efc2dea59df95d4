"""Blocks of the shared chain, proposals, and what makes a block final.

A block's bytes are the msgpack array [genesis, epoch, height, parent height, parent, root, count, closes, proof,
closed, proposer, time, signature]. Its id is SHA-256 over the array without the signature; the proposer signs the same
bytes for the purpose "shared block". Heights begin at 1 in every epoch and may leave gaps, where dummies were
certified. The parent of an epoch's first block is (0, anchor): the id of the block that closed the epoch before, or of
the charter.

A block that ``closes`` its epoch carries a proof of its proposer's verifiable random function over the epoch's beacon
and the height. Nobody else can know its output before, and the proposer cannot choose it; it can only keep the block
back, which gives it one more draw whenever it leads again before another closes the epoch.

Blocks that follow the closing one, until that is final, are empty, and each names it: nobody honest votes for one that
names another. So one of them is enough to make it final, however many there are; and as above height ``LAST_OPEN`` no
block leaves its epoch open, whatever makes a block final fits into a message.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated

import msgspec

from coterie.errors import LedgerError
from coterie.identity import Identity, verify
from coterie.ledger import merkle
from coterie.ledger.blocks import MOST_RECORDS, MOST_RECORDS_BYTES
from coterie.ledger.encoding import Hash, Height, Key, Signature, Time, pack, parse
from coterie.ledger.records import MOST_RECORD_BYTES, Record
from coterie.ledger.shared.signatures import Signatures
from coterie.ledger.shared.votes import MOST_CERTIFICATE_BYTES, BlockHeight, Certificate, Epoch

MOST_BLOCK_BYTES = 384
MOST_FULL_BYTES = MOST_RECORDS_BYTES + 5 * MOST_RECORDS + 2 * MOST_BLOCK_BYTES
MOST_DUMMIES = 16
"""Dummy certificates that a proposal bears."""
LAST_OPEN = 255
"""The highest height at which a block may leave its epoch open."""
MOST_HEADERS = LAST_OPEN + 1
"""Blocks after one, down to the certified one that makes it final: those up to the closing one, and one after that."""
MOST_PROPOSAL_BYTES = 1 << 20
"""It fits into one message. Where certificates are long and many, the block must be shorter."""
MOST_FINALITY_BYTES = MOST_CERTIFICATE_BYTES + (MOST_BLOCK_BYTES + 8) * MOST_HEADERS
_PURPOSE = "shared block"
_PROOF_BYTES = 80
_CLOSING = b"coterie closing"


class SharedBlock(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, dict=True):
    """A block without its records. ``decode`` checks its form, ``check`` its signature too."""

    genesis: Hash
    epoch: Epoch
    height: BlockHeight
    parent_height: Height
    """Of the block before; 0 for the anchor."""
    parent: Hash
    """Id of the block before, or the epoch's anchor."""
    root: Hash
    """Merkle tree hash over the records' bytes, signatures included."""
    count: Annotated[int, msgspec.Meta(ge=0, le=MOST_RECORDS)]
    """Number of records."""
    closes: bool
    """Whether it closes the epoch: what comes after it in the same one is dropped."""
    proof: Annotated[bytes, msgspec.Meta(max_length=_PROOF_BYTES)]
    """Of the proposer's verifiable random function, where it closes; otherwise empty."""
    closed: Annotated[bytes, msgspec.Meta(max_length=32)]
    """Id of the block that has closed the epoch, where this one follows it, at once or not; otherwise empty."""
    proposer: Key
    time: Time
    """The proposer's word; nothing follows from it."""
    signature: Signature

    @classmethod
    def make(
        cls,
        identity: Identity,
        *,
        genesis: bytes,
        epoch: int,
        height: int,
        parent_height: int,
        parent: bytes,
        records: Sequence[bytes] = (),
        closes: bool = False,
        proof: bytes = b"",
        closed: bytes = b"",
        time: int = 0,
    ) -> SharedBlock:
        """A signed block over the bytes of ``records``; ``time`` in ms since 1970. Raises LedgerError."""
        root, count = merkle.tree_hash(records), len(records)
        rest = (closes, proof, closed, identity.id, time, bytes(64))
        unsigned = cls(genesis, epoch, height, parent_height, parent, root, count, *rest)
        signed = msgspec.structs.replace(unsigned, signature=identity.sign(_PURPOSE, unsigned._signed))
        return cls.decode(signed.encode())

    @classmethod
    def decode(cls, data: bytes) -> SharedBlock:
        """The block in ``data``; its signature is not checked. Raises LedgerError."""
        block = parse(_block, data, "a shared block", MOST_BLOCK_BYTES)
        block.require_form()
        return block

    def require_form(self) -> None:
        """Raise LedgerError for parts that do not fit together, or a height at which the epoch must be closed."""
        if self.parent_height >= self.height:
            raise LedgerError("a block's parent is not below it", where=self.where)
        if len(self.proof) != (_PROOF_BYTES if self.closes else 0):
            raise LedgerError("a block that closes an epoch, and no other, bears a proof", where=self.where)
        if self.closed and (len(self.closed) != 32 or self.count or self.closes):
            raise LedgerError("something follows the block that closed the epoch", where=self.where)
        if self.height > LAST_OPEN and not (self.closes or self.closed):
            raise LedgerError(f"a block above height {LAST_OPEN} leaves its epoch open", where=self.where)

    def check(self, known: Signatures | None = None) -> None:
        """Raise LedgerError unless its proposer signed it."""
        if not (known.verify if known else verify)(self.proposer, _PURPOSE, self._signed, self.signature):
            raise LedgerError("a block is not signed by its proposer", where=self.where)

    def encode(self) -> bytes:
        return pack(self)

    @cached_property
    def id(self) -> bytes:
        """SHA-256, 32 bytes."""
        return hashlib.sha256(self._signed).digest()

    @property
    def where(self) -> str:
        return f"block {self.epoch}.{self.height} of {self.proposer[:12]}"

    @cached_property
    def _signed(self) -> bytes:
        return pack(msgspec.structs.astuple(self)[:-1])


class FullSharedBlock(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A block with its records as bytes: as it travels and lies in a store. ``of`` and ``decode`` check its form."""

    block: SharedBlock
    records: Annotated[
        tuple[Annotated[bytes, msgspec.Meta(max_length=MOST_RECORD_BYTES)], ...], msgspec.Meta(max_length=MOST_RECORDS)
    ]

    @classmethod
    def of(cls, block: SharedBlock, records: Sequence[Record]) -> FullSharedBlock:
        return cls(block, tuple(record.encode() for record in records))

    @classmethod
    def decode(cls, data: bytes) -> FullSharedBlock:
        """Its two parts; no signature and no record is checked. Raises LedgerError."""
        full = parse(_full_block, data, "a shared block with its records", MOST_FULL_BYTES)
        full.block.require_form()
        return full

    def encode(self) -> bytes:
        return pack(self)

    @property
    def most_bytes(self) -> int:
        """Not less than the length of its encoding."""
        return MOST_BLOCK_BYTES + sum(map(len, self.records)) + 5 * len(self.records)

    def check_root(self) -> None:
        """Raise LedgerError unless the records are those that the block names by its root."""
        block = self.block
        if block.count != len(self.records) or sum(map(len, self.records)) > MOST_RECORDS_BYTES:
            raise LedgerError("its records are more or fewer than it says, or too long", where=block.where)
        if merkle.tree_hash(self.records) != block.root:
            raise LedgerError("its records are not those that were signed", where=block.where)

    def read_records(self) -> tuple[Record, ...]:
        """The records, each checked. Raises LedgerError that names the first bad one."""
        found: list[Record] = []
        ids: set[bytes] = set()
        for index, data in enumerate(self.records):
            where = f"{self.block.where}, record {index}"
            try:
                record = Record.decode(data)
            except LedgerError as error:
                raise LedgerError(str(error), where=where) from None
            if record.id in ids:
                raise LedgerError("it is in the block twice", where=where)
            ids.add(record.id)
            found.append(record)
        return tuple(found)


class Proposal(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a leader sends: a block, and why it may follow what it follows. ``decode`` checks forms only."""

    full: FullSharedBlock
    notarised: Certificate | None
    """Of the parent, or its final certificate, which says more; None where the parent is the anchor."""
    dummies: Annotated[tuple[Certificate, ...], msgspec.Meta(max_length=MOST_DUMMIES)]
    """For the heights between the parent and the block, ascending. Where they are many, for the last of them: who
    lacks one of the others asks for it."""

    @classmethod
    def decode(cls, data: bytes) -> Proposal:
        """The proposal in ``data``: its parts fit together; no signature is checked. Raises LedgerError."""
        found = parse(_proposal, data, "a proposal", MOST_PROPOSAL_BYTES)
        found.require_form()
        return found

    def encode(self) -> bytes:
        return pack(self)

    def require_form(self) -> None:
        """Raise LedgerError unless the certificates are for the block's parent and the heights up to the block."""
        block = self.full.block
        block.require_form()
        parent = self.notarised
        if (parent is None) != (block.parent_height == 0):
            raise LedgerError("a proposal bears its parent's certificate, unless that is the anchor", where=block.where)
        if parent is not None and (
            parent.kind == "dummy"
            or (parent.epoch, parent.height, parent.hash) != (block.epoch, block.parent_height, block.parent)
        ):
            raise LedgerError("the certificate is not that of the proposal's parent", where=block.where)
        between = range(block.parent_height + 1, block.height)[-MOST_DUMMIES:]
        if [(dummy.epoch, dummy.height, dummy.kind) for dummy in self.dummies] != [
            (block.epoch, height, "dummy") for height in between
        ]:
            raise LedgerError("dummy certificates for the heights between are missing", where=block.where)


class Finality(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Why a block is final: a final certificate for it, or for a block that descends from it in the same epoch."""

    headers: Annotated[tuple[SharedBlock, ...], msgspec.Meta(max_length=MOST_HEADERS)]
    """The blocks after it, down to the certified one, but of those after a closing one the last only; none where it is
    certified itself."""
    certificate: Certificate

    @classmethod
    def decode(cls, data: bytes) -> Finality:
        """The parts in ``data``, their forms checked only. Raises LedgerError."""
        found = parse(_finality, data, "a proof of finality", MOST_FINALITY_BYTES)
        found.certificate.require_form()
        for header in found.headers:
            header.require_form()
        return found

    def encode(self) -> bytes:
        return pack(self)


def closing_alpha(beacon: bytes, height: int) -> bytes:
    """What the proposer of a closing block at ``height`` proves its random function over."""
    return _CLOSING + beacon + struct.pack(">Q", height)


_block = msgspec.msgpack.Decoder(SharedBlock)
_full_block = msgspec.msgpack.Decoder(FullSharedBlock)
_proposal = msgspec.msgpack.Decoder(Proposal)
_finality = msgspec.msgpack.Decoder(Finality)
