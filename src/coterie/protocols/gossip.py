"""Gossip averaging by learned trust, after Papaya (arXiv 2303.06189), without its DHT.

Threat model: every peer a peer pulls from, and every peer that pulls from it, sees its whole model in the clear; what a
model tells about its training data is not hidden. Malicious peers may send any bytes; what they can do to the common
model depends on the aggregation rule. There is no leader: no peer is trusted by all.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from coterie.protocols.peer import LATEST, ROUNDS_KEPT, Mixed, Model, Peer, PeerId
from coterie.registry import protocols


@protocols.register("gossip")
async def gossip(
    peer: Peer,
    rounds: int,
    *,
    fanout: Annotated[int, Field(ge=1)] = 3,
    warmup: Annotated[int, Field(ge=0)] = 0,
    swap_every: Annotated[int, Field(ge=1)] = 1,
    cooldown: Annotated[int, Field(ge=0)] = 0,
    asynchronous: bool = False,
) -> None:
    """Local steps, then a mean over a random subset of the neighbours, weighted by trust.

    ``fanout``: neighbours sampled a round, or all where there are fewer (Papaya: 3 of 5); also the degree in graph
    weights. ``warmup``: rounds of training alone at first. ``swap_every``: rounds from one exchange to the next.
    ``cooldown``: rounds of training alone at the end (Papaya swaps in rounds 2 to 18 of 20: warmup 1, cooldown 2).
    ``asynchronous``: mix with what the others have published last, of whatever round, instead of waiting for this
    round's; fast peers then run ahead of slow ones, up to the next barrier of ``run.checkpoint_every``.
    """
    degree = min(fanout, len(peer.neighbours))
    memory = peer.store.get("gossip") or {"round": 0, "state": None, "returned": False}
    round, state, returned = memory["round"], memory["state"], memory["returned"]
    if peer.returned:
        returned = True
        if "vector" in memory:
            await peer.learner.adopt(memory["vector"])
            await peer.record_again(memory["vector"], memory["published"], degree=degree)
        elif others := await peer.confirmed(await peer.pull(peer.random.sample(peer.neighbours, degree), LATEST)):
            # Late, or without memory: begin between the others' models; the median bears a minority of liars.
            await peer.learner.aggregate(others, round, degree=degree, rule="median")

    while round < rounds:
        await peer.checkpoint(round)
        mixed: Mixed | None = None
        models: Mapping[PeerId, Model] = {}  # lets go of the last round's vectors
        # Step 1: train on one's own data.
        fitted = await peer.learner.fit(round)
        # Step 2: let others have the outcome.
        peer.publish(fitted.snapshot, round, degree=degree, kept=0 if asynchronous else ROUNDS_KEPT)
        if warmup <= round < rounds - cooldown and (round - warmup) % swap_every == 0:
            # Step 3: pull from a random subset of the neighbours.
            models = await peer.pull(peer.random.sample(peer.neighbours, degree), LATEST if asynchronous else round)
            # Step 4: mix, each vector weighted by the trust its peer has earned.
            mixed = await peer.learner.aggregate(models, round, degree=degree, state=state)
            state = mixed.state
        peer.metrics.round_done(round, fitted.loss, mixed)
        # Step 5: go on; a peer that comes back joins the round the others have reached.
        done, round = round, next_round(round, rounds, models) if returned else round + 1
        returned = returned and not models
        memory = {"round": round, "state": state, "returned": returned, "published": done, "vector": fitted.snapshot}
        peer.store.put("gossip", memory)


def next_round(round: int, rounds: int, models: Mapping[PeerId, Model]) -> int:
    """The round after this one, or the lower median of the rounds seen where that is later still.

    A minority that claims a later round moves nobody; a round that does not exist is not counted.
    """
    seen = [model.round for model in models.values() if model.round < rounds]
    return max(round + 1, statistics.median_low(seen) if seen else 0)
