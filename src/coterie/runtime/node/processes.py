"""``run --on processes``: a federation of real nodes on this machine, one process a peer, watched by this one.

Each node has a home of its own in the run directory, its own key, and only its own part of the data in memory; they
talk over TLS on loopback, as they would between machines. A node whose process ends is started again, and goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coterie.data import Dataset
from coterie.errors import NodeError, RunError
from coterie.identity import PeerId
from coterie.runtime._result import final_figures
from coterie.runtime.node.control import call
from coterie.runtime.node.founding import found_run
from coterie.runtime.node.home import Home
from coterie.runtime.node.nursery import ForkedNode, Nursery
from coterie.runtime.peer_metrics import NewRecords
from coterie.runtime.results import PeerMetrics, RunDirectory
from coterie.runtime.work.placement import place
from coterie.runtime.work.runner import layout_for
from coterie.spec import Spec

_STARTS = 60.0
"""Seconds that a node has to start and answer on its socket."""
_POLL = 0.2
_RESTARTS = 5
"""How often a node that ended is started again."""
_TAIL = 2000


@dataclass
class NodeProcess:
    """One node, seen from outside."""

    number: int
    peer: PeerId
    name: str
    """Of the peer in the run's figures."""
    attacker: bool
    home: Home
    nursery: Nursery
    process: ForkedNode | None = None
    starts: int = 0
    state: str = "starting"

    def __post_init__(self) -> None:
        self.records = NewRecords(self.home.path / "metrics.jsonl")

    def start(self) -> None:
        self.starts += 1
        self.process = self.nursery.start(self.home.path)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def ask(self, command: str, **content: Any) -> dict[str, Any]:
        """Its answer. Raises NodeError where it does not answer."""
        return call(self.home.socket, {"command": command, **content}, seconds=10)

    @property
    def last_words(self) -> str:
        """The end of its log."""
        path = self.home.path / "node.log"
        return path.read_text(errors="replace")[-_TAIL:] if path.exists() else ""

    def stop(self, deadline: float) -> None:
        """Let it end well, or else kill it at the deadline (monotonic)."""
        if self.process is None:
            return
        if self.running:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Processes:
    """Starts the nodes, watches them to the end, and collects what they measured."""

    def __init__(
        self,
        spec: Spec,
        dataset: Dataset,
        folder: Path,
        on_record: Callable[[PeerMetrics], None],
        on_round: Callable[[int, list[float], int], None],
        stop: threading.Event,
    ) -> None:
        """Make the homes of all nodes, in ``folder``. Raises what a simulation of the spec would."""
        parts = place(spec, dataset)
        layout = layout_for(spec, parts.dataset)
        self.topology = parts.topology
        folders = [folder / name for name in parts.ids]
        homes = found_run(folders, spec, layout, parts.ids, parts.numbers)
        self._nursery = Nursery()
        self.nodes = [
            NodeProcess(index, home.identity.id, name, name in parts.attackers, home, self._nursery)
            for index, (home, name) in enumerate(zip(homes, parts.ids, strict=True))
        ]
        self._stop = stop
        self._on_record, self._on_round = on_record, on_round
        self._names = {node.peer: node.name for node in self.nodes}
        self._seen: dict[int, list[PeerMetrics]] = {}

    def run(self) -> None:
        """To the end of the last node's protocol. Raises RunError where a node fails or ends again and again."""
        try:
            for node in self.nodes:
                node.start()
            for node in self.nodes:
                self._wait_until_it_answers(node)
            self.introduce()
            while not all(node.state == "done" for node in self.nodes):
                if self._stop.is_set():
                    raise KeyboardInterrupt
                time.sleep(_POLL)
                for node in self.nodes:
                    self._look_at(node)
            for node in self.nodes:
                self._take_in(node)
        finally:
            deadline = time.monotonic() + 10
            for node in self.nodes:
                if node.running and node.process is not None:
                    node.process.send_signal(signal.SIGTERM)
            for node in self.nodes:
                node.stop(deadline)
            self.close()

    def close(self) -> None:
        """No node is started any more."""
        self._nursery.close()

    def outcome(self) -> dict[str, Any]:
        """Figures of the honest peers' final models, on the whole test set."""
        honest = [node for node in self.nodes if not node.attacker]
        found = [RunDirectory(node.home.path).result for node in honest]
        digest = hashlib.sha256()
        for node in honest:
            digest.update((node.home.path / "final.f32").read_bytes())
        sent = [RunDirectory(node.home.path).result for node in self.nodes]
        return {
            **final_figures(
                [(one.accuracy["mean"], one.loss["mean"], one.metrics.get("auc"), one.attack_rate) for one in found]
            ),
            "bytes_sent": sum(one.bytes_sent or 0 for one in sent),
            "model_hash": digest.hexdigest(),
        }

    def models(self, most: int) -> dict[PeerId, Path]:
        """Files of the honest peers' final models, of the first ``most`` of them."""
        honest = [node for node in self.nodes if not node.attacker]
        return {node.name: node.home.path / "models" / "final.safetensors" for node in honest[:most]}

    def _wait_until_it_answers(self, node: NodeProcess) -> None:
        deadline = time.monotonic() + _STARTS
        while time.monotonic() < deadline and node.running and not self._stop.is_set():
            try:
                node.state = node.ask("status")["state"]
            except NodeError:
                time.sleep(_POLL)
            else:
                return
        if self._stop.is_set():
            raise KeyboardInterrupt
        raise self._failed(node, "did not start")

    def introduce(self) -> None:
        """Tell every node where the others listen; one that has just ended is left out until it is started again."""
        addresses = dict[PeerId, str]()
        for node in self.nodes:
            with contextlib.suppress(NodeError):
                addresses[node.peer] = f"127.0.0.1:{node.ask('status')['port']}"
        for node in self.nodes:
            with contextlib.suppress(NodeError):
                node.ask("addresses", addresses=addresses)

    def _look_at(self, node: NodeProcess) -> None:
        if not node.running:
            if node.state == "done":
                return
            if node.starts > _RESTARTS:
                raise self._failed(node, f"ended {node.starts} times")
            node.start()
            self._wait_until_it_answers(node)
            self.introduce()
        try:
            status = node.ask("status")
        except NodeError:
            return  # it has just ended, or is busy: the next look tells
        node.state = status["state"]
        if node.state == "failed":
            raise self._failed(node, status["why"])
        self._take_in(node)

    def _take_in(self, node: NodeProcess) -> None:
        """What the node has measured since the last look. One that was started again may repeat a round."""
        for record in node.records.take():
            trust = None if record.trust is None else self._named(record.trust)
            self._record(replace(record, peer=node.name, weights=self._named(record.weights), trust=trust))

    def _record(self, record: PeerMetrics) -> None:
        seen = self._seen.setdefault(record.round, [])
        if any(one.peer == record.peer for one in seen):
            return
        self._on_record(record)
        seen.append(record)
        if len(seen) == len(self.nodes):
            accuracies = [one.accuracy for one in seen if not one.attacker]
            self._on_round(record.round, accuracies, sum(one.bytes_sent for one in seen))

    def _named(self, values: dict[str, float]) -> dict[str, float]:
        return {self._names.get(peer, peer): value for peer, value in values.items()}

    def _failed(self, node: NodeProcess, what: str) -> RunError:
        return RunError(
            f"the node {what}",
            where=node.name,
            remedy=f"Its log, {node.home.path / 'node.log'}, ends: {node.last_words.strip() or 'it is empty'}",
        )
