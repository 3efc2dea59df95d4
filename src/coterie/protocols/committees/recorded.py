"""Whether a committee in the shared chain is the one that the beacon draws, for the audit and before a vote."""

from __future__ import annotations

from coterie.errors import CoterieError
from coterie.ledger.kinds import ROUNDS, Committee
from coterie.ledger.records import Record
from coterie.ledger.shared import Checkpoint
from coterie.protocols.committees.ring import draw


def committee_fault(state: Checkpoint, record: Record) -> str:
    """What is wrong with a checked record that names a committee; nothing for a good one, or for another kind.

    ``state`` is that of the epoch whose block holds the record: its beacon and its voters' weights draw the seats.
    """
    try:
        says = ROUNDS.read(record)
        if not isinstance(says, Committee):
            return ""
        stakes = {voter.key: voter.weight for voter in state.voters.members}
        drawn = draw(state.beacon, says.role, stakes, len(says.seats), most=says.most)
    except CoterieError as error:
        return error.what if record.kind == "committee" else ""
    return "" if drawn == says.seats else f"its {says.role} seats are not those that the beacon draws"
