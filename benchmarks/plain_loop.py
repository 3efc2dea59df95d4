"""What one would write without a framework: two processes, each with half of the modules, and shared rows."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as mp
from torch import nn

from coterie.training import models

STEPS, BATCH, FANOUT, WORKERS, SAMPLES = 5, 32, 3, 2, 60
SHAPE, CLASSES = (1, 28, 28), 10


def images(peers: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Random images and labels, SAMPLES a peer."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((peers * SAMPLES, *SHAPE), dtype=np.float32)
    return x, rng.integers(0, CLASSES, peers * SAMPLES)


class PlainLoop:
    """Called with a number of rounds, it gives the seconds that each took."""

    def __init__(self, model: str, peers: int) -> None:
        size = sum(p.numel() for p in getattr(models, model)(SHAPE, CLASSES).parameters())
        x, y = images(peers)
        self.rows = torch.zeros(peers, size).share_memory_()
        shared = torch.from_numpy(x).share_memory_(), torch.from_numpy(y).share_memory_()
        context = mp.get_context("spawn")
        self.barrier = context.Barrier(WORKERS + 1, timeout=300)
        self.rounds = context.Value("i", 0)
        self.processes = [
            context.Process(
                target=work, args=(model, range(w, peers, WORKERS), self.rows, *shared, self.barrier, self.rounds)
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


def work(
    model: str, mine: range, rows: torch.Tensor, x: torch.Tensor, y: torch.Tensor, barrier: Any, rounds: Any
) -> None:
    """One process: train each module, write its row, wait, average with three random rows."""
    torch.set_num_threads(1)
    torch.manual_seed(mine.start)
    rng = np.random.default_rng(mine.start)
    modules = {peer: getattr(models, model)(SHAPE, CLASSES) for peer in mine}
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
