"""Real sites of one swarm in one process and on one event loop: homes, nodes, sessions, and gRPC between them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path

import torch

from coterie.layout import Layout, Slot
from coterie.runtime.node.control import call
from coterie.runtime.node.founding import found_run, spec_to_found
from coterie.runtime.node.home import Home
from coterie.swarm import process
from coterie.swarm.federated import FederatedSession
from coterie.swarm.session import CheckIn, Terms
from coterie.training.frameworks import Figures

DEADLINE = 60.0
FIGURES = Figures(None, None)


class RealSite:
    def __init__(self, home: Home, size: int) -> None:
        self.home, self.size = home, size
        self.layout = Layout((Slot("w", (size,), (1,), "float32", 0),), size, size)
        self.renew()

    def renew(self) -> None:
        """A new script."""
        self.session = FederatedSession(lambda: process.node_of(self.home.path))

    @property
    def training(self):
        return self.session._training

    @property
    def folder(self) -> Path:
        (found,) = (self.home.path / "state" / "trainings").iterdir()
        return found

    async def begin(self, value: float = 0.0, **terms) -> None:
        given = {"min_peers": 2, "sync_frequency": 4, "adaptive": False, "merge": "mean", "opening": True, **terms}
        await self.session.begin(Terms("a training", **given), self.layout, self.vector(value))

    async def sync(self, value: float = 0.0):
        return await self.session.sync(CheckIn(self.vector(value), 1, 4, 1, FIGURES))

    async def end(self, value: float = 0.0):
        return await self.session.end(CheckIn(self.vector(value), 1, 4, 1, FIGURES))

    def vector(self, value: float) -> torch.Tensor:
        return torch.full((self.size,), float(value))


@asynccontextmanager
async def real_swarm(folder: Path, sites: int = 3, size: int = 8):
    """Sites whose nodes run, and know each other's addresses."""
    names = [f"site-{number}" for number in range(sites)]
    homes = found_run([folder / name for name in names], spec_to_found(None, "trial"), None, names, list(range(sites)))
    made = [RealSite(home, size) for home in homes]
    try:
        await introduce(made)
        yield made
    finally:
        await process._stopped(asyncio.get_running_loop())


async def introduce(sites: list[RealSite]) -> None:
    nodes = [await process.node_of(site.home.path) for site in sites]
    addresses = {each.node.identity.id: f"127.0.0.1:{each.node.transport.port}" for each in nodes}
    for site in sites:
        await asyncio.to_thread(call, site.home.socket, {"command": "addresses", "addresses": addresses})


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.02)


async def all_of(*work):
    async with asyncio.timeout(DEADLINE):
        return await asyncio.gather(*work)
