"""Worker processes: one a core, each with one torch thread, over the parent's shared memory.

They are plain Python processes with a pipe, not forks: a notebook's threads, an initialised CUDA and a script without
an ``if __name__ == "__main__"`` guard do no harm.
"""

from __future__ import annotations

import heapq
import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any

from coterie.errors import WorkerLost
from coterie.runtime.simulation.jobs import Ticket
from coterie.runtime.simulation.memory import Vectors
from coterie.runtime.simulation.work import Runner, Setup

_AHEAD = 2
"""Tasks a worker holds: one at work, one waiting in its pipe."""

_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
"""glibc: keep freed memory. Otherwise each step's activations go back to the system, and are cleared page by page when
they are needed again: a third of the time of a LeNet step where this was measured."""

Task = list[Ticket]
"""Tickets of one lane, done one after another by one worker."""


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection
    held: deque[Task] = field(default_factory=deque)


class WorkerPool:
    """Does jobs on several processes, those due first before others. The processes start in the background."""

    def __init__(self, workers: int) -> None:
        self._workers = [_start() for _ in range(workers)]
        self._vectors: Vectors | None = None
        self._order = count()
        self._queue: list[tuple[float, int, Task]] = []
        self._busy: dict[int, deque[Task]] = {}
        """Lanes that are queued or at work, with what must wait for them."""

    def prepare(self, setup: Setup, vectors: Vectors) -> None:
        """Begin a run: every worker gets the spec and the data. Raises what a worker raised."""
        self._vectors, self._queue, self._busy = vectors, [], {}
        while any(worker.held for worker in self._workers):
            self._collect(None)  # what is left of a run that failed
        for worker in self._workers:
            self._send(worker, ("setup", setup))
        for worker in self._workers:
            answer = self._receive(worker)
            if isinstance(answer, BaseException):
                raise answer

    def begin(self, tickets: Sequence[Ticket]) -> None:
        tasks: dict[int, Task] = {}
        for ticket in tickets:
            tasks.setdefault(ticket.lane, []).append(ticket)
        for lane, task in tasks.items():
            if lane in self._busy:
                self._busy[lane].append(task)
            else:
                self._busy[lane] = deque()
                self._enqueue(task)
        self._collect(0)
        self._feed()

    def finish(self, ticket: Ticket) -> None:
        while not ticket.done:
            self._collect(None)
            self._feed()

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.connection.close()
        for worker in self._workers:
            try:
                worker.process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        self._workers = []

    def _enqueue(self, task: Task) -> None:
        heapq.heappush(self._queue, (min(ticket.due for ticket in task), next(self._order), task))

    def _feed(self) -> None:
        for _ in range(_AHEAD):
            for worker in self._workers:
                if self._queue and len(worker.held) < _AHEAD and self._vectors is not None:
                    _, _, task = heapq.heappop(self._queue)
                    worker.held.append(task)
                    self._send(worker, ("jobs", self._vectors.segments, [ticket.job for ticket in task]))

    def _collect(self, timeout: float | None) -> None:
        """Take in what workers have done; wait for something where ``timeout`` is None."""
        holding = {worker.connection: worker for worker in self._workers if worker.held}
        for connection in wait(list(holding), timeout):
            worker = holding[connection]  # type: ignore[index]
            outcomes = self._receive(worker)
            task = worker.held.popleft()
            if isinstance(outcomes, BaseException):
                raise outcomes
            for ticket, outcome in zip(task, outcomes, strict=True):
                ticket.finish(outcome)
            later = self._busy.get(task[0].lane)
            if later:
                self._enqueue(later.popleft())
            else:
                self._busy.pop(task[0].lane, None)

    def _send(self, worker: _Worker, content: Any) -> None:
        try:
            _write(worker.connection, content)
        except OSError:
            raise self._lost(worker) from None

    def _receive(self, worker: _Worker) -> Any:
        try:
            return _read(worker.connection)
        except (EOFError, OSError):
            raise self._lost(worker) from None

    def _lost(self, worker: _Worker) -> WorkerLost:
        return WorkerLost(
            f"a worker process ended with status {worker.process.wait()}",
            where=f"worker {self._workers.index(worker)}",
            remedy="If the machine was out of memory, take fewer peers, a smaller model or fewer --workers.",
        )


def _start() -> _Worker:
    ours, theirs = Pipe()
    code = f"from coterie.runtime.simulation.workers import serve; serve({theirs.fileno()})"
    environment = {**os.environ, **_ALLOCATOR, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    process = subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code], pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL
    )
    theirs.close()
    return _Worker(process, ours)


def _write(connection: Connection, content: Any) -> None:
    """Plain pickle: ``Connection.send`` passes tensors by file descriptors once torch.multiprocessing is loaded."""
    connection.send_bytes(pickle.dumps(content, protocol=5))


def _read(connection: Connection) -> Any:
    return pickle.loads(connection.recv_bytes())  # noqa: S301 - from our own process


def serve(descriptor: int) -> None:
    """The worker's main loop: set-ups and jobs come in, outcomes go out, until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    import coterie.runtime.catalog  # noqa: F401 - fills the registries

    connection: Connection[Any, Any] = Connection(descriptor)
    runner: Runner | None = None
    while True:
        try:
            command, *content = _read(connection)
        except (EOFError, OSError):
            return
        answer: Any = None
        try:
            if command == "setup":
                runner = None  # lets go of the last run's memory first
                runner = Runner.start(content[0])
            elif runner is not None:
                runner.vectors.extend(content[0])
                answer = runner.lane(content[1])
        except Exception as error:
            answer = error
        try:
            _write(connection, answer)
        except OSError:
            return  # the parent has gone
