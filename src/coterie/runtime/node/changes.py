"""What a node logs when members come and go."""

from __future__ import annotations

import logging

from coterie.identity import short_name
from coterie.protocols.membership import Membership

_log = logging.getLogger("coterie.node")


def tell_of_changes(before: Membership, after: Membership) -> None:
    """Log who is no member any more, and why."""
    for peer, member in before.members.items():
        if peer in after.members:
            continue
        called, removal = f"{member.name} ({short_name(peer)})", after.expelled.get(peer)
        if removal is None:
            _log.info("%s has left the federation", called)
        elif removal.successor is not None:
            _log.info("%s goes on under a new key, %s", called, short_name(removal.successor))
        else:
            _log.info("%s was expelled by %s: %s", called, short_name(removal.by), removal.reason or "no reason given")
