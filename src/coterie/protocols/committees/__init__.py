"""Who has a seat: committees drawn by stake from a beacon, roles that a peer draws for itself, and how many seats."""

from coterie.protocols.committees.biscotti import committee_size, majority_risk, unmasking_risk
from coterie.protocols.committees.parameters import LIAR_RISK, PRIVACY_RISK, SeatPlan, plan_seats
from coterie.protocols.committees.picks import Pick, check_pick, pick
from coterie.protocols.committees.ring import draw
from coterie.protocols.committees.stakes import Stakes, capped

__all__ = [
    "Stakes",
    "draw",
    "capped",
    "Pick",
    "pick",
    "check_pick",
    "SeatPlan",
    "plan_seats",
    "PRIVACY_RISK",
    "LIAR_RISK",
    "committee_size",
    "majority_risk",
    "unmasking_risk",
]
