"""The shared chain: what a federation agrees on, final once a quorum of its voters has signed. Data and checks only.

Who can do what, with the rule ``stake``. Less than a third of the stake can make no two blocks final that are not one
after the other, propose at no height that the beacon did not draw it for, and accuse nobody of what it did not sign. It
can delay; leave records out while it leads; and keep closing blocks back, for another draw of the next beacon. A third
can stop the chain, and for two blocks to be final at one height a third must sign both, which proves itself to whoever
has both. Two thirds write what they like, short of others' signatures. With the rule ``majority`` one liar is enough
for a fork.

Old keys: who comes to hold those of two thirds of a past epoch can write another history from there on, and no check
finds it out but a later checkpoint from somebody trusted (``charter``).
"""

from coterie.ledger.shared.audit import SharedAudit, SharedFault, audit_shared, describe_shared, is_shared
from coterie.ledger.shared.blocks import Finality, FullSharedBlock, Proposal, SharedBlock, closing_alpha
from coterie.ledger.shared.chain import CheckedBlock, SharedChain, check_block
from coterie.ledger.shared.changes import Accusation, Change, Join, Leave, NewKey, Removal
from coterie.ledger.shared.charter import Charter, Checkpoint, Locked, next_beacon
from coterie.ledger.shared.evidence import Evidence
from coterie.ledger.shared.ledger import Batch, FinalProof, SharedLedger
from coterie.ledger.shared.memory import SharedMemory
from coterie.ledger.shared.signatures import Signatures
from coterie.ledger.shared.store import SharedDamage, SharedStore
from coterie.ledger.shared.voters import QuorumRule, Voter, Voters
from coterie.ledger.shared.votes import Certificate, Vote, VoteKind

__all__ = [
    "Voter",
    "Voters",
    "QuorumRule",
    "Charter",
    "Checkpoint",
    "Locked",
    "Vote",
    "VoteKind",
    "Certificate",
    "Signatures",
    "SharedBlock",
    "FullSharedBlock",
    "Proposal",
    "Finality",
    "Evidence",
    "SharedChain",
    "CheckedBlock",
    "check_block",
    "Change",
    "Join",
    "Leave",
    "NewKey",
    "Removal",
    "Accusation",
    "SharedLedger",
    "SharedMemory",
    "SharedStore",
    "SharedDamage",
    "Batch",
    "FinalProof",
    "SharedAudit",
    "SharedFault",
    "audit_shared",
    "describe_shared",
    "is_shared",
    "closing_alpha",
    "next_beacon",
]
