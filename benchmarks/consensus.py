"""Consensus: what a final block costs, by the number of voters, and how many message delays it takes.

    python benchmarks/consensus.py [VOTERS ...]

All voters are in this process, in virtual time, over the simulated network with one latency for all messages; a block
holds ten records of about 300 bytes. Each voter checks signatures for itself, as on a machine of its own; simulated
federations share that work. Compute is this process's CPU time over voters and final blocks; it includes encoding and
decoding each message, and no disk and no network. Bytes are those of the frames, over all voters.

Delays are set beside the paper's (Chan and Pass 2023): a block every 2 delays, final 3 delays after it was proposed.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast
from unittest.mock import patch

from coterie.errors import CoterieError
from coterie.identity import Identity, keys
from coterie.identity.vrf import VrfKey
from coterie.ledger import NullLedger, Record, records
from coterie.ledger.shared import Charter, SharedBlock, SharedMemory, Signatures, Voter, Voters, signatures
from coterie.network import Codec
from coterie.protocols import Peer
from coterie.protocols.consensus import Consensus, Payload, View, create
from coterie.protocols.peer import Mixed, PeerLearner
from coterie.runtime.simulation.clock import VirtualLoop
from coterie.runtime.simulation.federation import MemoryStore
from coterie.runtime.simulation.transport import SimulatedNetwork
from coterie.seeds import stdlib_random
from coterie.spec import NetworkTable

VOTERS = (4, 20, 50, 100, 200)
LATENCY = 0.1
CLOSING = 10
RECORDS, RECORD_BYTES = 10, 200
GENESIS = hashlib.sha256(b"benchmark").digest()


class Application:
    """Ten records a block; notes when each was proposed and when it was final here."""

    stands = (0, 0)

    def __init__(self, identity: Identity, loop: VirtualLoop, proposed: dict[bytes, float]) -> None:
        self.identity, self.loop, self.proposed = identity, loop, proposed
        self.final_at: dict[bytes, float] = {}
        self.blocks: list[SharedBlock] = []

    def _count(self, view: View) -> int:
        return sum(block.epoch == view.epoch for block in self.blocks) + len(view.ancestors)

    async def due(self, view: View) -> None:
        """At once."""

    async def payload(self, view: View) -> Payload:
        text = f"{view.epoch}.{view.height}."
        records = [
            Record.make(self.identity, "note", {"text": f"{text}{number:<{RECORD_BYTES}}"}, time=0)
            for number in range(RECORDS)
        ]
        return Payload(records, closes=self._count(view) + 1 >= CLOSING)

    async def accepts(self, view: View, block: SharedBlock, records: tuple[Record, ...]) -> bool:
        self.proposed.setdefault(block.id, self.loop.time() - LATENCY)
        return True

    def final(self, block: SharedBlock, records: tuple[Record, ...]) -> None:
        self.blocks.append(block)
        self.final_at[block.id] = self.loop.time()


class Checks:
    """How many signatures were checked, and how long that took."""

    def __init__(self) -> None:
        self.count, self.seconds = 0, 0.0

    def verify(self, *arguments: Any) -> bool:
        began = time.process_time()
        good = keys.verify(*arguments)
        self.seconds += time.process_time() - began
        self.count += 1
        return good


@contextmanager
def counted() -> Iterator[Checks]:
    """Count the checks of votes, blocks and records.

    From outside, by the name that the two modules know the check by: the package has no place to count them, and needs
    none.
    """
    checks = Checks()
    with patch.object(signatures, "verify", checks.verify), patch.object(records, "verify", checks.verify):
        yield checks


class Refusals:
    """Shows what is refused: there should be nothing."""

    def round_done(self, round: int, loss: float, mixed: Mixed | None) -> None:
        """Nothing is trained."""

    def dropped(self, sender: str, error: CoterieError) -> None:
        print("refused:", error)


def run(count: int, blocks: int) -> dict[str, float]:
    """``blocks`` final blocks among so many voters of one weight, after the first epoch, which warms up."""
    loop, codec, proposed = VirtualLoop(), Codec(), dict[bytes, float]()
    network = SimulatedNetwork(NetworkTable(latency_ms=1e3 * LATENCY, jitter=0.0, bandwidth_mbps=1e6), [])
    network.begin(loop, stdlib_random(1, "network"))
    who = [Identity.from_seed(hashlib.sha256(b"voter %d" % number).digest()) for number in range(count)]
    voters = Voters.of([Voter(one.id, VrfKey.of(one, GENESIS).public, 1) for one in who])
    charter = Charter.make(who[0], GENESIS, voters, hashlib.sha256(b"beacon").digest())
    applications = []
    for one in who:
        store = MemoryStore()
        create(store, GENESIS)
        peer = member(one, store, loop, network, codec)
        applications.append(Application(one, loop, proposed))
        consensus = Consensus(peer, SharedMemory(charter, Signatures()), applications[-1])
        loop.create_task(consensus.run())

    def until(least: int) -> None:
        while min(len(application.blocks) for application in applications) < least:
            loop.run_until_complete(asyncio.sleep(LATENCY / 10))

    with counted() as checks:
        until(3)
        start, checks.count, checks.seconds = len(applications[0].blocks), 0, 0.0
        bytes_before, virtual, began = sum(network.bytes_sent.values()), loop.time(), time.process_time()
        until(start + blocks)
        seconds, sent = time.process_time() - began, sum(network.bytes_sent.values()) - bytes_before
    made = len(applications[0].blocks) - start
    waits = [
        (application.final_at[name] - at) / LATENCY
        for application in applications
        for name, at in proposed.items()
        if name in application.final_at
    ]
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    figures = {
        "cpu": seconds / made / count,
        "checks": checks.count / made / count,
        "share": checks.seconds / seconds,
        "bytes": sent / made,
        "block": (loop.time() - virtual) / LATENCY / made,
        "final": sorted(waits)[len(waits) // 2],
    }
    loop.close()
    return figures


def member(one: Identity, store: MemoryStore, loop: VirtualLoop, network: SimulatedNetwork, codec: Codec) -> Peer:
    """A peer with a key, a store and a network, and nothing to learn."""
    peer = Peer(
        id=one.id,
        members=[],
        neighbours=[],
        learner=cast(PeerLearner, None),  # consensus does not ask for it
        ledger=NullLedger(),
        store=store,
        random=stdlib_random(1, one.id),
        secrets=stdlib_random(2, one.id),
        clock=loop,
        metrics=Refusals(),
        transport=network.connect(one.id, lambda sender, frame: peer.receive(sender, frame)),
        codec=codec,
        identity=one,
    )
    return peer


def main() -> None:
    """Print the table."""
    heads = ("voters", "ms/block/voter", "checks", "in checks", "kB/block", "kB/block/voter", "delays/block", "final")
    print(" | ".join(heads))
    for count in [int(word) for word in sys.argv[1:]] or VOTERS:
        found = run(count, 30 if count <= 20 else 10 if count <= 100 else 4)
        print(
            f"{count:>6} | {1e3 * found['cpu']:>14.2f} | {found['checks']:>6.0f} | {found['share']:>9.0%} | "
            f"{found['bytes'] / 1e3:>8.0f} | {found['bytes'] / 1e3 / count:>14.1f} | "
            f"{found['block']:>12.2f} | {found['final']:>5.2f}",
            flush=True,
        )
    print("the paper:", 85 * " ", "2 |     3")


if __name__ == "__main__":
    main()
