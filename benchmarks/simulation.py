"""Seconds a simulated round takes, beside a plain loop over the same modules and Flower's simulation engine.

    python benchmarks/simulation.py [--only table|growth|memory|large]...

All train the same models, 5 steps of 32 a round, on the same random images, in two processes with one thread each, and
average every model with those of three random peers (Flower: with all, on its server). Nobody evaluates; what it costs
to evaluate all peers once on 2,000 images stands in a column of its own. Ours and the plain loop run in turns, and the
median of the pairs' ratios counts, so that a drift of the machine's speed falls out. Flower gets an environment of its
own, in ~/.cache/coterie-bench, and its first round, in which it starts its workers, is left out.

``growth`` draws seconds a round over peers and over parameters. ``memory`` compares the most memory used at once (the
proportional set size of all processes) with the float32 matrices that are kept. ``large`` runs 10,000 softmax peers on
MNIST for 20 rounds, through the command line.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import coterie.runtime.catalog  # noqa: F401 - fills the registries
from coterie import data
from coterie import spec as specs
from coterie.runtime.simulation.build import Simulation
from coterie.runtime.simulation.workers import WorkerPool
from coterie.runtime.work.tickets import Ticket, run_all
from environments import python_with
from plain_loop import BATCH, FANOUT, SAMPLES, STEPS, WORKERS, PlainLoop, images

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "images" / "speed.png"
PARTS = ("table", "growth", "memory", "large")
TABLE = {"lenet": (10, 100, 1000), "mlp": (100, 1000), "softmax": (100, 1000)}
EVALUATED = 2000
PAIRS = 5


@dataclass
class Ours:
    """The simulation, with its workers kept from one measurement to the next."""

    model: str
    peers: int
    folder: Path
    pool: WorkerPool
    settings: dict[str, Any]

    def __call__(self, rounds: int) -> float:
        """Seconds a round."""
        with self.simulation(rounds) as simulation:
            started = time.perf_counter()
            simulation.federation.run()
            return (time.perf_counter() - started) / rounds

    def evaluation(self) -> float:
        """Seconds to evaluate every peer once."""
        with self.simulation(1) as simulation:
            members = simulation.federation.members
            tickets = [Ticket(member.index, member.learner.evaluation(EVALUATED)) for member in members]
            started = time.perf_counter()
            run_all(self.pool, tickets)
            return time.perf_counter() - started

    @contextmanager
    def simulation(self, rounds: int) -> Iterator[Simulation]:
        tables = {
            "federation": {"peers": self.peers, "rounds": rounds},
            "data": {"dataset": f"npz:{self.folder / f'{self.peers}.npz'}", "partition": "iid", "validation": 0.0},
            "model": {"name": self.model, **self.settings},
            "training": {"lr": 0.05, "clip": 0.0, "quasi_global_momentum": 0.0, "local_steps": STEPS},
            "aggregation": {"rule": "metropolis"},
            "gossip": {"fanout": FANOUT},
            "evaluation": {"every": 1_000_000, "samples": 1},
            "run": {"checkpoint_every": 0},
        }
        spec = specs.check(tables, self.folder)

        def executor(setup: Any, runner: Any, work: float) -> Any:
            self.pool.prepare(setup, runner.vectors)
            return self.pool

        with Simulation(spec, data.load(spec.dataset, None), executor, lambda _: None, lambda *_: None) as simulation:
            yield simulation
        gc.collect()  # a finished simulation is full of cycles, and holds shared memory until they are found


def write_images(folder: Path, peers: int) -> None:
    """``PEERS.npz`` in ``folder``: the images of so many peers."""
    path = folder / f"{peers}.npz"
    if not path.exists():
        x, y = images(peers)
        np.savez(path, x_train=x, y_train=y, x_test=x[:EVALUATED], y_test=y[:EVALUATED])


def flower(model: str, peers: int, folder: Path) -> float | None:
    """Seconds of a round in Flower's simulation, the median of those after the first; None where it cannot be had."""
    rounds = 3 if peers >= 1000 else 6
    try:
        python = python_with("flower", "flwr[simulation]")
        words = [python, Path(__file__).with_name("flower_rounds.py"), model, peers, rounds, folder / f"{peers}.npz"]
        done = subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=900, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        print(f"no figures of Flower for {model}, {peers} peers: {error}", file=sys.stderr)
        return None
    seconds = [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("seconds ")]
    return statistics.median(seconds[1:])


