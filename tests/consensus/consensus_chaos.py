"""One random run: voters, weights, liars below a third, loss, latency, partitions and crashes, all from its seed."""

from __future__ import annotations

import random

from consensus_liars import DoubleVoter, Picky, Shower, SilentLeader, Splitter
from consensus_world import World

from coterie.protocols.consensus import Consensus

TROUBLE = 60.0
"""Seconds; then the network is whole, and everybody is up."""


def chaos(seed: int, honest: type[Consensus] = Consensus) -> World:
    """Run it; no fork, all goes on after healing, and no honest one is accused. ``honest``: a mutant, perhaps."""
    dice = random.Random(f"chaos {seed}")
    count = dice.randrange(4, 8)
    weights = [dice.choice([1, 1, 2, 5]) for _ in range(count)]
    kinds, names = {f"p{number}": honest for number in range(count)}, list(range(count))
    dice.shuffle(names)
    lying, liars = 0, []
    for number in names:
        if 3 * (lying + weights[number]) < sum(weights):
            lying += weights[number]
            liars.append(f"p{number}")
            kinds[liars[-1]] = dice.choice([Splitter, DoubleVoter, Shower, SilentLeader, Picky, None, honest])
    forgetful = [name for name in liars if kinds[name] is honest]  # they count as silent: their disks get lost
    liars = [name for name in liars if name not in forgetful]
    partitions = []
    for _ in range(dice.randrange(3)):
        at = dice.uniform(0, TROUBLE * 0.7)
        groups = [[number for number in range(count) if dice.random() < 0.5]]
        partitions.append({"at": at, "seconds": dice.uniform(5, TROUBLE - at), "groups": groups})
    world = World(
        weights,
        seed,
        kinds,
        closing=dice.randrange(2, 6),
        pace=dice.choice([0.02, 0.02, 0.5]),  # one voter alone would take no time at all
        loss=dice.choice([0.0, 0.02, 0.1]),
        latency_ms=dice.choice([20.0, 200.0, 900.0]),
        jitter=dice.choice([0.1, 1.0, 4.0]),
        partitions=partitions,
    )
    world.liars = liars
    try:
        _run(world.begin(), dice, forgetful)
    except BaseException:
        world.end()
        raise
    return world


def _run(world: World, dice: random.Random, forgetful: list[str]) -> None:
    crashes = sorted(dice.uniform(0, TROUBLE) for _ in range(dice.randrange(6)))
    down = []
    for when in [*crashes, TROUBLE]:
        world.wait(max(0.0, when - world.loop.time()))
        for node in down:
            node.start()
        down = []
        if when < TROUBLE:
            down = [node for node in world.up if dice.random() < 0.3]
            for node in down:
                node.die()
                if node.name in forgetful and dice.random() < 0.7:
                    node.disk.values = {}
                    node.ledger = type(node.ledger)(world.charter, world.known)
        world.check_prefixes()
    world.network.table = world.network.table.model_copy(update={"loss": 0.0, "latency_ms": 100.0, "jitter": 0.5})
    before = max(len(node.chain) for node in world.honest)
    world.until(lambda: world.progress() >= before + 3, 400)
    world.check_prefixes()
    for node in world.honest:
        assert node.machine.place is not None, f"{node.name} was slashed"
        accused = [name for name in node.consensus.evidence if world.peer_of(name) not in world.liars]
        assert not accused, "an honest voter is accused"
