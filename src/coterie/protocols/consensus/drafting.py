"""A leader's own block: the application's records, and the evidence that is not on the chain yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coterie.identity import Identity, PeerId
from coterie.identity.vrf import VrfKey
from coterie.ledger.blocks import MOST_RECORDS, MOST_RECORDS_BYTES
from coterie.ledger.records import Record
from coterie.ledger.shared import Accusation, Evidence, FullSharedBlock, SharedBlock, closing_alpha
from coterie.ledger.shared.blocks import LAST_OPEN
from coterie.ledger.shared.changes import record
from coterie.protocols.consensus import steps
from coterie.protocols.consensus.application import Payload, View


def accusations(
    identity: Identity, view: View, evidence: Mapping[PeerId, Evidence], time: int, beside: Sequence[Record] = ()
) -> list[Record]:
    """Records of the evidence that still counts, and is in no block that the next one would follow.

    No more than have room in a block ``beside`` the application's records; the rest comes with a later one.
    """
    state = view.state
    shown = [c.says.shown.voter for block in view.ancestors for c in block.changes if isinstance(c.says, Accusation)]
    counting = [
        found
        for voter, found in evidence.items()
        if voter not in shown and found.epoch + state.lock_epochs >= state.epoch
    ]
    room, made = MOST_RECORDS_BYTES - sum(len(item.encode()) for item in beside), list[Record]()
    for found in counting[: max(0, MOST_RECORDS - len(beside))]:
        item = record(identity, Accusation(evidence=found.encode()), time)
        room -= len(item.encode())
        if room >= 0:
            made.append(item)
    return made


def make_block(identity: Identity, draft: steps.Draft, payload: Payload, time: int) -> FullSharedBlock:
    """The signed block. Raises LedgerError for a payload that no block can hold."""
    state, height = draft.view.state, draft.view.height
    proof, closes = b"", payload.closes or not (draft.closed or height <= LAST_OPEN)
    if closes:
        proof = VrfKey.of(identity, state.genesis).prove(closing_alpha(state.beacon, height))
    block = SharedBlock.make(
        identity,
        genesis=state.genesis,
        epoch=state.epoch,
        height=height,
        parent_height=draft.parent_height,
        parent=draft.parent,
        records=[item.encode() for item in payload.records],
        closes=closes,
        proof=proof,
        closed=draft.closed,
        time=time,
    )
    return FullSharedBlock.of(block, payload.records)
