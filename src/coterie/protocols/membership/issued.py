"""What an inviter remembers of the invitations it has issued: their public keys, when they end, and who used them.

It lives in the peer's store, so that a crash neither loses an invitation nor lets one be used twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from coterie.errors import MembershipError
from coterie.identity import PeerId
from coterie.protocols.membership.invitation import Invitation

if TYPE_CHECKING:
    from coterie.protocols.peer import Store

MOST_OPEN = 1000
KEEP_USED_MS = 30 * 86_400_000
"""For so long after its end a used invitation still answers who used it."""
_KEY = "invitations"


class Issued(msgspec.Struct, frozen=True):
    """One invitation. ``replaces``: the id that its user succeeds; ``used_by``: empty until it is used."""

    key: PeerId
    expires: int
    replaces: PeerId = ""
    used_by: PeerId = ""


class Issues:
    """All invitations of one inviter. ``now()``: ms since 1970."""

    def __init__(self, store: Store, now: Callable[[], int]) -> None:
        self._store, self._now = store, now

    def add(self, invitation: Invitation, replaces: PeerId = "") -> None:
        """Remember a new invitation; forget what ended long ago. Raises MembershipError if too many are open."""
        entries = {key: entry for key, entry in self._entries().items() if not self._is_over(entry)}
        if len(entries) >= MOST_OPEN:
            raise MembershipError(
                f"{MOST_OPEN} invitations are open",
                where="invite",
                remedy="Wait until some have been used or have ended.",
            )
        key = invitation.key.id
        entries[key] = Issued(key, invitation.expires, replaces)
        self._put(entries)

    def find(self, key: PeerId) -> Issued | None:
        """The invitation with this public key; None for one that was never issued, or ended long ago."""
        return self._entries().get(key)

    def use(self, entry: Issued, peer: PeerId) -> Issued:
        """Durably mark it as used by ``peer``."""
        used = msgspec.structs.replace(entry, used_by=peer)
        self._put({**self._entries(), entry.key: used})
        return used

    def _is_over(self, entry: Issued) -> bool:
        return entry.expires + (KEEP_USED_MS if entry.used_by else 0) < self._now()

    def _entries(self) -> dict[PeerId, Issued]:
        rows = self._store.get(_KEY) or []
        return {row["key"]: Issued(**row) for row in rows}

    def _put(self, entries: dict[PeerId, Issued]) -> None:
        self._store.put(_KEY, [msgspec.structs.asdict(entry) for entry in entries.values()])
