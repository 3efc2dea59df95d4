"""What a protocol is compared with: training alone, on pooled data, on the root sample, and FedAvg with a server.

The trait ``publishes=False`` says that peers show each other nothing, so that an attack on models has no effect.

Threat model: none. ``central`` needs all data in one place; in ``fedavg`` the first member sees every model and decides
alone, and the run ends with it. A server that is an attacker merges honestly here: an attack on models is that of the
clients.
"""

from __future__ import annotations

from coterie.protocols.peer import Peer
from coterie.registry import protocols


@protocols.register("isolated", publishes=False)
async def isolated(peer: Peer, rounds: int) -> None:
    """Every peer trains alone: what it would have without the others."""
    memory = peer.store.get("isolated") or {"round": 0}
    if peer.returned and "vector" in memory:
        await peer.learner.adopt(memory["vector"])
    for round in range(memory["round"], rounds):
        await peer.checkpoint(round)
        fitted = await peer.learner.fit(round)
        mixed = await peer.learner.aggregate({}, round, degree=0, rule="mean")
        peer.metrics.round_done(round, fitted.loss, mixed)
        peer.store.put("isolated", {"round": round + 1, "vector": fitted.snapshot})


@protocols.register("central", pooled=True, publishes=False)
async def central(peer: Peer, rounds: int) -> None:
    """One learner on all training data in one place: as many steps as a peer would do, of the same batch size."""
    await isolated(peer, rounds)


@protocols.register("root_only", root=True, publishes=False)
async def root_only(peer: Peer, rounds: int) -> None:
    """One learner on the public root sample alone, with the local steps of a peer: what the root gives by itself.

    ``local_epochs`` are passes over the root sample. Needs ``data.root``.
    """
    await isolated(peer, rounds)


@protocols.register("fedavg")
async def fedavg(peer: Peer, rounds: int) -> None:
    """FedAvg (McMahan et al. 2017, Algorithm 1), all peers a round; the first member is the server and trains too.

    Models are weighted by their numbers of training samples; the spec's ``[aggregation]`` is not used.
    """
    server, clients = peer.members[0], peer.members[1:]
    memory = peer.store.get("fedavg") or {"round": 0}
    round = memory["round"]
    if peer.returned and "vector" in memory:
        await peer.learner.adopt(memory["vector"])
        if peer.id == server:  # a client may still wait for it; the server would wait for that client
            peer.publish(memory["vector"], round - 1, channel="merged")
    while round < rounds:
        await peer.checkpoint(round)
        fitted = await peer.learner.fit(round)
        peer.publish(fitted.snapshot, round, degree=len(clients))
        if peer.id == server:
            models = await peer.pull(clients, round)
            mixed = await peer.learner.aggregate(models, round, degree=len(clients), rule="weighted_mean")
            merged = await peer.learner.snapshot()
            peer.publish(merged, round, channel="merged")
        else:
            mixed = None
            reply = await peer.pull([server], round, "merged")
            if server in reply:
                merged, round = reply[server].vector, reply[server].round
                await peer.learner.adopt(merged)
            else:
                merged = fitted.snapshot
        peer.metrics.round_done(round, fitted.loss, mixed)
        round += 1
        peer.store.put("fedavg", {"round": round, "vector": merged})
