"""Nodes started quickly: one process imports everything once, and each node is a fork of it.

Importing takes seconds of processor time, and the memory that it fills is shared. The nursery itself begins no thread,
event loop or gRPC, so forks are safe. It ends when whoever started it does, and takes the nodes with it: a run that is
killed leaves none behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from coterie.errors import RunError


class ForkedNode:
    """A node's process, with the part of ``subprocess.Popen`` that watching one needs."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._descriptor = _descriptor_of(pid)
        self._ended = self._descriptor < 0

    def poll(self) -> int | None:
        """None while it runs. Its status is its parent's, the nursery's, to know: -1 stands for any."""
        if not self._ended and select.select([self._descriptor], [], [], 0)[0]:
            self._ended = True
            os.close(self._descriptor)
        return -1 if self._ended else None

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        end = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            left = None if end is None else max(0.0, end - time.monotonic())
            if not select.select([self._descriptor], [], [], left)[0]:
                raise subprocess.TimeoutExpired("node", timeout or 0.0)
        return -1

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Nursery:
    """Starts nodes. Close it when none is to be started any more: those that still run end with it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter
            [sys.executable, "-P", "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            process_group=0,  # Ctrl-C is the parent's to handle
            text=True,
        )

    def start(self, home: Path) -> ForkedNode:
        """A node for this home, which logs into ``node.log`` there. Raises RunError where the nursery has ended."""
        answer = ""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None and self._process.stdout is not None:
                self._process.stdin.write(json.dumps(str(home)) + "\n")
                self._process.stdin.flush()
                answer = self._process.stdout.readline()
        if not answer:
            raise RunError(
                "no more nodes can be started: the process that starts them has ended",
                where="nursery",
                remedy="Is 'coterie[node]' installed, and is there memory left?",
            )
        return ForkedNode(int(answer))

    def close(self) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def serve() -> None:
    """The nursery's main loop: a home comes in, a process id goes out, until the other end closes."""
    import torch

    # what a node needs, but for gRPC, which must not be there in a process that forks
    import coterie.ledger
    import coterie.network.discovery
    import coterie.protocols.membership
    import coterie.runtime.catalog
    import coterie.runtime.node.life
    import coterie.runtime.node.site  # noqa: F401 - a child finds them loaded

    torch.set_num_threads(1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    children: list[int] = []
    """Descriptors: the number of one that has ended may be another process's by now."""
    for line in sys.stdin:
        home = Path(json.loads(line))
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            _become(home)
        children.append(_descriptor_of(pid))
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
    for child in children:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(child, signal.SIGTERM)


def _descriptor_of(pid: int) -> int:
    """Of a process; -1 where it has ended."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return -1


def _become(home: Path) -> None:
    """In the child: a process of its own that runs the node, and ends."""
    status = 1
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(home / "node.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for descriptor, target in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(descriptor, target)
        from coterie.runtime.node.__main__ import run

        status = run(home)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
