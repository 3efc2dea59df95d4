"""Hospitals that train together, each with a home and a node of its own, and the commands that their owners give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from real_nodes import wait_until
from typer.testing import CliRunner

from coterie.cli import app
from coterie.runtime.node.nursery import ForkedNode, Nursery

SPEC = """
[federation]
name = "study"
peers = 3
rounds = 100000
[model]
name = "softmax"
[training]
local_steps = 50
"""
LISTEN = ["--listen", "127.0.0.1:0", "--join", "127.0.0.1:0", "--private"]


class Sites:
    """Homes below one folder, and their nodes."""

    def __init__(self, folder: Path, nursery: Nursery) -> None:
        self.folder, self._nursery = folder, nursery
        self.running: dict[str, ForkedNode] = {}

    def coterie(self, command: str, home: str, *words: str, status: int = 0) -> str:
        done = CliRunner().invoke(app, ["federation", *command.split(), *words, "--home", str(self.folder / home)])
        assert done.exit_code == status, done.output
        return done.stdout

    def start(self, home: str) -> None:
        self.running[home] = self._nursery.start(self.folder / home)
        wait_until(f"{home} answers", lambda: self.status(home))

    def kill(self, home: str) -> None:
        node = self.running.pop(home)
        node.kill()
        node.wait()

    def status(self, home: str) -> dict[str, Any]:
        done = CliRunner().invoke(app, ["federation", "status", "--json", "--home", str(self.folder / home)])
        found: dict[str, Any] = json.loads(done.stdout) if done.exit_code == 0 else {}
        assert found.get("state") != "failed", found["why"]
        return found

    def peer(self, home: str) -> str:
        return str(self.status(home)["peer"])

    def log(self, home: str) -> str:
        return (self.folder / home / "node.log").read_text()

    def join(self, host: str, home: str, name: str, part: int, *invite: str) -> None:
        invitation = self.coterie("invite", host, *invite).strip()
        contact = f"127.0.0.1:{self.status(host)['port']}"
        self.coterie("join", home, invitation, "--name", name, "--part", str(part), "--contact", contact, *LISTEN)

    def mixes(self, home: str, other: str) -> bool:
        """Whether the last rounds of a node had models of the other in them."""
        lines = (self.folder / home / "metrics.jsonl").read_text().splitlines()[-20:]
        return any(other in json.loads(line)["weights"] for line in lines)

    def training_together(self, *homes: str) -> None:
        peers = {home: self.peer(home) for home in homes}
        for home in homes:
            path = self.folder / home / "metrics.jsonl"
            wait_until(f"{home} trains", path.exists)
            for other in homes:
                if other != home:
                    wait_until(f"{home} mixes models of {other}", lambda h=home, o=other: self.mixes(h, peers[o]))
