"""The shared chain as a peer keeps it: what can be added, asked for and proved, wherever it lies.

Nothing is kept that is not final. What comes from other peers is checked before it is added; blocks that are here
already are passed over. Another block than the final one here is refused: if a quorum has signed it, two final
certificates contradict each other, and at least a third of the stake (with ``majority``: one voter) has signed both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec

from coterie.errors import LedgerError
from coterie.ledger import merkle
from coterie.ledger.blocks import MOST_RECORDS
from coterie.ledger.encoding import Hash, pack, parse
from coterie.ledger.records import Record, RecordId
from coterie.ledger.shared.blocks import (
    MOST_FINALITY_BYTES,
    MOST_FULL_BYTES,
    MOST_HEADERS,
    Finality,
    FullSharedBlock,
    SharedBlock,
)
from coterie.ledger.shared.chain import CheckedBlock, SharedChain, check_finality
from coterie.ledger.shared.charter import Charter, Checkpoint, state_of
from coterie.ledger.shared.signatures import Signatures

MOST_BATCH_BLOCKS = 256
MOST_BATCH_BYTES = 3 << 18
"""Of the blocks in one answer; with what makes them final it fits into one message of 1 MiB."""


class Batch(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An answer to who catches up: final blocks of one epoch, in order, and why the last one is final."""

    blocks: Annotated[tuple[FullSharedBlock, ...], msgspec.Meta(min_length=1, max_length=MOST_BATCH_BLOCKS)]
    finality: Finality

    @classmethod
    def decode(cls, data: bytes) -> Batch:
        """The batch in ``data``; nothing is believed of it before ``SharedLedger.receive``. Raises LedgerError."""
        return parse(_batch, data, "a batch of final blocks", MOST_BATCH_BYTES + MOST_FINALITY_BYTES + 16)

    def encode(self) -> bytes:
        return pack(self)


