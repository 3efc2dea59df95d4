"""The nodes of this process: one for each home that a callback names, on the process's background loop.

A node starts with the first training that needs it and stays until the process ends: others may still need the last
model from it, it lets newcomers in, and ``coterie federation invite`` and ``status`` talk to it.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
from pathlib import Path
from weakref import WeakKeyDictionary

from coterie.errors import CoterieError, NodeError
from coterie.runtime.node.daemon import Node
from coterie.runtime.node.home import Home
from coterie.swarm.background import PATIENCE_SECONDS
from coterie.swarm.part import ScriptPart

_nodes: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Path, asyncio.Task[ProcessNode]]] = WeakKeyDictionary()


class ProcessNode:
    """A node at work in this process. ``ended`` is why it works no more, or None."""

    def __init__(self, home: Home) -> None:
        self.node = Node(home, ScriptPart)
        self._task = asyncio.create_task(self.node.run(), name=f"node {home.path}")
        self._task.add_done_callback(self._on_end)

    @property
    def part(self) -> ScriptPart:
        part = self.node.part
        if not isinstance(part, ScriptPart):
            raise NodeError("this node is not one of a script", where=str(self.node.home.path))
        return part

    @property
    def ended(self) -> bool:
        return self._task.done()

    async def stop(self) -> None:
        """End well: connections are closed before the loop is."""
        self.node.stop()
        await asyncio.wait([self._task])

    async def until_ready(self) -> None:
        """Until it meets others. Raises what keeps it from that."""
        ready = asyncio.create_task(self.node.ready.wait())
        try:
            await asyncio.wait([ready, self._task], return_when=asyncio.FIRST_COMPLETED)
            if self._task.done():
                self._task.result()
                raise NodeError("the node was stopped", where=str(self.node.home.path))
        finally:
            ready.cancel()

    def _on_end(self, task: asyncio.Task[None]) -> None:
        """Its trainings end with it."""
        _nodes.get(task.get_loop(), {}).pop(self.node.home.path, None)
        error = None if task.cancelled() else task.exception()
        told = error if isinstance(error, CoterieError) else None
        part = getattr(self.node, "part", None)  # it may not have come so far as to have one
        if isinstance(part, ScriptPart):
            for training in part.trainings.values():
                training.site.fail(told or NodeError("this site's node was stopped", where=str(self.node.home.path)))


async def node_of(path: Path) -> ProcessNode:
    """The node of this home in this process; it is started if need be. Raises what keeps it from starting."""
    loop = asyncio.get_running_loop()
    if loop not in _nodes:
        _nodes[loop] = {}
        atexit.register(_stop_nodes, loop, os.getpid())
    found = _nodes[loop]
    path = path.resolve()
    task = found.get(path)
    if task is None or (task.done() and (task.cancelled() or task.exception() or task.result().ended)):
        task = found[path] = asyncio.create_task(_start(path))
    return await asyncio.shield(task)


def _stop_nodes(loop: asyncio.AbstractEventLoop, process: int) -> None:
    """When the process ends, before the loop does: gRPC's own tasks are not to be cancelled one by one."""
    if not loop.is_closed() and os.getpid() == process:  # a forked child has the loop, and not its thread
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(_stopped(loop), loop).result(PATIENCE_SECONDS)


async def _stopped(loop: asyncio.AbstractEventLoop) -> None:
    for task in list(_nodes.pop(loop, {}).values()):
        if not task.done():
            task.cancel()
        elif not task.cancelled() and task.exception() is None:
            await task.result().stop()


async def _start(path: Path) -> ProcessNode:
    started = ProcessNode(Home(path))
    await started.until_ready()
    return started
