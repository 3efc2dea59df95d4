"""The shared chain on a peer's disk.

Durable, crash-safe and mended like a ``LedgerStore``: each call of ``add`` is one transaction, on disk when it returns.
Opening checks the file's structure and verifies the present epoch from its checkpoint on; a file that is not as it was
written is put aside, and what verifies from the chain's start on is kept, up to the first block that is missing: the
rest comes back from other peers. Damage inside older epochs is found by ``audit``, which reads everything.

A voter whose file was mended must not vote from it alone: what it has signed is in consensus's own log.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from coterie.errors import LedgerError
from coterie.ledger.database import Database, loading, open_file
from coterie.ledger.formats import OPEN_AGAIN, PAGE_BYTES, Damaged
from coterie.ledger.pages import last_columns
from coterie.ledger.records import Record, RecordId
from coterie.ledger.salvage import mended
from coterie.ledger.shared import tables
from coterie.ledger.shared.blocks import FullSharedBlock
from coterie.ledger.shared.chain import CheckedBlock, SharedChain, check_finality
from coterie.ledger.shared.charter import Charter, Checkpoint, decode_start, state_of
from coterie.ledger.shared.ledger import MOST_ROW_BYTES, Row, SharedLedger
from coterie.ledger.shared.signatures import Signatures


@dataclass(frozen=True)
class SharedDamage:
    """What was found when a shared chain was opened, and what became of it."""

    what: str
    file: Path
    """Where the damaged file is now."""
    blocks: int
    """Kept."""
    left: int
    """Found in the damaged file, but after one that is missing or no good."""

    def __str__(self) -> str:
        kept = f"the first {self.blocks} blocks are kept, {self.left} others must come back from other peers"
        return f"{self.what}: {kept}. The damaged file is now {self.file}."


class SharedStore(SharedLedger, Database):
    """A shared chain's file, open. One process at a time, and one thread; a context manager."""

    def __init__(
        self,
        path: Path,
        start: Charter | Checkpoint,
        founding: Record | None = None,
        known: Signatures | None = None,
    ) -> None:
        """Open the chain that starts from ``start``, or make it where there is no file.

        ``founding``: the federation's genesis record, kept in a new file so that an auditor who has only the genesis
        hash sees whose word the charter is. Raises LedgerError for a file of another federation, with another start,
        of a newer version or of another program; where another process has it open; where nothing in a damaged one can
        be read; and where the disk says no.
        """
        state = state_of(start)
        Database.__init__(self, path, state.genesis)
        self.damage: SharedDamage | None = None
        """What opening had to mend; None for a sound file."""
        known = known or Signatures()
        row = (self.genesis, start.encode(), founding.encode() if founding else b"")

        def mend(what: str) -> None:
            self.damage = _salvaged(path, row, state, what, known)

        self._db, chain = self._opened(
            lambda: open_file(path, tables.SHARED, row, lambda: _load(path, start, known), mend)
        )
        self._begin(start, chain, known)

    def checkpoint(self, epoch: int) -> Checkpoint | None:
        if epoch == self.chain.state.epoch:
            return self.chain.state
        state = state_of(self.start)
        if epoch == state.epoch:
            return state
        with self._translating(), _as_damage(self.path):
            return tables.read_checkpoint(self._db, epoch)

    def _write(self, rows: Sequence[tuple[Row, CheckedBlock]], state: Checkpoint | None) -> None:
        with self._transaction():
            tables.write_rows(self._db, rows)
            if state is not None:
                tables.write_checkpoint(self._db, state)

    def _rows(self, epoch: int, height: int, limit: int) -> Iterator[Row]:
        query = "SELECT data FROM blocks WHERE epoch = ? AND height > ? ORDER BY height LIMIT ?"
        with self._translating(), _as_damage(self.path):
            for (data,) in self._db.execute(query, (epoch, height, limit)):
                yield Row.decode(data)

    def _place(self, record_id: RecordId) -> tuple[FullSharedBlock, int] | None:
        query = "SELECT data, position FROM places JOIN blocks USING (epoch, height) WHERE id = ? ORDER BY seq LIMIT 1"
        rows = self._read(query, (record_id,))
        if not rows:
            return None
        with _as_damage(self.path):
            full, index = Row.decode(rows[0][0]).full, rows[0][1]
            if index not in range(len(full.records)) or Record.decode(full.records[index]).id != record_id:
                raise LedgerError("a record is not in its place")
        return full, index


def _load(path: Path, start: Charter | Checkpoint, known: Signatures) -> tuple[sqlite3.Connection, SharedChain]:
    """Connect and check. Raises Damaged for a file that is not as it was written."""
    with loading(path, tables.SHARED, state_of(start).genesis) as db:
        _require_start(db, path, start)
        with _as_damage(path):
            return db, _present(db, state_of(start), known)


