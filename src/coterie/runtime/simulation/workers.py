"""Worker processes: one a core, each with one torch thread, over the parent's shared memory.

They are plain Python processes with a pipe, not forks: a notebook's threads, an initialised CUDA and a script without
an ``if __name__ == "__main__"`` guard do no harm.
"""

from __future__ import annotations

import gc
import heapq
import os
import pickle
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.connection import Connection, Pipe
from typing import Any

from coterie.errors import RunError, WorkerLost
from coterie.runtime.work.descriptions import Setup
from coterie.runtime.work.memory import Vectors
from coterie.runtime.work.runner import Runner
from coterie.runtime.work.tickets import Ticket

_GRACE = 2.0
"""Seconds that workers have to end by themselves."""
_AHEAD = 2
"""Bundles a worker holds: one at work, one waiting in its pipe."""
_BUNDLE = 8
"""Most tasks in a bundle: fewer, longer messages while there is much to do; single ones towards the end."""

_FITS = 1 << 16
"""Bytes that a pipe takes at once. More is sent only to a worker that reads: one that is itself waiting to hand over
something large, while we wait for it to read, would wait for ever."""
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
"""glibc: keep freed memory. Otherwise each step's activations go back to the system, and are cleared page by page when
they are needed again: a fifth of the time of a LeNet step where this was measured."""

Task = list[Ticket]
"""Tickets of one lane, done one after another by one worker."""


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection
    mapped: int = 0
    """How many of the arena's segments it knows."""
    held: deque[list[Task]] = field(default_factory=deque)
    parked: bytes | None = None
    """What goes to it next, once it has handed over what it is at work on."""


