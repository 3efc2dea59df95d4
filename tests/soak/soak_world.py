"""Six real nodes, what all their ledgers hold together, and damage to a stopped node's files."""

from __future__ import annotations

import sqlite3
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from real_nodes import Federation, federation, wait_until

from coterie.identity import PeerId
from coterie.ledger import FullBlock, LedgerStore, Record, audit
from coterie.runtime.node.processes import NodeProcess

SECONDS = 300.0
"""For six nodes on a busy machine to be done."""
Chains = Mapping[PeerId, list[bytes]]
"""By author: the bytes of its blocks, from height 0."""


@contextmanager
def six(folder: Path, rounds: int) -> Iterator[Federation]:
    sets = {"federation.peers": 6, "federation.rounds": rounds, "training.local_steps": 100}
    with federation(folder, **sets) as made:
        yield made


def pace_of_six(folder: Path) -> float:
    """Seconds a round, measured over twenty."""
    with six(folder, 25) as made:
        made.start()
        made.wait_for_round(made.nodes[0], 2)
        began = time.monotonic()
        made.wait_for_round(made.nodes[0], 22)
        return (time.monotonic() - began) / 20


def chains(node: NodeProcess) -> Chains:
    """What its ledger file holds now, read by SQLite alone. The node may be at work."""
    found: dict[PeerId, list[bytes]] = {}
    with closing(sqlite3.connect(f"file:{node.home.path / 'ledger.sqlite'}?mode=ro", uri=True)) as db:
        for author, height, data in db.execute("SELECT author, height, data FROM blocks ORDER BY author, height"):
            assert height == len(found.setdefault(author, []))
            found[author].append(data)
    return found


def held(made: Federation, without: NodeProcess | None = None) -> Chains:
    """The longest copy of each chain that any node holds."""
    longest: dict[PeerId, list[bytes]] = {}
    for node in made.nodes:
        if node is not without:
            for author, blocks in chains(node).items():
                longest[author] = max(longest.get(author, []), blocks, key=len)
    return longest


def finish(made: Federation, before: Chains) -> dict[PeerId, list[int]]:
    """Wait until all are done, stop them, and audit: the rounds that each has signed a record of, in order.

    Every ledger is sound; every copy of a chain agrees with its author's own; what was in any ledger ``before`` is
    still in its author's.
    """
    end = time.monotonic() + SECONDS
    for node in made.nodes:
        wait_until(f"{node.name} is done", lambda node=node: made.done(node), end - time.monotonic())
    assert min(made.accuracy(node) for node in made.nodes) > 0.6
    made.stop()
    kept = {node.peer: audited(node) for node in made.nodes}
    own = {peer: copies[peer] for peer, copies in kept.items()}
    for copies in (*kept.values(), before):
        for author, blocks in copies.items():
            assert blocks == own[author][: len(blocks)]
    return {peer: [record.content["round"] for record in records(blocks)] for peer, blocks in own.items()}


def audited(node: NodeProcess) -> Chains:
    """A stopped node's ledger, after an audit."""
    path, genesis = node.home.path / "ledger.sqlite", bytes.fromhex(node.home.table.federation)
    found = audit(path, genesis)
    assert found.fault is None, found.fault
    with LedgerStore(path, genesis) as store:
        assert store.damage is None
    return chains(node)


def records(blocks: list[bytes]) -> Iterator[Record]:
    for data in blocks:
        yield from map(Record.decode, FullBlock.decode(data).records)


def tear_log(node: NodeProcess) -> None:
    """Cut the last page off what a killed node's ledger last wrote: its write-ahead log (sqlite.org/fileformat2,
    section 4: a header of 32 bytes, then frames of 24 bytes and a page; those with the header's salts count)."""
    path = node.home.path / "ledger.sqlite-wal"
    log = path.read_bytes()
    page, salts = struct.unpack_from(">I", log, 8)[0], log[16:24]
    frames = [at for at in range(32, len(log) - page - 23, 24 + page) if log[at + 8 : at + 16] == salts]
    path.write_bytes(log[: frames[-1]])


def tear_file(node: NodeProcess) -> None:
    """Cut the last page off a killed node's ledger file, with everything in it that the log held."""
    path = node.home.path / "ledger.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path.write_bytes(path.read_bytes()[:-4096])


def tear_state(node: NodeProcess) -> None:
    """Cut the last page off what its protocol keeps."""
    path = node.home.path / "state" / "gossip.state"
    path.write_bytes(path.read_bytes()[:-4096])
