"""What cannot be taken back. So far only the ledger that keeps nothing."""

from coterie.ledger.null import Ledger, NullLedger

__all__ = ["Ledger", "NullLedger"]