class WorkerPool:
    """Does jobs on several processes, those due first before others. The processes start in the background."""

    def __init__(self, workers: int) -> None:
        self._workers = [_start() for _ in range(workers)]
        self._by_descriptor = {worker.connection.fileno(): worker for worker in self._workers}
        self._poll = select.poll()
        for descriptor in self._by_descriptor:
            self._poll.register(descriptor, select.POLLIN)
        self._vectors: Vectors | None = None
        self._order = count()
        self._queue: list[tuple[float, int, Task]] = []
        self._busy: dict[int, deque[Task]] = {}
        """Lanes that are queued or at work, with what must wait for them."""

    def prepare(self, setup: Setup, vectors: Vectors) -> None:
        """Begin a run: every worker gets the spec and the data. Raises what a worker raised."""
        # Of the last run only what workers hold is done: its memory has gone, this run's may lie at the same paths.
        self._queue = []
        for waiting in self._busy.values():
            waiting.clear()
        while any(worker.held for worker in self._workers):
            self._collect(None)
        self._vectors, self._busy = vectors, {}
        for worker in self._workers:
            self._send(worker, _pack(("setup", setup)))
            worker.mapped = 0
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

    def hungry(self) -> bool:
        if self._queue:
            return False
        self._collect(0)
        return not self._queue and any(len(worker.held) < _AHEAD for worker in self._workers)

    def finish(self, ticket: Ticket) -> None:
        while not ticket.done:
            self._collect(None)

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.connection.close()
        deadline = time.monotonic() + _GRACE
        for worker in self._workers:
            try:
                worker.process.wait(timeout=max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        self._workers = []

    def _enqueue(self, task: Task) -> None:
        heapq.heappush(self._queue, (min(ticket.due for ticket in task), next(self._order), task))

    def _feed(self) -> None:
        if not self._queue:
            return
        for _ in range(_AHEAD):
            for worker in self._workers:
                if self._queue and len(worker.held) < _AHEAD and self._vectors is not None:
                    size = max(1, min(_BUNDLE, len(self._queue) // (4 * len(self._workers))))
                    bundle = [heapq.heappop(self._queue)[-1] for _ in range(size)]
                    jobs = [[ticket.job for ticket in task] for task in bundle]
                    content = _pack(("jobs", self._vectors.segments[worker.mapped :], jobs))
                    worker.mapped = len(self._vectors.segments)
                    if worker.held and len(content) > _FITS:
                        worker.parked = content
                    else:
                        self._send(worker, content)
                    worker.held.append(bundle)

    def _collect(self, timeout: float | None) -> None:
        """Take in what workers have done, and keep them busy; wait for something where ``timeout`` is None."""
        self._feed()
        for descriptor, _ in self._poll.poll(timeout):
            worker = self._by_descriptor[descriptor]
            outcomes = self._receive(worker)
            bundle = worker.held.popleft()
            if worker.parked is not None:
                self._send(worker, worker.parked)
                worker.parked = None
            if isinstance(outcomes, BaseException):
                outcomes = [[outcomes] * len(task) for task in bundle]
            for task, results in zip(bundle, outcomes, strict=True):
                for ticket, outcome in zip(task, results, strict=True):
                    ticket.finish(outcome)
                self._next(task[0].lane)
        self._feed()

    def _next(self, lane: int) -> None:
        """Queue what has waited for the lane's task that is done now."""
        if self._busy[lane]:
            self._enqueue(self._busy[lane].popleft())
        else:
            del self._busy[lane]

    def _send(self, worker: _Worker, content: bytes) -> None:
        try:
            worker.connection.send_bytes(content)
        except OSError:
            raise self._lost(worker) from None

    def _receive(self, worker: _Worker) -> Any:
        try:
            return _read(worker.connection)
        except (EOFError, OSError):
            raise self._lost(worker) from None

    def _lost(self, worker: _Worker) -> WorkerLost:
        status = worker.process.wait()
        if status == -signal.SIGINT:
            raise KeyboardInterrupt  # Ctrl-C met it before it had a process group of its own
        return WorkerLost(
            f"a worker process ended with status {status}",
            where=f"worker {self._workers.index(worker)}",
            remedy="If the machine was out of memory, take fewer peers, a smaller model or fewer --workers.",
        )


def _start() -> _Worker:
    return _Worker(*start_process("coterie.runtime.simulation.workers"))


def start_process(module: str) -> tuple[subprocess.Popen[bytes], Connection]:
    """A plain Python process that runs ``serve(descriptor)`` of ``module``, and our end of the pipe to it."""
    ours, theirs = Pipe()
    code = f"from {module} import serve; serve({theirs.fileno()})"
    environment = {**os.environ, **_ALLOCATOR, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    process = subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-P", "-c", code],  # -P: a file of the user's named like a module of ours is not imported
        pass_fds=[theirs.fileno()],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=2,  # what a user's rule prints does not belong among our results
        process_group=0,  # Ctrl-C is the parent's to handle
    )
    theirs.close()
    return process, ours


def _pack(content: Any) -> bytes:
    """Plain pickle: ``Connection.send`` passes tensors by file descriptors once torch.multiprocessing is loaded."""
    return pickle.dumps(content, protocol=5)


def _read(connection: Connection) -> Any:
    return pickle.loads(connection.recv_bytes())  # noqa: S301 - from our own process


def serve(descriptor: int) -> None:
    """The worker's main loop: set-ups and jobs come in, outcomes go out, until the parent closes the pipe."""
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
                gc.freeze()  # what is there now stays: no need to look through it again and again
            elif runner is not None:
                runner.vectors.extend(content[0])
                answer = [runner.lane(jobs) for jobs in content[1]]
        except Exception as error:
            answer = error
        try:
            content = _pack(answer)
        except Exception as error:
            content = _pack(
                RunError(
                    f"an outcome cannot be sent: {type(error).__name__}: {error}",
                    remedy="What a rule remembers must be numbers, strings, tensors, or lists and dicts of such.",
                )
            )
        try:
            connection.send_bytes(content)
        except OSError:
            return  # the parent has gone
