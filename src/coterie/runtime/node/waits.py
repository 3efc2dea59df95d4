"""What a node waits for, said in its status and in its log."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from coterie.identity import PeerId, short_name
from coterie.runtime.node.roster import Roster

_SAY = 30.0
"""Seconds between two lines in the log about the same."""
_log = logging.getLogger("coterie.node")


class Waits:
    """``at_door``: which of some peers can be dialled, whether they let this one in or not."""

    def __init__(self, roster: Roster, at_door: Callable[[Sequence[PeerId]], Awaitable[list[PeerId]]]) -> None:
        self._roster, self._at_door = roster, at_door
        self.why = ""
        """What is waited for; empty while nothing is."""
        self._said = ("", 0.0)

    async def say(self, what: str, silent: Sequence[PeerId] = ()) -> None:
        """Log what is waited for: when it changes, and now and then. ``silent``: members, none of whom has answered."""
        said, at = self._said
        if what == said and time.monotonic() - at < _SAY:
            return
        self._said = what, time.monotonic()
        refusing = await self._at_door(silent)
        if refusing:
            names = ", ".join(map(self.called, refusing))
            what += (
                f". {names} can be dialled, but will not talk to this peer: it may have been expelled or replaced, "
                "or its certificate may have ended. Ask them"
            )
        self.why = what
        _log.info("%s", what)

    def called(self, peer: PeerId) -> str:
        """As it calls itself, and the short name that logs have."""
        member = self._roster.membership.members.get(peer)
        return f"{member.name} ({short_name(peer)})" if member is not None else short_name(peer)
