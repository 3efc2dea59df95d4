"""How a node's peer leaves its federation.

A leave is signed only while another member is connected, and the node stops only when one has the record: whoever has
it tells the others. Where no node runs, one is started for it (``departing``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from coterie.errors import NodeError
from coterie.identity import PeerId
from coterie.protocols.membership import leave_of, require_leave, sign_leave
from coterie.runtime.node.control import call
from coterie.runtime.node.home import Home
from coterie.runtime.node.roster import Roster

if TYPE_CHECKING:
    from coterie.runtime.node.daemon import Node

SECONDS = 30.0
"""For a member to be met, and as many for the record to be fetched."""
REFUSED = 10.0
"""For a member to let in one who has left: who does not in this time, although its door is there, knows of it."""
_LOOK, _TELL = 0.1, 1.0


class Outlook(NamedTuple):
    """What leaving would mean here."""

    runs: bool
    """A node runs in this home."""
    is_founder: bool
    quorum: int
    """How many must sign for what only the founder might do, once it is gone."""


def outlook(path: Path) -> Outlook:
    """Raises NodeError where there is no home, LedgerError where its ledger cannot be read."""
    home = Home(path)
    try:
        status = call(home.socket, {"command": "status"})
        return Outlook(True, status["founder"] == status["peer"], status["quorum"])
    except NodeError:
        pass
    with Roster(home.path, home.table.federation) as roster:
        return Outlook(False, roster.membership.founder == home.identity.id, roster.genesis.policy.quorum)


async def leave(node: Node) -> dict[str, Any]:
    """Sign that this node's peer leaves, hand the record to the members that are connected, and stop the node.

    Done again after a failure, it hands the same record on. Raises MembershipError where the peer may not leave, and
    NodeError where nobody can be told: then nothing was signed, or the node goes on until somebody is.
    """
    book, own = node.roster.book, node.identity.id
    record = leave_of(book, own)
    if record is None:
        require_leave(book, node.identity)
        if not await _until(lambda: bool(node.transport.connected), SECONDS):
            raise NodeError(
                "no member can be reached, and one that nobody hears of has not left; nothing was signed",
                where="leave",
                remedy="Try again while another member's node runs; or ask for this peer's expulsion.",
            )
        record = sign_leave(book, node.identity)
        fetched = node.spread.follow(record.id)
    else:
        fetched = node.spread.follow(record.id)
        if not await _until(lambda: bool(fetched or node.transport.connected), REFUSED):
            refusing = await node.contacts.at_door(node.roster.others(own))
            if refusing:  # they let it in no more: they know
                return _done(node, refusing)

    def told() -> set[PeerId]:
        """Those who have fetched the record, and cut this peer off for it."""
        return fetched - set(node.transport.connected)

    await _until(lambda: bool(told()) and not node.transport.connected, SECONDS, node.spread.tell)
    if not told():
        raise NodeError(
            "the leave is signed, but no member has fetched it yet, and until one has, all others count on this peer",
            where="leave",
            remedy="Give the command again while another member's node runs.",
        )
    return _done(node, told())


def _done(node: Node, told: Collection[PeerId]) -> dict[str, Any]:
    node.stop()
    others = node.roster.others(node.identity.id)
    members = node.roster.membership.members
    return {"told": [members[peer].name for peer in others if peer in told], "others": len(others)}


async def _until(condition: Callable[[], bool], seconds: float, urge: Callable[[], None] = lambda: None) -> bool:
    """Whether the condition came true in so many seconds. ``urge`` is called now and then meanwhile."""
    loop = asyncio.get_running_loop()
    begun = urged = loop.time()
    while not condition():
        if loop.time() > begun + seconds:
            return False
        if loop.time() > urged + _TELL:
            urged = loop.time()
            urge()
        await asyncio.sleep(_LOOK)
    return True
