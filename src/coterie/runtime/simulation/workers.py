"""Worker processes: one a core, each with one torch thread, over the parent's shared memory.

They are plain Python processes with a pipe, not forks: a notebook's threads, an initialised CUDA and a script without
an ``if __name__ == "__main__"`` guard do no harm.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any

from coterie.errors import WorkerLost
from coterie.runtime.simulation.memory import Vectors
from coterie.runtime.simulation.work import Runner, Setup


class WorkerPool:
    """Runs lanes of jobs on several processes. The processes start at once, in the background."""

    def __init__(self, count: int) -> None:
        self._workers: list[tuple[subprocess.Popen[bytes], Connection]] = []
        self._vectors: Vectors | None = None
        for _ in range(count):
            ours, theirs = Pipe()
            code = f"from coterie.runtime.simulation.workers import serve; serve({theirs.fileno()})"
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            process = subprocess.Popen(  # noqa: S603 - our own interpreter
                [sys.executable, "-c", code], pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL
            )
            theirs.close()
            self._workers.append((process, ours))

    def prepare(self, setup: Setup, vectors: Vectors) -> None:
        """Begin a run: every worker gets the spec and the data. Raises what a worker raised."""
        self._vectors = vectors
        for index in range(len(self._workers)):
            self._send(index, ("setup", setup))
        for index in range(len(self._workers)):
            self._receive(index)

    def __call__(self, lanes: Sequence[Sequence[Any]]) -> list[list[Any]]:
        """The outcomes, lane by lane, in the order given. Workers take small groups of lanes as they get free."""
        assert self._vectors is not None, "prepare() comes first"  # noqa: S101 - our own order of calls
        size = max(1, len(lanes) // (32 * len(self._workers)))
        groups = deque(range(start, min(start + size, len(lanes))) for start in range(0, len(lanes), size))
        outcomes: list[list[Any]] = [[] for _ in lanes]
        pending: list[deque[range]] = [deque() for _ in self._workers]
        for _ in range(2):  # the second group waits in the pipe while the first is at work
            for index in range(len(self._workers)):
                self._give(index, groups, pending, lanes)
        by_connection = {connection: index for index, (_, connection) in enumerate(self._workers)}
        while any(pending):
            for ready in wait([self._workers[i][1] for i, group in enumerate(pending) if group]):
                index = by_connection[ready]  # type: ignore[index]
                results = self._receive(index)
                for lane, result in zip(pending[index].popleft(), results, strict=True):
                    outcomes[lane] = result
                self._give(index, groups, pending, lanes)
        return outcomes

    def close(self) -> None:
        """End the workers."""
        for process, connection in self._workers:
            connection.close()
            try:
                process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._workers = []

    def _give(
        self, index: int, groups: deque[range], pending: list[deque[range]], lanes: Sequence[Sequence[Any]]
    ) -> None:
        if groups and self._vectors is not None:
            group = groups.popleft()
            pending[index].append(group)
            self._send(index, ("jobs", self._vectors.segments, [lanes[lane] for lane in group]))

    def _send(self, index: int, content: Any) -> None:
        try:
            self._workers[index][1].send(content)
        except OSError:
            raise self._lost(index) from None

    def _receive(self, index: int) -> Any:
        try:
            answer = self._workers[index][1].recv()
        except (EOFError, OSError):
            raise self._lost(index) from None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _lost(self, index: int) -> WorkerLost:
        status = self._workers[index][0].wait()
        return WorkerLost(
            f"a worker process ended with status {status}",
            where=f"worker {index}",
            remedy="If the machine was out of memory, take fewer peers, a smaller model or fewer --workers.",
        )


def serve(descriptor: int) -> None:
    """The worker's main loop: set-ups and jobs come in, outcomes go out, until the parent closes the pipe."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    import coterie.runtime.catalog  # noqa: F401 - fills the registries

    connection: Connection[Any, Any] = Connection(descriptor)
    runner: Runner | None = None
    while True:
        try:
            command, *content = connection.recv()
        except (EOFError, OSError):
            return
        try:
            if command == "setup":
                runner = None
                runner = Runner.start(content[0])
                answer: Any = None
            elif runner is not None:
                runner.vectors.extend(content[0])
                answer = runner(content[1])
        except Exception as error:
            answer = error
        try:
            connection.send(answer)
        except OSError:
            return  # the parent has gone
