"""When a node may take another transport certificate: while the others hear of it, and take its word on the time.

The key of the certificate before is forgotten. So a node that renews while nobody hears it, or by a clock that has
jumped ahead, shuts itself out: the others never learn the new certificate, or keep no record from the future.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from coterie.errors import NodeError
from coterie.protocols.membership.book import SKEW_MS
from coterie.runtime.node.messages import Standing, StandingAsk
from coterie.runtime.node.roster import now_ms

if TYPE_CHECKING:
    from coterie.runtime.node.daemon import Node

_ANSWER = 5.0
"""Seconds that other members have to answer."""


async def require_heard(node: Node) -> None:
    """Raise NodeError where no other member answers, or most of those who do have another time."""
    others, asked = node.roster.others(node.identity.id), now_ms()
    answers = await node.peer.ask_all(others, StandingAsk(), _ANSWER)
    middle = (asked + now_ms()) // 2
    ahead = [middle - answer.time for answer in answers if isinstance(answer, Standing)]
    if others and not ahead:
        raise NodeError(
            "no member answers, and a certificate that nobody hears of would shut this node out",
            where="certificate",
            remedy="Try again while another member's node runs.",
        )
    if ahead and abs(statistics.median_low(ahead)) > SKEW_MS // 2:
        raise NodeError(
            f"this clock is {statistics.median_low(ahead) / 1000:+.0f} s off the others', who would refuse a new "
            "certificate by it",
            where="certificate",
            remedy="Set it: use NTP.",
        )
