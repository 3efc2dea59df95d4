"""How long nodes of the distributed hash table take to find each other, each in a process of its own on 127.0.0.1.

All nodes but the first know one contact, the first. Timed, from the moment the nodes in question begin:

- all:      until every node has found every other
- found:    the first node is killed (SIGKILL), then one more starts that knows only another contact: until all that
            live have found the newcomer
- finds:    until the newcomer has found all that live
- later:    20 s after that kill one more starts: until all that live have found it. The tables know of the dead by now
- return:   another node is killed and starts again from its saved table, its contact being dead: until it has found
            all that live

    python benchmarks/discovery.py [--nodes 6 30] [--turns 5]

Nothing is dialled: a node counts as found when its address is offered. The start of Python is not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import statistics
import tempfile
import time
from multiprocessing.connection import Connection, wait
from pathlib import Path

from coterie.identity import Identity, PeerId
from coterie.network.discovery import Address, AddressBook, Dht, Discovery

GENESIS = b"benchmark of discovery".ljust(32)
PARTS = ("all", "found", "finds", "later", "return")
FIRST_PORT = 20_000
DEADLINE = 120.0
SAVED = 8.0
"""Seconds after which a node has saved its table at least once."""
LATER = 20.0


async def live(number: int, contact: str, state: Path, parent: Connection) -> None:
    """One node, until it is killed: sends its DHT port, then the number of each node that it finds, and when."""
    seen: set[Address] = set()

    def found(address: Address, _: PeerId | None) -> None:
        if address not in seen:
            seen.add(address)
            parent.send((address.port - FIRST_PORT, time.monotonic()))

    dht = Dht("127.0.0.1:0", [contact] if contact else [], state, private_networks=True)
    discovery = Discovery(
        Identity.from_seed(number.to_bytes(32, "big")),
        GENESIS,
        AddressBook(private_networks=True),
        found,
        is_member=lambda peer: True,
        dht=dht,
        endpoints=[Address.of("127.0.0.1", FIRST_PORT + number)],
    )
    await asyncio.to_thread(parent.recv)
    await discovery.start()
    parent.send((None, dht.port))
    await discovery.run()


def child(number: int, contact: str, state: Path, parent: Connection) -> None:
    asyncio.run(live(number, contact, state, parent))


class Node:
    """A node's process, seen from here. It waits for ``begin``."""

    def __init__(self, number: int, contact: str, folder: Path) -> None:
        self.number, self.port = number, 0
        self.found: dict[int, float] = {}
        """When it found which node, by the machine's monotonic clock."""
        self.connection, theirs = multiprocessing.Pipe()
        fork = multiprocessing.get_context("fork")
        self.process = fork.Process(target=child, args=(number, contact, folder / str(number), theirs), daemon=True)
        self.process.start()
        theirs.close()

    def begin(self) -> None:
        self.connection.send("begin")

    def read(self) -> None:
        try:
            while self.connection.poll():
                number, value = self.connection.recv()
                if number is None:
                    self.port = value
                else:
                    self.found[number] = value
        except EOFError:
            raise SystemExit(f"node {self.number} ended by itself") from None

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def until(nodes: list[Node], others: list[Node]) -> float:
    """Wait until each of ``nodes`` listens and has found all ``others``; the moment when it had."""
    pairs = [(node, other.number) for node in nodes for other in others if node is not other]
    end = time.monotonic() + DEADLINE
    while any(not node.port for node in nodes) or any(number not in node.found for node, number in pairs):
        if time.monotonic() > end:
            raise SystemExit(f"not found in {DEADLINE:.0f} s")
        wait([node.connection for node in nodes], 0.1)
        for node in nodes:
            node.read()
    return max((node.found[number] for node, number in pairs), default=0.0)


def turn(count: int, folder: Path) -> list[float]:
    """Seconds of each part."""
    living = [Node(0, "", folder)]
    try:
        living[0].begin()
        until(living, [])
        contact = f"127.0.0.1:{living[0].port}"
        living += [Node(number, contact, folder) for number in range(1, count)]
        time.sleep(1.0)  # until all wait
        began = time.monotonic()
        for node in living[1:]:
            node.begin()
        seconds = [until(living, living) - began]
        time.sleep(max(0.0, SAVED - seconds[0]))

        living.pop(0).kill()
        killed = time.monotonic()
        newcomer = Node(count, f"127.0.0.1:{living[1].port}", folder)
        time.sleep(0.5)
        began = time.monotonic()
        newcomer.begin()
        found = until(living, [newcomer])
        finds = until([newcomer], living)
        seconds += [found - began, finds - began]
        living.append(newcomer)

        time.sleep(max(0.0, killed + LATER - time.monotonic()))
        late = Node(count + 1, f"127.0.0.1:{living[1].port}", folder)
        time.sleep(0.5)
        began = time.monotonic()
        late.begin()
        seconds.append(until(living, [late]) - began)
        living.append(late)

        living.pop(0).kill()
        again = Node(1, contact, folder)
        time.sleep(0.5)
        living.append(again)
        began = time.monotonic()
        again.begin()
        seconds.append(until([again], living) - began)
    finally:
        for node in living:
            node.kill()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[6, 30])
    parser.add_argument("--turns", type=int, default=5)
    words = parser.parse_args()
    print(f"seconds, median and worst of {words.turns} turns; {os.cpu_count()} cores", flush=True)
    print("nodes  " + "  ".join(f"{part:>14}" for part in PARTS), flush=True)
    for count in words.nodes:
        turns = []
        for _ in range(words.turns):
            with tempfile.TemporaryDirectory() as folder:
                turns.append(turn(count, Path(folder)))
        columns = (f"{statistics.median(part):6.2f}  {max(part):6.2f}" for part in zip(*turns, strict=True))
        print(f"{count:5}  " + "  ".join(columns), flush=True)


if __name__ == "__main__":
    main()