def table(folder: Path, pool: WorkerPool) -> None:
    """Ours, the plain loop and Flower, for each model and number of peers."""
    print(
        f"{'model':8} {'peers':>6} {'ours':>8} {'plain':>8} {'ratio':>6} {'pairs':23} {'Flower':>8} {'ratio':>6} eval"
    )
    for model, peers in [(model, peers) for model, counts in TABLE.items() for peers in counts]:
        write_images(folder, peers)
        ours, plain = Ours(model, peers, folder, pool, {}), PlainLoop(model, peers)
        rounds = max(2 if model == "lenet" else 20, 2000 // peers // (10 if model == "lenet" else 1))
        ours(1), plain(1)
        pairs = [(ours(rounds), plain(rounds)) for _ in range(PAIRS)]
        plain.close()
        ratios = [theirs / own for own, theirs in pairs]
        own, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
        evaluation, server = ours.evaluation(), flower(model, peers, folder)
        print(
            f"{model:8} {peers:6} {own:8.3f} {theirs:8.3f} {statistics.median(ratios):6.2f} "
            f"{' '.join(f'{ratio:.2f}' for ratio in ratios):23} "
            + (f"{server:8.3f} {server / own:6.2f}" if server is not None else f"{'-':>8} {'-':>6}")
            + f" {evaluation:.3f}",
            flush=True,
        )


def growth(folder: Path, pool: WorkerPool) -> None:
    """Seconds a round over peers and over parameters, printed and drawn."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for model in ("softmax", "mlp", "lenet"):
        counts = [10, 30, 100, 300, 1000]
        seconds = []
        for peers in counts:
            write_images(folder, peers)
            ours = Ours(model, peers, folder, pool, {})
            ours(1)
            seconds.append(min(ours(max(1, 300 // peers)) for _ in range(3)))
        print(
            f"{model}: " + ", ".join(f"{p} peers {s:.4f} s" for p, s in zip(counts, seconds, strict=True)), flush=True
        )
        left.plot(counts, seconds, marker="o", label=model)
    left.set(xscale="log", yscale="log", xlabel="peers", ylabel="seconds a round", title="Over peers")
    left.legend()
    sizes, seconds = [], []
    for width in (16, 64, 256, 1024, 2048):
        write_images(folder, 100)
        ours = Ours("mlp", 100, folder, pool, {"hidden": [width, 64]})
        ours(1)
        seconds.append(min(ours(3 if width < 1024 else 1) for _ in range(3)))
        sizes.append(785 * width + (width + 1) * 64 + 65 * 10)
    print(
        "100 mlps: " + ", ".join(f"{n} parameters {s:.3f} s" for n, s in zip(sizes, seconds, strict=True)), flush=True
    )
    right.plot(sizes, seconds, marker="o")
    right.set(xscale="log", yscale="log", xlabel="parameters", title="Over parameters: 100 peers, two hidden layers")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(PICTURE, dpi=110)
    print(f"drawn in {PICTURE}")


class Memory:
    """The most memory that this process and its children used at once, in bytes: the sum of proportional set sizes."""

    def __init__(self, root: int) -> None:
        self.most, self._root, self._over = 0, root, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            self.most = max(self.most, sum(map(_proportional, _family(self._root))))


def _family(root: int) -> list[int]:
    found = [root]
    for process in found:
        with suppress(OSError):
            for children in Path(f"/proc/{process}/task").glob("*/children"):
                found += map(int, children.read_text().split())
    return found


def _proportional(process: int) -> int:
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def memory(folder: Path, pool: WorkerPool) -> None:
    """The most memory used at once, and the matrices that are kept, for 1,000 peers of each model."""
    for model in ("softmax", "mlp", "lenet"):
        write_images(folder, 1000)
        write_images(folder, 10)
        Ours(model, 10, folder, pool, {})(1)  # the workers let go of what was before
        ours = Ours(model, 1000, folder, pool, {})
        with Memory(os.getpid()) as watched, ours.simulation(3) as simulation:
            simulation.federation.run()
            kept, size = len(simulation.arena.segments), simulation.layout.size
        matrices = kept * 1000 * size * 4
        print(
            f"{model:8} 1000 peers x {size} parameters: {watched.most / 1e9:.2f} GB at most; {kept} matrices kept, "
            f"{matrices / 1e9:.2f} GB, and {(watched.most - matrices) / 1e9:.2f} GB beside",
            flush=True,
        )


def large() -> None:
    """10,000 softmax peers on MNIST, 20 rounds of gossip, by the command line: time and memory."""
    sets = {
        "federation.peers": 10_000,
        "federation.rounds": 20,
        "data.dataset": "mnist",
        "data.partition": "iid",
        "model.name": "softmax",
        "training.local_steps": 5,
        "training.batch_size": 5,
        "evaluation.every": 10,
        "evaluation.samples": 1000,
    }
    with tempfile.TemporaryDirectory() as folder:
        words = [
            sys.executable,
            "-c",
            "from coterie.cli import main; main()",
            "run",
            "--json",
            "--out",
            f"{folder}/run",
        ]
        words += [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
        started = time.perf_counter()
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process, Memory(process.pid) as watched:  # noqa: S603
            printed, _ = process.communicate(timeout=1800)
        seconds = time.perf_counter() - started
    result = json.loads(printed)
    if result["status"] != "ok":
        print(f"10,000 peers: {result['error']}")
        return
    print(
        f"10,000 softmax peers, 20 rounds: {seconds:.0f} s in all, {watched.most / 1e9:.2f} GB at most, "
        f"accuracy mean {result['accuracy']['mean']:.3f}, worst peer {result['accuracy']['min']:.3f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=PARTS, help="this part; repeatable")
    parts = parser.parse_args().only or PARTS
    torch.set_num_threads(1)
    print(
        f"{STEPS} steps of {BATCH} a round, {SAMPLES} images a peer, fanout {FANOUT}, {WORKERS} processes", flush=True
    )
    with tempfile.TemporaryDirectory() as name:
        folder, pool = Path(name), WorkerPool(WORKERS)
        for part in (table, growth, memory):
            if part.__name__ in parts:
                part(folder, pool)
        pool.close()
    if "large" in parts:
        large()


if __name__ == "__main__":
    main()
