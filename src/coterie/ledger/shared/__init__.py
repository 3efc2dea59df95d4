"""The shared chain: what a federation agrees on, final once a quorum of its voters has signed. Data and checks only.

Who can do what, with the rule ``stake``: less than a third of the stake can neither make two blocks final that are not
one after the other, nor name a block that was not proposed by the leader that the beacon drew, nor take part in the
draw. It can delay, leave records out while it leads, and keep closing blocks back. A third can stop the chain; two
thirds can write what they like, except others' signatures, and evidence of what they signed twice remains with
whoever has seen both.
"""

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
    "closing_alpha",
    "next_beacon",
]
