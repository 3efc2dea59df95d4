"""The chain as far as it is final: what may follow, and what is known of it. Pure: values in, values out.

What is checked of a final block: it follows the one before; its proposer is the leader whom the beacon drew; proposer
and records' authors have signed; its Merkle root is that of its records; records that change voters are well formed; a
block that closes the epoch has a good proof, from which the next beacon follows; and a quorum of the epoch's voters
has signed that it is final, or that a block is which descends from it in this epoch. A block that follows the closing
one says so itself: those who voted for it have checked that.

What cannot be seen from a chain: that what was recorded is true; that joins, weights and removals were right; that a
leader left something out, or kept a closing block back; and that another chain was written from an old epoch on with
keys stolen later (see ``charter``). A quorum that signed two chains is found out by who has both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from coterie.errors import LedgerError
from coterie.identity import vrf_output
from coterie.ledger.records import Record
from coterie.ledger.shared.blocks import Finality, FullSharedBlock, SharedBlock, closing_alpha
from coterie.ledger.shared.changes import Change, advanced, read
from coterie.ledger.shared.charter import Checkpoint, next_beacon
from coterie.ledger.shared.signatures import Signatures


class CheckedBlock(NamedTuple):
    """What is in a block that its epoch's leader may have proposed."""

    block: SharedBlock
    records: tuple[Record, ...]
    changes: tuple[Change, ...]
    """Of voters, among the records."""
    output: bytes
    """Of the proposer's random function, 64 bytes; empty unless the block closes the epoch."""


@dataclass(frozen=True)
class SharedChain:
    """A chain's final state: the epoch's, and the last final block in it."""

    state: Checkpoint
    height: int
    """Of the last final block in this epoch; 0 before the first."""
    head: bytes
    """Its id; the anchor before the first."""
    changes: tuple[Change, ...] = ()
    """What this epoch has recorded of its voters so far."""

    @classmethod
    def begin(cls, state: Checkpoint) -> SharedChain:
        return cls(state, 0, state.anchor)

    def extend(
        self, blocks: Sequence[FullSharedBlock], finality: Finality, known: Signatures
    ) -> tuple[SharedChain, tuple[CheckedBlock, ...]]:
        """The chain with ``blocks`` of its epoch, in order, the last one final by ``finality``; and what is in them.

        After a block that closes the epoch the chain is at the beginning of the next one. Raises LedgerError that
        names the first bad block; nothing of the rest is then to be believed.
        """
        if not blocks:
            raise LedgerError("there is no block to add")
        check_finality(self.state, blocks[-1].block, finality, known)
        chain, found = self, []
        for full in blocks:
            if chain.state is not self.state:
                raise LedgerError("it follows the block that closed the epoch", where=full.block.where)
            chain, checked = chain.follow(full, known)
            found.append(checked)
        return chain, tuple(found)

    def follow(self, full: FullSharedBlock, known: Signatures) -> tuple[SharedChain, CheckedBlock]:
        """The chain with one more block, which is not final by that; and what is in it. Raises LedgerError."""
        block = full.block
        if block.closed:
            raise LedgerError("it follows the block that closed the epoch", where=block.where)
        _check_link(self.state, self.height, self.head, block)
        checked = check_block(self.state, full, known)
        changes = self.changes + checked.changes
        if not block.closes:
            return SharedChain(self.state, block.height, block.id, changes), checked
        beacon = next_beacon(self.state.beacon, checked.output)
        return SharedChain.begin(advanced(self.state, changes, block.id, beacon)), checked


def check_finality(state: Checkpoint, block: SharedBlock, finality: Finality, known: Signatures) -> None:
    """Raise LedgerError unless ``block`` is of this epoch and final; what is in it is not looked at."""
    check_proposer(state, block)
    last = block
    for header in finality.headers:
        if header.closed or last.closes or last.closed:
            check_proposer(state, header)
            if not last.closes or header.closed != last.id or header.height <= last.height:
                raise LedgerError("it does not follow the block that closed the epoch", where=header.where)
        else:
            _check_link(state, last.height, last.id, header)
        header.check(known)
        last = header
    certificate = finality.certificate
    if (certificate.kind, certificate.epoch, certificate.height, certificate.hash) != (
        "final",
        state.epoch,
        last.height,
        last.id,
    ):
        raise LedgerError("the certificate does not make it final", where=last.where)
    certificate.check(state.genesis, state.voters, state.rule, known)


def check_block(state: Checkpoint, full: FullSharedBlock, known: Signatures) -> CheckedBlock:
    """What is in a block of this epoch, checked but for what it follows: so before voting. Raises LedgerError."""
    block = full.block
    check_proposer(state, block)
    full.check_root()
    block.check(known)
    found = known.recall((state.id, block.id))
    if not isinstance(found, CheckedBlock):
        found = _checked(state, full, known)
        known.remember((state.id, block.id), found)
    return found


def _checked(state: Checkpoint, full: FullSharedBlock, known: Signatures) -> CheckedBlock:
    block, records = full.block, full.read_records()
    changes = tuple(change for record in records if (change := read(record, state.genesis, known)) is not None)
    output = b""
    if block.closes:
        voter = state.voters.get(block.proposer)
        proved = voter and vrf_output(voter.vrf, closing_alpha(state.beacon, block.height), block.proof)
        if not proved:
            raise LedgerError("its proof is not that of its proposer's random function", where=block.where)
        output = proved
    return CheckedBlock(block, records, changes, output)


def check_proposer(state: Checkpoint, block: SharedBlock) -> None:
    """Raise LedgerError unless the block is of this federation, this epoch, and of its height's leader."""
    block.require_form()
    if block.genesis != state.genesis:
        raise LedgerError("it is of another federation", where=block.where)
    if block.epoch != state.epoch:
        raise LedgerError(f"it is not of epoch {state.epoch}", where=block.where)
    if block.proposer != state.leader(block.height):
        raise LedgerError("its proposer was not the leader", where=block.where)


def _check_link(state: Checkpoint, height: int, head: bytes, block: SharedBlock) -> None:
    check_proposer(state, block)
    if (block.parent_height, block.parent) != (height, head):
        raise LedgerError(f"it does not follow the block {state.epoch}.{height}", where=block.where)
