"""The ledger as a protocol sees it, and the one that keeps nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Ledger(Protocol):
    """Where a peer leaves the trace of what it decided."""

    def append(self, kind: str, content: Mapping[str, str | int | float]) -> None:
        """Add a record of a ``kind``, such as ``round``."""
        ...


class NullLedger:
    """Keeps no record. Runs with it have ``ledger: null`` in their result: there is nothing to audit."""

    def append(self, kind: str, content: Mapping[str, str | int | float]) -> None:
        """Forget the record."""
