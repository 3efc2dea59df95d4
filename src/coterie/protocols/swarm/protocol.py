"""Protocol swarm for a spec. The names are those of HPE's Swarm Learning, in snake_case, where it has them."""

from __future__ import annotations

from typing import Annotated, Literal, cast

from pydantic import Field

from coterie.errors import SpecError
from coterie.ledger.shared import QuorumRule
from coterie.ledger.shared.voters import MOST_VOTERS
from coterie.protocols.consensus import ChainTerms
from coterie.protocols.peer import Peer
from coterie.protocols.swarm.checkin import LEAST_WEIGHT, MOST_WEIGHT, Mode
from coterie.protocols.swarm.learner_site import LearnerSite, MergingLearner
from coterie.protocols.swarm.site import Terms
from coterie.protocols.swarm.swarm import Swarm
from coterie.protocols.swarm.training import Settings
from coterie.registry import protocols

Seconds = Annotated[float, Field(gt=0)]
_LEAST_FOR_LIARS = 4


@protocols.register("swarm")
async def swarm(
    peer: Peer,
    rounds: int,
    *,
    min_peers: Annotated[int, Field(ge=1)] = 2,
    sync_frequency: Annotated[int, Field(ge=0)] = 0,
    use_adaptive_sync: bool = False,
    merge_method: Literal["mean", "coordmedian", "geomedian", "rule"] = "mean",
    checkin_model_on_train_end: Literal["snapshot", "active", "inactive"] = "snapshot",
    node_weightage: Annotated[int, Field(ge=LEAST_WEIGHT, le=MOST_WEIGHT)] = 1,
    weigh_by_samples: bool = False,
    training_contract: Annotated[str, Field(min_length=1, max_length=256)] = "defaultbb.cqdb.sml.hpe",
    quorum: Literal["majority", "two thirds"] = "majority",
    recompute: bool = False,
    full_wait: Annotated[float, Field(ge=0)] = 30.0,
    deadline: Seconds = 300.0,
    beat: Seconds = 0.4,
    silence: Seconds = 1.5,
    leader_patience: Seconds = 120.0,
    delay: Seconds = 0.25,
) -> None:
    """Swarm Learning: check-ins, merges under leaders that take turns, one final model (Warnat-Herresthal et al. 2021).

    ``min_peers``: check-ins a merge needs (HPE: minPeers, no default). ``sync_frequency``: batches between two merges;
    0 takes ``training.local_steps``. ``use_adaptive_sync`` (HPE: False): longer intervals while the mean held-out loss
    falls, shorter ones else. ``merge_method`` (HPE: mean): ``rule`` is that of ``[aggregation]``, also one's own.
    ``checkin_model_on_train_end`` (HPE: snapshot): what stands for a peer that is done. ``node_weightage`` (HPE: 1):
    1 to 100, the same for all simulated peers. ``weigh_by_samples``: also by training samples, which peers state
    themselves. ``training_contract``: the training's name. ``quorum``: ``majority`` of the voters, which bears
    crashes and no lies, or ``two thirds``, from 4 peers on. ``recompute``: every voter pulls all models and makes the
    merge itself before it votes. ``full_wait`` (HPE: 30): seconds that the rest is waited for once ``min_peers`` are
    ready. ``deadline``: seconds after which one that has nothing left to train gives up waiting for enough others.
    ``beat``, ``silence``: seconds between two signs of life, and without one until a peer counts as gone; a dead
    leader is replaced so soon. ``leader_patience``: seconds for one that is there and does not get on. ``delay``: that
    of the consensus. ``rounds`` are merges; a peer that missed some has fewer intervals of its own.
    """
    if min_peers > len(peer.members):
        raise SpecError(
            f"{min_peers} peers are needed for a merge, and there are {len(peer.members)}",
            where="swarm.min_peers",
            remedy="Lower it, or raise federation.peers.",
        )
    if quorum == "two thirds" and len(peer.members) < _LEAST_FOR_LIARS:
        raise SpecError(
            f"two thirds of {len(peer.members)} peers bear no liar",
            where="swarm.quorum",
            remedy="Have 4 peers or more.",
        )
    if len(peer.members) > MOST_VOTERS:
        raise SpecError(
            f"{len(peer.members)} peers cannot all vote; {MOST_VOTERS} can",
            where="federation.peers",
            remedy="Lower it.",
        )
    if use_adaptive_sync and not sync_frequency:
        raise SpecError(
            "the interval needs a number to start from",
            where="swarm.sync_frequency",
            remedy="Set it to the batches of the first interval.",
        )
    if silence <= beat:
        raise SpecError(
            f"peers are taken for gone after {silence:g} s, and give a sign of life every {beat:g} s",
            where="swarm.silence",
            remedy="Set it to several times swarm.beat.",
        )
    terms = Terms(training_contract, min_peers, sync_frequency or 1, use_adaptive_sync, merge_method, rounds)
    site = LearnerSite(
        peer,
        cast("MergingLearner", peer.learner),
        terms,
        rounds,
        method=merge_method,
        mode=Mode(checkin_model_on_train_end),
        node_weight=node_weightage,
        by_samples=weigh_by_samples,
        steps=sync_frequency or None,
    )
    place = await peer.chain(ChainTerms(QuorumRule(quorum, min_peers)))
    settings = Settings(full_wait, deadline, beat, silence, leader_patience, delay, recompute)
    training = Swarm(peer, site, place.ledger, settings, key_of=place.key_of, peer_of=place.peer_of, now=place.now)
    place.consensus = training.consensus
    await training.run()
