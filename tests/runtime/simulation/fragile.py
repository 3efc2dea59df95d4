"""Modules and a rule that would show it if a job's outcome depended on who shares its batch."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import torch
from torch import nn


class Noisy(nn.Module):
    """Draws from every global generator, and keeps a count in a buffer that does not travel."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(features, 16), nn.BatchNorm1d(16, momentum=None), nn.ReLU())
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(16, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.dropout(self.layers(x))
        if self.training:
            hidden = hidden * (1 + 0.01 * random.random() + 0.01 * float(np.random.rand()))
        return self.head(hidden)


def noisy(shape: tuple[int, ...], classes: int) -> nn.Module:
    return Noisy(shape[0], classes)


def random_mean(own, received, context, state, judge):  # type: ignore[no-untyped-def]
    """A mean with a random own weight, which counts its calls and asks the judge."""
    share = 0.5 + 0.1 * random.random()
    rows = torch.cat([own[None], received])
    weights = torch.full((len(rows),), (1 - share) / max(len(received), 1))
    weights[0] = share if len(received) else 1.0
    calls = (state or {"calls": 0})["calls"] + 1
    assert judge.loss(own) > 0
    outputs, labels = judge.training_outputs(own)
    assert len(outputs) == len(labels) == context.samples[0]
    assert 0 <= context.round < context.rounds
    return weights @ rows, weights, {"calls": calls, "trust": dict.fromkeys(context.peer_ids, 1 / calls)}


def broken(own, received, context, state, judge):  # type: ignore[no-untyped-def]
    """Fails."""
    raise KeyError("missing")


def in_place(own, received, context, state, judge):  # type: ignore[no-untyped-def]
    """Writes into what it was given, and remembers rows of it: no other peer and no later call may see that."""
    if len(received):
        own.mul_(0.5).add_(received.mean(0), alpha=0.5)
        context.base.zero_()
        received[1:] = float(context.round)
    last = (state or {"last": own})["last"]
    mixed = 0.9 * own + 0.1 * last
    weights = torch.full((len(received) + 1,), 1 / (len(received) + 1))
    return mixed, weights, {"last": received[0] if len(received) else own}


def own_memory(own, received, context, state, judge):  # type: ignore[no-untyped-def]
    """Half of the own vector, and half of what it was a round ago, remembered as it was given."""
    last = (state or {"last": own})["last"]
    return 0.5 * own + 0.5 * last, torch.eye(len(received) + 1)[0], {"last": own}


def restless(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Draws at evaluation too, and changes its input in place."""

    class Restless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(shape[0], classes)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x.mul_(1 + 0.1 * torch.rand(())))

    return Restless()


async def sleepy(peer, rounds):  # type: ignore[no-untyped-def]
    """A protocol that waits for a future nobody will set."""
    await asyncio.get_running_loop().create_future()


async def mixes_first(peer, rounds):  # type: ignore[no-untyped-def]
    """A protocol whose rounds begin with the mixing: the vector before the last fit matters across a barrier."""
    memory = peer.store.get("mixes_first") or {"round": 0, "state": None}
    state = memory["state"]
    if peer.returned and "vector" in memory:
        await peer.learner.adopt(memory["vector"])
    for round in range(memory["round"], rounds):
        await peer.checkpoint(round)
        models = await peer.pull(peer.neighbours, round - 1) if round else {}
        mixed = await peer.learner.aggregate(models, round, degree=len(peer.neighbours), state=state)
        state = mixed.state
        fitted = await peer.learner.fit(round)
        peer.publish(fitted.snapshot, round, degree=len(peer.neighbours))
        peer.metrics.round_done(round, fitted.loss, mixed)
        peer.store.put("mixes_first", {"round": round + 1, "state": state, "vector": fitted.snapshot})
