"""Real nodes for tests: homes, processes, and waiting for what they say of themselves."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import coterie.runtime.catalog  # noqa: F401 - fills the registries
from coterie import data
from coterie import spec as specs
from coterie.errors import NodeError
from coterie.ledger import LedgerStore, Record, audit
from coterie.runtime.node.processes import NodeProcess, Processes

DEADLINE = 120.0


def wait_until(what: str, condition: Callable[[], Any], seconds: float = DEADLINE) -> Any:
    """What ``condition`` gives, once that is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds:g} s: {what}")


class Federation:
    """Nodes of one spec on this machine."""

    def __init__(self, spec: specs.Spec, folder: Path) -> None:
        self.spec = spec
        dataset = data.load(spec.dataset, None)
        self.watched = Processes(spec, dataset, folder, lambda _: None, lambda *_: None, threading.Event())
        self.nodes: list[NodeProcess] = self.watched.nodes

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        self.introduce()

    def introduce(self) -> None:
        """Wait until all answer, and tell each where the others are."""
        for node in self.nodes:
            wait_until(f"{node.name} answers", lambda node=node: self.status(node))
        self.watched.introduce()

    @contextmanager
    def doors_between(self, *parts: Sequence[NodeProcess]) -> Iterator[list[Door]]:
        """Introduce running nodes so that those of different parts meet through doors alone; the doors, open."""
        for node in self.nodes:
            wait_until(f"{node.name} answers", lambda node=node: self.status(node))
        ports = {node.peer: self.status(node)["port"] for node in self.nodes}
        with doors(ports, [[node.peer for node in part] for part in parts]) as (made, addresses):
            for node in self.nodes:
                node.ask("addresses", addresses=addresses[node.peer])
            yield made

    def restart(self, node: NodeProcess) -> None:
        node.start()
        self.introduce()

    def status(self, node: NodeProcess) -> dict[str, Any]:
        """What it says of itself; nothing where it does not answer."""
        assert node.running, node.last_words
        try:
            return node.ask("status")
        except NodeError:
            return {}

    def wait_for_round(self, node: NodeProcess, round: int) -> None:
        wait_until(f"round {round} at {node.name}", lambda: self.status(node).get("round", -1) >= round)

    def wait_until_done(self) -> None:
        for node in self.nodes:
            wait_until(f"{node.name} is done", lambda node=node: self.done(node))

    def done(self, node: NodeProcess) -> bool:
        status = self.status(node)
        assert status.get("state") != "failed", f"{status['why']}\n{node.last_words}"
        return status.get("state") == "done"

    def accuracy(self, node: NodeProcess) -> float:
        return float(json.loads((node.home.path / "result.json").read_text())["accuracy"]["mean"])

    def stop(self) -> None:
        for node in self.nodes:
            if node.running and node.process is not None:
                node.process.send_signal(signal.SIGCONT)
                node.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 20
        for node in self.nodes:
            node.stop(deadline)
        self.watched.close()

    def records(self, node: NodeProcess) -> list[Record]:
        """The records of a stopped node's own chain, after an audit of its ledger."""
        path, genesis = node.home.path / "ledger.sqlite", bytes.fromhex(node.home.table.federation)
        found = audit(path, genesis)
        assert found.fault is None, found.fault
        with LedgerStore(path, genesis) as store:
            blocks = []
            while more := store.blocks(node.peer, len(blocks)):
                blocks += more
        return [Record.decode(data) for full in blocks for data in full.records]


def kill(node: NodeProcess) -> None:
    """SIGKILL, and gone."""
    assert node.process is not None
    os.kill(node.process.pid, signal.SIGKILL)
    node.process.wait()


@contextmanager
def braked(node: NodeProcess) -> Iterator[None]:
    """It runs for a tenth of the time."""
    over = threading.Event()

    def brake() -> None:
        assert node.process is not None
        while not over.wait(0.01):
            node.process.send_signal(signal.SIGSTOP)
            over.wait(0.09)
            node.process.send_signal(signal.SIGCONT)

    thread = threading.Thread(target=brake)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def federation(folder: Path, **sets: Any) -> Iterator[Federation]:
    """A federation that has not been started; it is stopped at the end, whatever happens."""
    keys = {"federation.peers": 4, "federation.rounds": 40, "model.name": "softmax", **sets}
    made = Federation(specs.load(None, ()).with_values(keys), folder)
    try:
        yield made
    finally:
        made.stop()


@contextmanager
def doors(
    ports: Mapping[str, int], parts: Sequence[Sequence[str]]
) -> Iterator[tuple[list[Door], dict[str, dict[str, str]]]]:
    """Open doors to peers that listen on these ports, and for each the addresses of all: of other parts, the doors."""
    with ExitStack() as closing:
        made = {peer: closing.enter_context(Door(port)) for peer, port in ports.items()}
        addresses = {
            own: {p: f"127.0.0.1:{port if p in part else made[p].port}" for p, port in ports.items()}
            for part in parts
            for own in part
        }
        yield list(made.values()), addresses


class Door:
    """A TCP port that leads to another one while it is open; what is under way is cut when it is shut."""

    def __init__(self, target: int) -> None:
        self._target, self._connections = target, set[socket.socket]()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._is_open, self._lock = True, threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Door:
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()
        self.shut()

    def open(self) -> None:
        self._is_open = True

    def shut(self) -> None:
        with self._lock:
            self._is_open = False
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                connection.close()
            self._connections.clear()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                inner, _ = self._listening.accept()
                with self._lock:
                    if not self._is_open:
                        inner.close()
                        continue
                    outer = socket.create_connection(("127.0.0.1", self._target))
                    self._connections |= {inner, outer}
                for one, other in ((inner, outer), (outer, inner)):
                    threading.Thread(target=_pour, args=(one, other), daemon=True).start()


def _pour(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while data := one.recv(1 << 16):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)