def _require_start(db: sqlite3.Connection, path: Path, start: Charter | Checkpoint) -> None:
    ((data, founding),) = db.execute("SELECT start, founding FROM federation").fetchall()
    if data != start.encode():
        with _as_damage(path):
            found = decode_start(data)
        raise LedgerError(
            f"this chain starts from {state_of(found).id.hex()[:16]}, not from {state_of(start).id.hex()[:16]}",
            where=str(path),
            remedy="Each start has a file of its own.",
        )
    with _as_damage(path):
        if founding and Record.decode(founding).id != state_of(start).genesis:
            raise LedgerError("the genesis record is another federation's")


def _present(db: sqlite3.Connection, state: Checkpoint, known: Signatures) -> SharedChain:
    """The chain's state, the present epoch verified. Raises LedgerError."""
    query = "SELECT min(epoch), max(epoch), count(*) FROM checkpoints"
    first, latest, number = db.execute(query).fetchone()
    if number:
        if first != state.epoch + 1 or latest != state.epoch + number:
            raise LedgerError("a checkpoint is missing")
        query = "SELECT data FROM blocks WHERE epoch = ? ORDER BY height DESC LIMIT 1"
        closing = db.execute(query, (latest - 1,)).fetchone()
        found = tables.read_checkpoint(db, latest)
        if found is None or closing is None or Row.decode(closing[0]).full.block.id != found.anchor:
            raise LedgerError(f"the block that closed epoch {latest - 1} is not in its place")
        state = found
    rows = db.execute("SELECT data FROM blocks WHERE epoch >= ? ORDER BY epoch, height", (state.epoch,))
    chain = SharedChain.begin(state)
    waiting: list[FullSharedBlock] = []
    for (data,) in rows:
        row = Row.decode(data)
        waiting.append(row.full)
        if row.finality is not None:
            chain, _ = chain.extend(waiting, row.finality, known)
            waiting = []
    if waiting or chain.state is not state:
        raise LedgerError("the last blocks are not those that were written")
    return chain


def _salvaged(
    path: Path, founding: tuple[bytes, bytes, bytes], state: Checkpoint, what: str, known: Signatures
) -> SharedDamage:
    """Put a sound file in the place of a damaged one. Raises as ``salvage`` does."""

    def fill(db: sqlite3.Connection) -> tuple[int, ...]:
        return _gather(db, path, state.genesis), _rebuild(db, state, known)

    (found, blocks), kept = mended(path, tables.SHARED, founding, what, fill)
    return SharedDamage(what, kept, blocks, found - blocks)


def _gather(db: sqlite3.Connection, path: Path, genesis: bytes) -> int:
    """What may be a final block of this federation, into a table that nobody else sees. Returns how many there are."""
    db.execute("CREATE TEMP TABLE found (epoch, height, id, final, data, PRIMARY KEY (epoch, height, id, final))")
    for _, data in last_columns(path, PAGE_BYTES, MOST_ROW_BYTES + 256):
        with suppress(LedgerError):
            row = Row.decode(data)
            block = row.full.block
            if block.genesis == genesis:
                values = (block.epoch, block.height, block.id, row.finality is not None, data)
                db.execute("INSERT OR IGNORE INTO found VALUES (?, ?, ?, ?, ?)", values)
    ((number,),) = db.execute("SELECT count(*) FROM found").fetchall()
    return int(number)


def _rebuild(db: sqlite3.Connection, state: Checkpoint, known: Signatures) -> int:
    """The chain from the blocks found, to the first that is missing. Returns how many blocks it has."""
    chain, kept = SharedChain.begin(state), 0
    ahead, waiting = chain, list[tuple[Row, CheckedBlock]]()
    for (data,) in db.execute("SELECT data FROM found ORDER BY epoch, height, id, final"):
        row = Row.decode(data)
        try:
            ahead, checked = ahead.follow(row.full, known)
        except LedgerError:
            continue  # old, double, or after a gap
        waiting.append((Row(row.full, None), checked))
        if row.finality is None:
            continue
        try:
            check_finality(chain.state, checked.block, row.finality, known)
        except LedgerError:
            continue  # a later one may be sound
        waiting[-1] = (row, checked)
        tables.write_rows(db, waiting)
        if ahead.state is not chain.state:
            tables.write_checkpoint(db, ahead.state)
        kept += len(waiting)
        chain, waiting = ahead, []
    return kept


@contextmanager
def _as_damage(path: Path) -> Iterator[None]:
    """What does not decode, or does not fit, in a file is damage to it."""
    try:
        yield
    except (LedgerError, TypeError) as fault:
        raise Damaged(str(fault), where=str(path), remedy=OPEN_AGAIN) from None
