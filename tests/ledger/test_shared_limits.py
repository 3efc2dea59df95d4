"""The longest values of each kind are within the limits that their decoders set, and within one message."""

import hashlib

import pytest
from ledger_worlds import GENESIS
from shared_worlds import PEERS

from coterie.errors import LedgerError
from coterie.identity import Identity, VrfKey
from coterie.ledger.blocks import MOST_RECORDS, MOST_RECORDS_BYTES
from coterie.ledger.shared import (
    Batch,
    Certificate,
    Checkpoint,
    Evidence,
    Finality,
    FullSharedBlock,
    Locked,
    Proposal,
    QuorumRule,
    SharedBlock,
    Vote,
    Voter,
    Voters,
)
from coterie.ledger.shared.blocks import MOST_BLOCK_BYTES, MOST_HEADERS, MOST_PROPOSAL_BYTES
from coterie.ledger.shared.charter import MOST_LOCKED
from coterie.ledger.shared.ledger import MOST_BATCH_BYTES, Row

FAR = (1 << 53) - 1
PEER = PEERS[0]


def longest_block(height=FAR, below=FAR - 1, **changed):
    fields = {"genesis": GENESIS, "epoch": FAR, "height": height, "parent_height": below, "parent": bytes(32)}
    return SharedBlock.make(PEER, **{**fields, "closes": True, "proof": bytes(80), "time": FAR, **changed})


LONGEST = Certificate(FAR, FAR, "final", b"h" * 32, tuple((place, bytes(64)) for place in range(1024)))
RECORDS = tuple(b"x" * (MOST_RECORDS_BYTES // MOST_RECORDS) for _ in range(MOST_RECORDS))


def test_blocks():
    block = longest_block(records=RECORDS)
    assert len(block.encode()) <= MOST_BLOCK_BYTES
    assert SharedBlock.decode(block.encode()) == block
    full = FullSharedBlock(block, RECORDS)
    assert FullSharedBlock.decode(full.encode()) == full
    full.check_root()
    assert len(full.encode()) <= full.most_bytes <= MOST_BATCH_BYTES


def test_records_of_a_byte_too_many():
    """The decoder bounds each record, and how many there are; what they have together is checked with their root."""
    records = tuple(bytes(1 << 16) for _ in range(MOST_RECORDS_BYTES >> 16))
    FullSharedBlock(longest_block(records=records), records).check_root()
    records = (*records, b"!")
    with pytest.raises(LedgerError, match="too long"):
        FullSharedBlock(longest_block(records=records), records).check_root()


def test_what_makes_a_block_final():
    assert Certificate.decode(LONGEST.encode()) == LONGEST
    headers = tuple(longest_block(FAR - MOST_HEADERS + n, FAR - MOST_HEADERS + n - 1) for n in range(MOST_HEADERS))
    finality = Finality(headers, LONGEST)
    assert Finality.decode(finality.encode()) == finality
    row = Row(FullSharedBlock(longest_block(records=RECORDS), RECORDS), finality)
    assert Row.decode(row.encode()) == row
    batch = Batch((row.full,), finality)
    assert Batch.decode(batch.encode()) == batch
    assert len(finality.encode()) + MOST_BATCH_BYTES < 1 << 20


def test_a_proposal_of_the_longest_block():
    block = longest_block(FAR, FAR - 3, records=RECORDS, parent=b"h" * 32)
    parent = Certificate(FAR, FAR - 3, "block", b"h" * 32, LONGEST.votes)
    dummies = tuple(Certificate(FAR, FAR - back, "dummy", bytes(32), LONGEST.votes) for back in (2, 1))
    proposal = Proposal(FullSharedBlock(block, RECORDS), parent, dummies)
    assert Proposal.decode(proposal.encode()) == proposal
    assert len(proposal.encode()) < MOST_PROPOSAL_BYTES


def test_evidence():
    found = Evidence.of(longest_block(), longest_block(time=FAR - 1))
    assert Evidence.decode(found.encode()) == found
    votes = [
        Vote.make(PEER, GENESIS, FAR, FAR, kind, name) for kind, name in (("final", b"h" * 32), ("dummy", bytes(32)))
    ]
    assert Evidence.decode(Evidence.of(*votes).encode()).voter == PEER.id


def test_checkpoints():
    """As many voters as there may be, twice, and as many locked keys."""
    peers = [Identity.from_seed(hashlib.sha256(b"many %d" % n).digest()) for n in range(1024)]
    vrf = VrfKey.of(PEER, GENESIS).public
    many = Voters.of(Voter(peer.id, vrf, 1 << 48) for peer in peers)
    assert Voters.decode(many.encode()) == many
    keys = sorted(hashlib.sha256(b"%d" % n).hexdigest() for n in range(MOST_LOCKED))
    locked = tuple(Locked(key, 1 << 48, PEER.id, FAR) for key in keys)
    state = Checkpoint(GENESIS, QuorumRule("two thirds", 1024), 1 << 20, FAR, bytes(32), bytes(32), many, many, locked)
    assert Checkpoint.decode(state.encode()) == state
    assert Checkpoint.restore(state.summary, {many.hash: many}) == state
    assert many.total == 1 << 58
