"""Real nodes on this machine: how long a federation of ten takes to start, and how long a node that trains keeps one
waiting.

    python benchmarks/nodes.py

The start is set beside that of ten plain processes that do nothing but import torch, two at a time as there are cores.
The wait is that for an answer on the control socket, which the event loop gives: while the node trains, and when it has
nothing to do.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import coterie.runtime.catalog  # noqa: F401 - fills the registries
from coterie import data
from coterie import spec as specs
from coterie.errors import NodeError
from coterie.runtime.node.processes import NodeProcess, Processes

PEERS = 10
SETS = {"federation.peers": PEERS, "federation.rounds": 2000, "training.local_steps": 200, "model.name": "mlp"}
ASKED = 300


def importing() -> float:
    """Seconds until ten processes have imported torch, two at a time."""
    began = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: subprocess.run([sys.executable, "-c", "import torch"], check=True), range(PEERS)))
    return time.perf_counter() - began


def wait_for(nodes: list[NodeProcess], condition: str, least: int) -> None:
    """Until every node says so."""
    for node in nodes:
        while True:
            try:
                status = node.ask("status")
            except NodeError:
                status = {}
            if status and (condition == "answers" or (status["state"] == condition and status["round"] >= least)):
                break
            time.sleep(0.02)


def waits(node: NodeProcess) -> str:
    """Median, 99th percentile and longest wait for an answer, in ms."""
    found = []
    for _ in range(ASKED):
        began = time.perf_counter()
        node.ask("status")
        found.append(1e3 * (time.perf_counter() - began))
        time.sleep(0.01)
    found.sort()
    return (
        f"median {statistics.median(found):.1f} ms, 99 % {found[int(0.99 * ASKED)]:.1f} ms, longest {found[-1]:.1f} ms"
    )


def main() -> None:
    spec = specs.load(None, ()).with_values(SETS)
    dataset = data.load(spec.dataset, None)
    alone = importing()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        made = Processes(spec, dataset, Path(folder), lambda _: None, lambda *_: None, threading.Event())
        founded = time.perf_counter() - began
        for node in made.nodes:
            node.start()
        wait_for(made.nodes, "answers", -1)
        answering = time.perf_counter() - began
        made.introduce()
        wait_for(made.nodes, "training", 0)
        first = time.perf_counter() - began
        print(f"{PEERS} processes that import torch and end: {alone:.1f} s")
        print(
            f"{PEERS} nodes: homes made {founded:.1f} s, all answer {answering:.1f} s, first round over {first:.1f} s"
        )
        print(f"start of nodes over start of plain processes: {answering / alone:.2f}")
        print(f"an answer while ten train on two cores: {waits(made.nodes[0])}")
        for node in made.nodes[1:]:
            node.stop(time.monotonic() + 10)
        print(f"an answer while one trains: {waits(made.nodes[0])}")
        made.nodes[0].stop(time.monotonic() + 10)
        made.close()


if __name__ == "__main__":
    main()