class FinalProof(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """That a record is in a final block, for somebody who knows the epoch's checkpoint and nothing else."""

    block: SharedBlock
    index: Annotated[int, msgspec.Meta(ge=0, lt=MOST_RECORDS)]
    """The record's place in the block."""
    path: Annotated[tuple[Hash, ...], msgspec.Meta(max_length=10)]
    """The audit path of RFC 6962, section 2.1.1."""
    finality: Finality

    @classmethod
    def decode(cls, data: bytes) -> FinalProof:
        """The proof in ``data``; ``proves`` looks into it. Raises LedgerError."""
        return parse(_proof, data, "a proof", 1024 + MOST_FINALITY_BYTES)

    def encode(self) -> bytes:
        return pack(self)

    def proves(self, record: Record, state: Checkpoint, known: Signatures | None = None) -> bool:
        """Whether ``record`` is in the block, and the block final in the epoch of ``state``, which is believed."""
        block, known = self.block, known or Signatures()
        try:
            block.check(known)
            check_finality(state, block, self.finality, known)
        except LedgerError:
            return False
        return merkle.verify(record.encode(), self.index, block.count, self.path, block.root)


class Row(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A final block as it is kept."""

    full: FullSharedBlock
    finality: Finality | None
    """None where it is final because a later one is: the next row with a finality says which."""

    @classmethod
    def decode(cls, data: bytes) -> Row:
        """The row in ``data``, forms checked. Raises LedgerError."""
        row = parse(_row, data, "a final block", MOST_ROW_BYTES)
        row.full.block.require_form()
        return row

    def encode(self) -> bytes:
        return pack(self)


MOST_ROW_BYTES = MOST_FULL_BYTES + MOST_FINALITY_BYTES + 16


class SharedLedger(ABC):
    """A shared chain, from its charter or a checkpoint to the last final block."""

    def _begin(self, start: Charter | Checkpoint, chain: SharedChain, known: Signatures | None) -> None:
        self.start, self._chain = start, chain
        self.known = known or Signatures()
        """What was checked already; may be shared by all peers in one process."""

    @property
    def chain(self) -> SharedChain:
        """The state after the last final block; ``chain.state`` is that of the epoch."""
        return self._chain

    def add(self, blocks: Sequence[FullSharedBlock], finality: Finality) -> tuple[CheckedBlock, ...]:
        """Add the blocks that follow, of one epoch, the last one final; returns what is in them.

        In a file they are on disk when this returns. Raises LedgerError, StoreError where the disk is full; nothing
        is then added.
        """
        chain, found = self._chain.extend(blocks, finality, self.known)
        rows = [Row(full, None) for full in blocks[:-1]] + [Row(blocks[-1], finality)]
        closed = chain.state.epoch > self._chain.state.epoch
        self._write(list(zip(rows, found, strict=True)), chain.state if closed else None)
        self._chain = chain
        return found

    def receive(self, batch: Batch) -> tuple[CheckedBlock, ...]:
        """Add what is new of another peer's answer; returns what is in it.

        Raises LedgerError for anything wrong with it, the sender's fault, and StoreError where the disk is full.
        """
        new = [full for full in batch.blocks if self._is_new(full.block)]
        return self.add(new, batch.finality) if new else ()

    def blocks(self, epoch: int, height: int, limit: int = MOST_BATCH_BLOCKS) -> Batch | None:
        """The final blocks of an epoch after ``height``, as many as fit into one answer; None for none.

        Who asks gives ``chain.state.epoch`` and ``chain.height``; a closed epoch has moved these on by itself.
        """
        found: list[FullSharedBlock] = []
        room, finality = MOST_BATCH_BYTES, None
        for row in self._rows(epoch, height, max(0, min(limit, MOST_BATCH_BLOCKS))):
            room -= row.full.most_bytes
            if room < 0 and found:
                break
            found.append(row.full)
            finality = row.finality
        if not found:
            return None
        return Batch(tuple(found), finality or self._finality(epoch, found[-1].block.height))

    def block(self, epoch: int, height: int) -> FullSharedBlock | None:
        """A final block; None where there is none at this height."""
        row = next(self._rows(epoch, height - 1, 1), None)
        return row.full if row is not None and row.full.block.height == height else None

    def record(self, record_id: RecordId) -> Record | None:
        """A record in a final block, by its id."""
        place = self._place(record_id)
        return Record.decode(place[0].records[place[1]]) if place else None

    def proof(self, record_id: RecordId) -> FinalProof:
        """That a record is final. Raises LedgerError for one that is in no final block here."""
        place = self._place(record_id)
        if place is None:
            raise LedgerError(f"record {record_id.hex()[:16]} is in no final block here")
        full, index = place
        block = full.block
        finality = self._finality(block.epoch, block.height)
        return FinalProof(block, index, tuple(merkle.proof(full.records, index)), finality)

    @abstractmethod
    def checkpoint(self, epoch: int) -> Checkpoint | None:
        """The state at the beginning of an epoch, from the start to the present one."""

    @abstractmethod
    def _write(self, rows: Sequence[tuple[Row, CheckedBlock]], state: Checkpoint | None) -> None:
        """Keep these rows, and the next epoch's state where there is one: all of it or nothing."""

    @abstractmethod
    def _rows(self, epoch: int, height: int, limit: int) -> Iterator[Row]:
        """The rows of an epoch after ``height``, in order."""

    @abstractmethod
    def _place(self, record_id: RecordId) -> tuple[FullSharedBlock, int] | None:
        """The first block a record is in, and where in it."""

    def _finality(self, epoch: int, height: int) -> Finality:
        """Why the block at ``height``, which is here, is final."""
        headers: list[SharedBlock] = []
        for row in self._rows(epoch, height - 1, MOST_HEADERS + 1):
            if row.full.block.height > height:
                headers.append(row.full.block)
            if row.finality is not None:
                return Finality((*headers, *row.finality.headers), row.finality.certificate)
        raise LedgerError("what makes it final is not here", where=f"block {epoch}.{height}")

    def _is_new(self, block: SharedBlock) -> bool:
        if (block.epoch, block.height) > (self._chain.state.epoch, self._chain.height):
            return True
        known = self.block(block.epoch, block.height)
        if block.epoch >= state_of(self.start).epoch and (known is None or known.block.id != block.id):
            raise LedgerError("another block than the final one here", where=block.where)
        return False


_batch = msgspec.msgpack.Decoder(Batch)
_proof = msgspec.msgpack.Decoder(FinalProof)
_row = msgspec.msgpack.Decoder(Row)
