"""Swarm: peers that train alone and merge their models under leaders that take turns.

Its rules are pure functions of what the shared chain holds, so every peer that has it comes to the same answer. What
needs a clock of one's own - how long to wait for a leader or for the others - decides only when a peer acts, never what
holds. ``Swarm`` is one peer's part; ``SwarmSite`` what it asks of the site.
"""

from coterie.protocols.swarm.checkin import CheckIn, Contribution, Mode, contribution
from coterie.protocols.swarm.interval import Bounds, Interval, adapted
from coterie.protocols.swarm.leader import lead_order, turns_after
from coterie.protocols.swarm.learner_site import Judged, LearnerSite, MergingLearner
from coterie.protocols.swarm.protocol import swarm
from coterie.protocols.swarm.quorum import Blocked, Decision, Gathering, Merge, Quorum, Wait, decide
from coterie.protocols.swarm.records import chain_genesis
from coterie.protocols.swarm.site import Adopted, CheckedIn, Part, Shared, SwarmSite, Terms
from coterie.protocols.swarm.staleness import age, fresh_share
from coterie.protocols.swarm.swarm import Swarm
from coterie.protocols.swarm.training import Settings

__all__ = [
    "Adopted",
    "Blocked",
    "Bounds",
    "CheckIn",
    "CheckedIn",
    "Contribution",
    "Decision",
    "Gathering",
    "Interval",
    "Judged",
    "LearnerSite",
    "Merge",
    "MergingLearner",
    "Mode",
    "Part",
    "Quorum",
    "Settings",
    "Shared",
    "Swarm",
    "SwarmSite",
    "Terms",
    "Wait",
    "adapted",
    "age",
    "chain_genesis",
    "contribution",
    "decide",
    "fresh_share",
    "lead_order",
    "swarm",
    "turns_after",
]
