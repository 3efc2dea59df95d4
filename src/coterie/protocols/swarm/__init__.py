"""Swarm: the rules by which peers that train alone merge their models under leaders that take turns.

They are pure functions of what the shared state holds, so every peer that has it comes to the same answer. What needs a
clock of one's own - how long to wait for a leader or for the others - decides only when a peer acts, never what holds.
"""

from coterie.protocols.swarm.checkin import CheckIn, Contribution, Mode, contribution, node_weight
from coterie.protocols.swarm.interval import Bounds, Interval, adapted
from coterie.protocols.swarm.leader import acting, lead_order, turns_after
from coterie.protocols.swarm.quorum import Blocked, Decision, Gathering, Merge, Quorum, Wait, decide
from coterie.protocols.swarm.staleness import age, fresh_share

__all__ = [
    "Blocked",
    "Bounds",
    "CheckIn",
    "Contribution",
    "Decision",
    "Gathering",
    "Interval",
    "Merge",
    "Mode",
    "Quorum",
    "Wait",
    "acting",
    "adapted",
    "age",
    "contribution",
    "decide",
    "fresh_share",
    "lead_order",
    "node_weight",
    "turns_after",
]
