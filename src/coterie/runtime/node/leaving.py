"""How a node's peer leaves its federation.

A leave is signed only while another member is connected, and the node stops only when one has the record: whoever has
it tells the others. Where no node runs, one is started for it (``departing``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from coterie.errors import NodeError
from coterie.identity import PeerId
from coterie.protocols.membership import leave_of, require_leave, sign_leave
from coterie.runtime.node.charter import Charter
from coterie.runtime.node.control import call
from coterie.runtime.node.home import Home

if TYPE_CHECKING:
    from coterie.runtime.node.daemon import Node

SECONDS = 30.0
"""For a member to be met, and as many for the record to be fetched."""
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
    charter = Charter(home.path, home.table.federation)
    try:
        return Outlook(False, charter.membership.founder == home.identity.id, charter.genesis.policy.quorum)
    finally:
        charter.close()


async def leave(node: Node) -> dict[str, Any]:
    """Sign that this node's peer leaves, hand the record to the members that are connected, and stop the node.

    Done again after a failure, it hands the same record on. Raises MembershipError where the peer may not leave, and
    NodeError where nobody can be told: then nothing was signed, or the node goes on until somebody is.
    """
    book, own = node.charter.book, node.identity.id
    record = leave_of(book, own)
    if record is None:
        require_leave(book, node.identity)
        if not await _until(lambda: bool(node.transport.connected), lambda: None):
            raise NodeError(
                "no member can be reached, and one that nobody hears of has not left; nothing was signed",
                where="leave",
                remedy="Try again when another member's node runs; or ask for this peer's expulsion.",
            )
        record = sign_leave(book, node.identity)
    fetched, others = node.spread.follow(record.id), node.charter.others(own)

    def heard() -> list[PeerId]:
        """Those who have fetched the record, and cut this peer off for it."""
        return sorted(fetched - set(node.transport.connected))

    await _until(lambda: bool(heard()) and not node.transport.connected, node.spread.tell)
    told = heard()
    refusing = [] if told else await node.contacts.at_door(others)
    if not told and (not refusing or node.transport.connected):
        raise NodeError(
            "the leave is signed, but no member has fetched it yet, and until one has, all others count on this peer",
            where="leave",
            remedy="Leave the node running, and give the command again when another member's node runs.",
        )
    node.stop()
    called = [member.name for peer, member in node.charter.membership.members.items() if peer in (told or refusing)]
    return {"record": record.id.hex(), "told": called, "others": len(others)}


async def _until(condition: Callable[[], bool], urge: Callable[[], None]) -> bool:
    """Whether the condition came true in ``SECONDS``. ``urge`` is called now and then meanwhile."""
    loop = asyncio.get_running_loop()
    end, urged = loop.time() + SECONDS, loop.time()
    while not condition():
        if loop.time() > end:
            return False
        if loop.time() > urged + _TELL:
            urged = loop.time()
            urge()
        await asyncio.sleep(_LOOK)
    return True
