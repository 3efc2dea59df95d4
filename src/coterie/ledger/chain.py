"""Whether a block continues a chain. Pure: bytes and blocks in, checked records out, no clock and no store."""

from __future__ import annotations

from collections.abc import Sequence

from coterie.errors import LedgerError
from coterie.ledger import merkle
from coterie.ledger.blocks import MOST_RECORDS_BYTES, Block
from coterie.ledger.records import Record


class BadRecord(LedgerError):
    """A block's record is not what it must be. ``index``: its place in the block."""

    def __init__(self, what: str, *, where: str = "", remedy: str = "", index: int = 0) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.index = index


def extend(head: Block | None, block: Block, records: Sequence[bytes], genesis: bytes) -> tuple[Record, ...]:
    """The records of ``block``, checked, if it may follow ``head`` (None: begin the chain). The block is then the head.

    ``block`` is as ``Block.decode`` gave it, its signature checked; ``records`` are bytes from anywhere. Records may
    be of other authors. Time does not go back: the block is no older than the one before, and the author's own records
    are no older than the block before, no younger than theirs, and in order. What others say about time is theirs.

    Raises LedgerError that names the block, and BadRecord that names the first bad record.
    """
    fault = _fault(head, block, records, genesis)
    if fault:
        raise LedgerError(fault, where=block.where)
    found = _checked(head, block, records)
    if merkle.tree_hash(records) != block.root:
        raise LedgerError("its records are not those that were signed", where=block.where)
    return found


def _fault(head: Block | None, block: Block, records: Sequence[bytes], genesis: bytes) -> str:
    if block.federation != genesis:
        return f"it is of the federation {block.federation.hex()[:16]}, not of {genesis.hex()[:16]}"
    if head is not None and block.author != head.author:
        return f"it does not continue the chain of {head.author[:12]}"
    height = 0 if head is None else head.height + 1
    if block.height != height:
        return f"block {height} must come first"
    if head is not None and block.previous != head.id:
        return "it does not follow the block before: a fork, or a forgery of it"
    if head is not None and block.time < head.time:
        return f"it is {head.time - block.time} ms older than the block before"
    if block.count != len(records):
        return f"it has {block.count} records, {len(records)} are here"
    if sum(map(len, records)) > MOST_RECORDS_BYTES:
        return f"its records are longer than {MOST_RECORDS_BYTES} bytes"
    return ""


def _checked(head: Block | None, block: Block, records: Sequence[bytes]) -> tuple[Record, ...]:
    found: list[Record] = []
    ids: set[bytes] = set()
    earliest = 0 if head is None else head.time
    for index, data in enumerate(records):
        try:
            record = Record.decode(data)
        except LedgerError as error:
            raise _bad(block, index, str(error)) from None
        if record.id in ids:
            raise _bad(block, index, "it is in the block twice")
        if record.author == block.author:
            if not earliest <= record.time <= block.time:
                raise _bad(block, index, "its time is before an earlier one of its author, or after its block")
            earliest = record.time
        ids.add(record.id)
        found.append(record)
    return tuple(found)


def _bad(block: Block, index: int, what: str) -> BadRecord:
    return BadRecord(what, where=f"{block.where}, record {index}", index=index)
