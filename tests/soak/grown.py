"""A federation of real nodes that grows by invitations, as those between sites do."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from real_nodes import wait_until

from coterie import spec as specs
from coterie.errors import NodeError
from coterie.protocols.membership import Policy
from coterie.runtime.node.founding import found_with_data, join_federation, read_invitation
from coterie.runtime.node.home import Home, NodeTable
from coterie.runtime.node.nursery import Nursery
from coterie.runtime.node.processes import NodeProcess

LOOPBACK = "127.0.0.1:0"
SPEC = """
[federation]
peers = {peers}
rounds = {rounds}
{more}
[model]
name = "softmax"
[training]
local_steps = 100
"""


class Grown:
    """Its nodes, the founder first. Any member may admit."""

    def __init__(self, folder: Path, peers: int, rounds: int, more: str = "", **table: Any) -> None:
        """``more``: of the spec; ``table``: of the founder's ``node.toml``."""
        self._folder, self._nursery = folder, Nursery()
        self.nodes: list[NodeProcess] = []
        path = folder / "study.toml"
        path.write_text(SPEC.format(peers=peers, rounds=rounds, more=more))
        spec = specs.load(path, ())
        policy = Policy(admit="any", seats=100)
        self._add(found_with_data(folder / "0", spec, _table(join=LOOPBACK, **table), name="0", policy=policy))

    def admit(self, inviter: NodeProcess, replaces: str = "", **table: Any) -> NodeProcess:
        """One more member, invited by a node that runs; it is not started. ``replaces``: whose place it takes."""
        number = len(self.nodes)
        invitation = read_invitation(inviter.ask("invite", replaces=replaces)["invitation"])
        joining = join_federation(self._folder / str(number), invitation, _table(**table), name=str(number))
        return self._add(asyncio.run(joining)[0])

    def start(self, *nodes: NodeProcess) -> None:
        """Start them at once, and wait until all answer."""
        for node in nodes:
            node.start()
        for node in nodes:
            wait_until(f"{node.name} answers", lambda node=node: status(node))

    def stop(self) -> None:
        for node in self.nodes:
            if node.process is not None and node.running:
                node.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 20
        for node in self.nodes:
            node.stop(deadline)
        self._nursery.close()

    def _add(self, home: Home) -> NodeProcess:
        number = len(self.nodes)
        self.nodes.append(NodeProcess(number, home.identity.id, str(number), False, home, self._nursery))
        return self.nodes[-1]


@contextmanager
def grown(folder: Path, peers: int, rounds: int, more: str = "", **table: Any) -> Iterator[Grown]:
    """Stopped at the end, whatever happens."""
    made = Grown(folder, peers, rounds, more, **table)
    try:
        yield made
    finally:
        made.stop()


def status(node: NodeProcess) -> dict[str, Any]:
    """What it says of itself; nothing where it does not answer yet."""
    assert node.running, node.last_words
    try:
        found = node.ask("status")
    except NodeError:
        return {}
    assert found["state"] != "failed", f"{found['why']}\n{node.last_words}"
    return found


def _table(**settings: Any) -> NodeTable:
    return NodeTable(listen=LOOPBACK, private_networks=True, **settings)
