"""What a simulated round costs beside its training, and its speed against a plain loop over the same modules.

Both sides train LeNet-5 at 100 peers, 5 steps of 32 a round, on the same random images, in two worker processes with
one thread each, and average every model with those of three random peers. Neither evaluates. They run in turns, and
the ratio of each pair is printed, so that a drift of the machine's speed falls out:

    python benchmarks/overhead.py [--peers 100] [--rounds 8] [--pairs 5] [--profile]

At the end it says where the time of a round goes, from one more run in a single process.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as mp
from torch import nn

import coterie.runtime.catalog  # noqa: F401 - fills the registries
from coterie import data
from coterie import spec as specs
from coterie.runtime.simulation.build import Simulation
from coterie.runtime.simulation.runner import Runner
from coterie.runtime.simulation.workers import WorkerPool
from coterie.training.models import lenet

STEPS, BATCH, FANOUT, WORKERS, SAMPLES = 5, 32, 3, 2, 200


def images(peers: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Random images and labels, SAMPLES a peer."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((peers * SAMPLES, 1, 28, 28), dtype=np.float32)
    return x, rng.integers(0, 10, peers * SAMPLES)


class Ours:
    """The simulation, with its workers kept from one measurement to the next."""

    def __init__(self, peers: int, folder: Path) -> None:
        x, y = images(peers)
        np.savez(folder / "images.npz", x_train=x, y_train=y, x_test=x[:16], y_test=y[:16])
        self.folder, self.peers = folder, peers
        self.pool = WorkerPool(WORKERS)
        self.waited = 0.0

    def spec(self, rounds: int) -> specs.Spec:
        return specs.check(
            {
                "federation": {"peers": self.peers, "rounds": rounds},
                "data": {"dataset": "npz:images.npz", "partition": "iid", "validation": 0.0},
                "model": {"name": "lenet"},
                "training": {"lr": 0.05, "clip": 0.0, "quasi_global_momentum": 0.0, "local_steps": STEPS},
                "aggregation": {"rule": "metropolis"},
                "gossip": {"fanout": FANOUT},
                "evaluation": {"every": 1_000_000, "samples": 1},
            },
            self.folder,
        )

    def __call__(self, rounds: int) -> float:
        """Seconds a round."""
        spec = self.spec(rounds)

        def executor(setup: Any, runner: Any, work: float) -> Any:
            self.pool.prepare(setup, runner.vectors)
            return self

        with Simulation(spec, data.load(spec.dataset, None), executor, lambda _: None, lambda *_: None) as simulation:
            self.waited = 0.0
            started = time.perf_counter()
            simulation.federation.run()
            seconds = (time.perf_counter() - started) / rounds
            self.waited /= rounds
            self.batch = simulation.jobs.jobs / simulation.jobs.batches
        return seconds

    def shares(self) -> str:
        """Where the time of a round goes in a single process, by the kind of job."""
        spec, seconds = self.spec(2), Counter[str]()

        class Timed(Runner):
            def lane(self, lane: Any) -> list[Any]:
                started = time.perf_counter()
                outcomes = super().lane(lane)
                seconds[type(lane[0]).__name__] += time.perf_counter() - started
                return outcomes

        def executor(setup: Any, runner: Any, work: float) -> Any:
            runner.__class__ = Timed
            return runner

        with Simulation(spec, data.load(spec.dataset, None), executor, lambda _: None, lambda *_: None) as simulation:
            started = time.perf_counter()
            simulation.federation.run()
            whole = time.perf_counter() - started
        fits, mixes = seconds["FitJob"] / whole, seconds["AggregateJob"] / whole
        return f"fits {fits:.1%}, aggregations {mixes:.1%}, messages and everything else {1 - fits - mixes:.1%}"

    def begin(self, tickets: Any) -> None:
        self.timed(self.pool.begin, tickets)

    def finish(self, ticket: Any) -> None:
        self.timed(self.pool.finish, ticket)

    def hungry(self) -> bool:
        return self.pool.hungry()

    def timed(self, call: Any, argument: Any) -> None:
        started = time.perf_counter()
        call(argument)
        self.waited += time.perf_counter() - started


class PlainLoop:
    """What one would write without a framework: two processes, each with half of the modules, and shared rows."""

    def __init__(self, peers: int) -> None:
        size = sum(p.numel() for p in lenet((1, 28, 28), 10).parameters())
        x, y = images(peers)
        self.rows = torch.zeros(peers, size).share_memory_()
        shared = torch.from_numpy(x).share_memory_(), torch.from_numpy(y).share_memory_()
        context = mp.get_context("spawn")
        barrier = context.Barrier(WORKERS + 1, timeout=300)
        self.barrier = barrier
        self.rounds = context.Value("i", 0)
        self.processes = [
            context.Process(
                target=plain_worker, args=(range(w, peers, WORKERS), self.rows, *shared, barrier, self.rounds)
            )
            for w in range(WORKERS)
        ]
        for process in self.processes:
            process.start()

    def __call__(self, rounds: int) -> float:
        """Seconds a round."""
        self.rounds.value = rounds
        started = time.perf_counter()
        self.barrier.wait()
        self.barrier.wait()
        return (time.perf_counter() - started) / rounds

    def close(self) -> None:
        self.rounds.value = 0
        self.barrier.wait()
        for process in self.processes:
            process.join()


def plain_worker(mine: range, rows: torch.Tensor, x: torch.Tensor, y: torch.Tensor, barrier: Any, rounds: Any) -> None:
    """One process of the plain loop: train each module, write its row, wait, average with three random rows."""
    torch.set_num_threads(1)
    torch.manual_seed(mine.start)
    rng = np.random.default_rng(mine.start)
    modules = {peer: lenet((1, 28, 28), 10) for peer in mine}
    optimizers = {peer: torch.optim.SGD(module.parameters(), lr=0.05) for peer, module in modules.items()}
    loss = nn.CrossEntropyLoss()
    while True:
        barrier.wait()
        if rounds.value == 0:
            return
        for _ in range(rounds.value):
            for peer, module in modules.items():
                for _ in range(STEPS):
                    chosen = peer * SAMPLES + torch.randint(0, SAMPLES, (BATCH,))
                    optimizers[peer].zero_grad()
                    loss(module(x[chosen]), y[chosen]).backward()
                    optimizers[peer].step()
                rows[peer] = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
            for peer, module in modules.items():
                others = rng.choice(len(rows), FANOUT, replace=False).tolist()
                parts = rows[[peer, *others]].mean(0).split([p.numel() for p in module.parameters()])
                with torch.no_grad():
                    for parameter, part in zip(module.parameters(), parts, strict=True):
                        parameter.copy_(part.view(parameter.shape))
        barrier.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="profile the simulating process")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        ours, plain = Ours(options.peers, Path(folder)), PlainLoop(options.peers)
        ours(1), plain(1)
        pairs = []
        for _ in range(options.pairs):
            seconds, other = ours(options.rounds), plain(options.rounds)
            pairs.append(other / seconds)
            print(
                f"ours {seconds:.3f} s a round (not at work {1 - ours.waited / seconds:.1%}, "
                f"{ours.batch:.0f} jobs a batch), plain loop {other:.3f} s, speed ratio {pairs[-1]:.3f}",
                flush=True,
            )
        print(f"median speed of ours over the plain loop: {statistics.median(pairs):.3f}")
        print(f"a round in one process: {ours.shares()}")
        if options.profile:
            profile = cProfile.Profile()
            profile.runcall(ours, options.rounds)
            pstats.Stats(profile).sort_stats("tottime").print_stats(25)
        plain.close()
        ours.pool.close()


if __name__ == "__main__":
    main()
