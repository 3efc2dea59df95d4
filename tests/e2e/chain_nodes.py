"""Seven real nodes that agree on a shared chain: who leads, what is final, and what their files hold."""

from __future__ import annotations

import shutil
import sqlite3
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from real_nodes import Federation, federation, kill, wait_until

from coterie.ledger.shared import SharedAudit, audit_shared
from coterie.ledger.shared.ledger import Row
from coterie.runtime.node.processes import NodeProcess

PROTOCOL = Path(__file__).parents[2] / "examples" / "shared_chain" / "chain.py"
SECONDS = 300.0
"""For seven nodes on a busy machine."""
Place = tuple[int, int]
"""(epoch, height)."""


@contextmanager
def seven(
    folder: Path, blocks: int, pause: float = 0.0, delay: float = 0.5, liar: Path | None = None
) -> Iterator[Federation]:
    """``liar``: a protocol in the place of the example's, which it finds beside it."""
    protocol = shutil.copy(PROTOCOL, folder)
    protocol = shutil.copy(liar, folder) if liar is not None else protocol
    sets = {
        "federation.peers": 7,
        "federation.rounds": blocks,
        "federation.protocol": f"{protocol}:chain",
        "chain.pause": pause,
        "chain.delay": delay,
        "evaluation.every": blocks,
    }
    with federation(folder, **sets) as made:
        yield made


def chain(made: Federation, node: NodeProcess) -> dict[str, Any]:
    """What a node says of its chain; nothing where it does not answer, or has none yet."""
    status = made.status(node)
    assert status.get("state") != "failed", f"{status['why']}\n{node.last_words}"
    return status.get("chain") or {}


def final(made: Federation, node: NodeProcess) -> Place:
    """The last block that is final here."""
    found = chain(made, node)
    return (found["epoch"], found["final"]) if found else (-1, 0)


def wait_for_blocks(made: Federation, node: NodeProcess, count: int) -> None:
    """So many blocks are final at a node."""
    wait_until(f"{count} blocks at {node.name}", lambda: made.status(node).get("round", -1) >= count - 1, SECONDS)


def kill_leaders(made: Federation, blocks: int, every: int) -> list[float]:
    """Kill the leader of the present height every few blocks, and start it again when others have gone on without it.

    Until so many blocks are final. Seconds from each death to the next final block above the height that it led.
    """
    outages = []
    count = every
    while count < blocks - every:
        wait_until("all are there", lambda: all(chain(made, node) for node in made.nodes), SECONDS)
        for node in made.nodes:
            wait_for_blocks(made, node, count)
        victim, led = _leader(made)
        kill(victim)
        died = time.monotonic()
        others = [node for node in made.nodes if node is not victim]
        while all(final(made, node) <= led for node in others):
            assert time.monotonic() - died < SECONDS, "nobody goes on"
            time.sleep(0.05)
        outages.append(time.monotonic() - died)
        made.restart(victim)
        count = max(made.status(node).get("round", 0) for node in others) + 1 + every
    return outages


def _leader(made: Federation) -> tuple[NodeProcess, Place]:
    """Who leads where the most advanced node stands."""
    found = [(told["epoch"], told["height"], told["leader"]) for node in made.nodes if (told := chain(made, node))]
    epoch, height, key = max(found)
    return next(node for node in made.nodes if node.peer == key), (epoch, height)


def finish(made: Federation) -> list[bytes]:
    """Wait until all are done and know the same final blocks, stop them, and audit; the blocks of the chain."""
    for node in made.nodes:
        wait_until(f"{node.name} is done", lambda node=node: made.done(node), SECONDS)
    wait_until("all know the last block", lambda: len({final(made, node) for node in made.nodes}) == 1)
    chains = stopped(made)
    assert all(one == chains[0] for one in chains)
    return chains[0]


def stopped(made: Federation, accused: Sequence[NodeProcess] = ()) -> list[list[bytes]]:
    """Stop all nodes, and audit: every node's blocks. ``accused``: of whom, and nobody else, there is evidence."""
    made.stop()
    audits = [audited(node) for node in made.nodes]
    assert all(found.fault is None for found in audits), [found.fault for found in audits]
    assert all(set(found.accused) == {node.peer for node in accused} for found in audits)
    return [blocks_of(node) for node in made.nodes]


def audited(node: NodeProcess) -> SharedAudit:
    return audit_shared(node.home.path / "shared.sqlite", bytes.fromhex(node.home.table.federation))


def blocks_of(node: NodeProcess) -> list[bytes]:
    """The blocks in a node's file with their records, read by SQLite alone; what made them final may differ."""
    with closing(sqlite3.connect(f"file:{node.home.path / 'shared.sqlite'}?mode=ro", uri=True)) as db:
        rows = db.execute("SELECT data FROM blocks ORDER BY epoch, height").fetchall()
    return [Row.decode(data).full.encode() for (data,) in rows]


def told(outages: Sequence[float]) -> str:
    """The seconds, for a table."""
    median, worst = statistics.median(outages), max(outages)
    return f"{len(outages)} leaders killed; the next block after {median:.1f} s (median), {worst:.1f} s (worst)"
