"""What cannot be taken back: signed records, blocks and chains of them, the store, catching up, and the audit."""

from coterie.ledger.audit import Audit, ChainCount, Fault, audit, describe
from coterie.ledger.blocks import Block, BlockId, Equivocation, FullBlock, Proof
from coterie.ledger.catchup import Batch, Head, Known, Received, Request, requests, take
from coterie.ledger.chain import BadRecord, extend
from coterie.ledger.formats import StoreError
from coterie.ledger.null import Ledger, NullLedger
from coterie.ledger.peer_ledger import PeerLedger
from coterie.ledger.records import Record, RecordId, canonical
from coterie.ledger.salvage import Damage
from coterie.ledger.store import LedgerStore

__all__ = [
    "Ledger",
    "NullLedger",
    "PeerLedger",
    "Record",
    "RecordId",
    "canonical",
    "Block",
    "BlockId",
    "FullBlock",
    "Proof",
    "Equivocation",
    "BadRecord",
    "extend",
    "Head",
    "Request",
    "Known",
    "Batch",
    "Received",
    "requests",
    "take",
    "LedgerStore",
    "StoreError",
    "Damage",
    "Audit",
    "ChainCount",
    "Fault",
    "audit",
    "describe",
]
