"""What peers of one training say to each other beside the consensus and the models."""

from __future__ import annotations

from typing import Annotated

import msgspec

from coterie.ledger.encoding import Hash
from coterie.ledger.records import MOST_RECORD_BYTES
from coterie.network import Message, message
from coterie.protocols.peer import Natural

MOST_HELD = 8
_Bytes = Annotated[bytes, msgspec.Meta(max_length=MOST_RECORD_BYTES)]


@message
class SwarmBeat(Message, frozen=True):
    """I am here: said to all every so often, and at once when something has changed."""

    epoch: Natural
    """The merges that the sender knows of."""
    check_in: _Bytes
    """Its check-in for this epoch, signed; empty while it trains."""
    idle: bool
    """It waits for the merge, and can lead it."""
    progress: Natural
    """Grows while it gets on with leading a merge."""
    holds: Annotated[tuple[Hash, ...], msgspec.Meta(max_length=MOST_HELD)]
    """Merged models that were proposed for this epoch, and that it has; once the training is over, the final one."""
    join: Annotated[bytes, msgspec.Meta(max_length=1024)]
    """Its consent to vote, where it does not vote yet."""
    leaving: bool
    """It takes part no more, and this is its last word. What it has published may still be had."""
    leave: Annotated[bytes, msgspec.Meta(max_length=1024)]
    """The signed record by which one that leaves before the end gives up its vote."""


@message
class SwarmProposal(Message, frozen=True):
    """The sender leads, has merged, and lets everybody have the model: the check-ins and its record, signed."""

    records: Annotated[tuple[_Bytes, ...], msgspec.Meta(min_length=1, max_length=1024)]
