"""The ledger as a protocol sees it, and the one that keeps nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Ledger(Protocol):
    """Where a peer leaves the trace of what it decided."""

    def append(self, kind: str, content: Mapping[str, str | int | float]) -> None:
        """Add a record of a ``kind``, such as ``model``."""
        ...

    async def confirms(self, author: str, kind: str, content: Mapping[str, str | int | float]) -> bool:
        """Whether the peer ``author`` has signed a record of this kind and content."""
        ...


class NullLedger:
    """Keeps no record. Runs with it have ``ledger: null`` in their result: there is nothing to audit."""

    def append(self, kind: str, content: Mapping[str, str | int | float]) -> None:
        """Forget the record."""

    async def confirms(self, author: str, kind: str, content: Mapping[str, str | int | float]) -> bool:
        """Always: nothing is recorded, so there is nothing to compare with."""
        return True
