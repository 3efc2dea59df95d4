"""The ledger of one federation on one peer's disk: chains of several authors, and records outside chains.

Durable: a call that adds something returns once it is on disk (WAL, synchronous=FULL), and each is one transaction. A
process killed at any moment, or a disk that is full, leaves what was added before. A file that was damaged from outside
(torn or overwritten pages) is noticed on opening: the whole structure, the last blocks of each chain and all loose
records are checked. Then what verifies is kept and the damaged file put aside (``salvage``); ``damage`` says so. Damage
inside older blocks is found by ``audit``, which reads everything.

Not protected: whoever may write the file can cut chains short, which nobody can tell from a chain that ends there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from coterie.errors import LedgerError
from coterie.identity import PeerId
from coterie.ledger import merkle, tables
from coterie.ledger.blocks import Block, FullBlock, Proof
from coterie.ledger.catchup import MOST_BATCH_BLOCKS, MOST_BATCH_BYTES, Head, Received, take
from coterie.ledger.chain import extend
from coterie.ledger.database import Database
from coterie.ledger.formats import OPEN_AGAIN, Damaged
from coterie.ledger.opening import open_ledger
from coterie.ledger.records import Record, RecordId


class LedgerStore(Database):
    """A ledger file, open. One process at a time, and one thread; a context manager."""

    def __init__(self, path: Path, genesis: bytes) -> None:
        """Open the ledger of the federation with this genesis hash (32 bytes), or make one where there is no file.

        Raises LedgerError for a file of another federation, of a newer version or of another program; where another
        process has it open; where nothing in a damaged one can be read; and where the disk says no.
        """
        super().__init__(path, genesis)
        opened = self._opened(lambda: open_ledger(path, genesis))
        self.damage = opened.damage
        """What opening had to mend; None for a sound file."""
        self._db, self._heads, self._aside = opened.db, opened.heads, opened.aside
        sizes = self._read("SELECT author, sum(length(data)) FROM blocks GROUP BY author", ())
        self._nbytes: Counter[PeerId] = Counter(dict(sizes))
        for author in sorted(self._heads.keys() & self._aside.keys()):
            with suppress(LedgerError):  # the disk is full: they wait on
                self._join(author)

    # chains

    def head(self, author: PeerId) -> Block | None:
        """The last block of a chain."""
        return self._heads.get(author)

    def heads(self) -> dict[PeerId, Head]:
        """How far each chain goes, for ``catchup.requests``; by author."""
        return {author: Head(block.height, block.id) for author, block in sorted(self._heads.items())}

    def nbytes(self, author: PeerId) -> int:
        """About how many bytes a chain takes here."""
        return self._nbytes[author]

    def block(self, author: PeerId, height: int) -> Block | None:
        """One block, without its records."""
        rows = self._read("SELECT data FROM blocks WHERE author = ? AND height = ?", (author, height))
        return Block.decode(FullBlock.decode(rows[0][0]).block) if rows else None

    def blocks(self, author: PeerId, start: int = 0, limit: int = MOST_BATCH_BLOCKS) -> list[FullBlock]:
        """Blocks of a chain from height ``start``: at most ``limit``, and as many as fit into one message."""
        found: list[FullBlock] = []
        room = MOST_BATCH_BYTES
        query = "SELECT data FROM blocks WHERE author = ? AND height >= ? ORDER BY height LIMIT ?"
        with self._translating():
            for (data,) in self._db.execute(query, (author, start, max(0, min(limit, MOST_BATCH_BLOCKS)))):
                room -= len(data)
                if room < 0 and found:
                    break
                found.append(FullBlock.decode(data))
        return found

    def append(self, full: FullBlock) -> Block:
        """Add a block at the end of its author's chain, checked. Raises LedgerError; nothing is then added."""
        block = Block.decode(full.block)
        records = extend(self.head(block.author), block, full.records, self.genesis)
        self._add([(block, records, full)])
        return block

    def receive(self, blocks: Sequence[FullBlock], members: Collection[PeerId]) -> Received:
        """Add blocks that another peer sent: all of them, or none where one is bad.

        Blocks that are here already are passed over. ``members`` are those whose chains are kept, former members
        included. Raises LedgerError for a block that is no good, not a member's, out of order, or too many of them:
        the sender's fault. Two different blocks of an author are not the sender's fault but ``evidence``.
        """
        batch = take(self, blocks, self.genesis, members)
        self._add(batch.blocks)
        return Received(len(batch.blocks), batch.evidence)

    def awaited(self, author: PeerId) -> int | None:
        """Height of the last block known of this chain, if some before it are missing here."""
        return self._aside.get(author)

    # records

    def put_record(self, record: Record) -> bool:
        """Keep a record outside any chain, such as one of membership, checked; False if it is kept already."""
        record.check()
        if record.kind == tables.GENESIS_KIND and record.id != self.genesis:
            raise LedgerError("the genesis record of another federation", where=record.where)
        with self._transaction():
            return tables.write_loose(self._db, record)

    def records(self, kind: str) -> list[Record]:
        """Records of a kind outside chains, in order of arrival."""
        rows = self._read("SELECT data FROM loose WHERE kind = ? ORDER BY seq", (kind,))
        return [Record.decode(data) for (data,) in rows]

    def record(self, record_id: RecordId) -> Record | None:
        """A record in a chain or outside, by its id."""
        rows = self._read("SELECT data FROM loose WHERE id = ?", (record_id,))
        if rows:
            return Record.decode(rows[0][0])
        place = self._place(record_id)
        return Record.decode(place[0].records[place[1]]) if place else None

    def proof(self, record_id: RecordId) -> Proof:
        """That a record is in a block. Raises LedgerError for one that is in none."""
        place = self._place(record_id)
        if place is None:
            raise LedgerError(f"record {record_id.hex()[:16]} is in no block here", where=str(self.path))
        full, index = place
        return Proof(Block.decode(full.block), index, tuple(merkle.proof(full.records, index)))

    # inside

    def _place(self, record_id: RecordId) -> tuple[FullBlock, int] | None:
        """The block a record is in, and where in it; the first one, if it is in several."""
        query = "SELECT data, position FROM places JOIN blocks ON seq = block WHERE id = ? ORDER BY block LIMIT 1"
        rows = self._read(query, (record_id,))
        if not rows:
            return None
        full, index = FullBlock.decode(rows[0][0]), rows[0][1]
        if index not in range(len(full.records)) or Record.decode(full.records[index]).id != record_id:
            raise Damaged("a record is not in its place", where=str(self.path), remedy=OPEN_AGAIN)
        return full, index

    def _add(self, blocks: Sequence[tuple[Block, tuple[Record, ...], FullBlock]]) -> None:
        """Add checked blocks in one transaction; then join those that have waited for them."""
        with self._transaction():
            for block, records, full in blocks:
                tables.write_block(self._db, block, records, full)
        for block, _, full in blocks:
            self._heads[block.author] = block
            self._nbytes[block.author] += full.nbytes
        for author in sorted({block.author for block, _, _ in blocks} & self._aside.keys()):
            with suppress(LedgerError):  # these are added all the same; the others are joined on opening, at the latest
                self._join(author)

    def _join(self, author: PeerId) -> None:
        """Move blocks from aside into the chain while they follow its head."""
        while author in self._aside:
            head = self._heads[author]
            rows = self._read("SELECT data FROM aside WHERE author = ? AND height = ?", (author, head.height + 1))
            if rows and (found := self._follower(head, FullBlock.decode(rows[0][0]))):
                with self._transaction():
                    tables.write_block(self._db, *found)
                self._heads[author] = head = found[0]
                self._nbytes[author] += found[2].nbytes
            elif self._aside[author] > head.height:
                return
            if self._aside[author] <= head.height:
                with self._transaction():
                    self._db.execute("DELETE FROM aside WHERE author = ?", (author,))
                del self._aside[author]

    def _follower(self, head: Block, full: FullBlock) -> tuple[Block, tuple[Record, ...], FullBlock] | None:
        """The block, if it follows ``head``; one kept without its records goes on waiting for them."""
        with suppress(LedgerError):
            block = Block.decode(full.block)
            return block, extend(head, block, full.records, self.genesis), full
        return None
