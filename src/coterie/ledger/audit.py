"""Whether a ledger is what its authors signed, found out offline from nothing but its file and the genesis hash.

What is checked: the genesis record is there and hashes to the genesis hash; each chain begins at it and each block
names the one before; every block and record is in its one encoding and signed; every Merkle root is that of its
records; time does not go back; the file's structure holds together. The file may come from anybody: nothing in it is
believed, and nothing in it can make the audit fail, run for ever or fill the memory, which grows with the number of
peers but not of blocks. Nothing is written to the file.

What cannot be seen: that a chain was longer (compare its head with what another peer has); that what was recorded is
true; and that an author has shown others another chain (``Equivocation``, when the two meet).
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from coterie.errors import LedgerError, printable
from coterie.identity import PeerId, short_name
from coterie.ledger.auditing import Stop, counted, date, faults, read_mode, require_file, require_structure
from coterie.ledger.blocks import Block, FullBlock
from coterie.ledger.chain import BadRecord, extend
from coterie.ledger.formats import connect, require_tables
from coterie.ledger.kinds import Tally
from coterie.ledger.records import Record
from coterie.ledger.tables import GENESIS_KIND, LEDGER


@dataclass(frozen=True)
class Fault:
    """The first thing that is wrong."""

    what: str
    author: PeerId | None = None
    """Whose chain it is in; None outside chains."""
    height: int | None = None
    """Of the bad block, or of the one that could not be read."""
    index: int | None = None
    """Of the bad record: its place in the block, or among loose records; None where the block itself is bad."""

    @property
    def where(self) -> str:
        if self.author is None:
            return "the file" if self.index is None else f"loose record {self.index}"
        record = "" if self.index is None else f", record {self.index}"
        return f"block {self.height} of {self.author}{record}"


@dataclass
class ChainCount:
    """What was verified of one chain."""

    blocks: int = 0
    records: int = 0
    head: Block | None = None


@dataclass
class Audit:
    """What was verified, and the first fault: the audit stops there."""

    path: Path
    genesis: bytes
    chains: dict[PeerId, ChainCount] = field(default_factory=dict)
    """By author."""
    signed: dict[PeerId, int] = field(default_factory=dict)
    """By peer: how many records it has signed, in chains and outside."""
    loose: int = 0
    """Records outside chains."""
    aside: int = 0
    """Blocks that wait for lost ones before them; not verified."""
    tally: Tally = field(default_factory=Tally)
    fault: Fault | None = None

    @property
    def blocks(self) -> int:
        return sum(chain.blocks for chain in self.chains.values())

    @property
    def records(self) -> int:
        """In chains and outside."""
        return sum(self.signed.values())


def audit(path: Path, genesis: bytes) -> Audit:
    """Verify the ledger in ``path`` of the federation with this genesis hash, 32 bytes.

    Raises LedgerError for what cannot be audited at all: no file, one that may not be read, a newer version, another
    federation's. Everything else that is wrong is the result's ``fault``.
    """
    if len(genesis) != 32:
        raise LedgerError(f"a genesis hash has 32 bytes, not {len(genesis)}")
    require_file(path)
    result = Audit(path, genesis)
    place = _Place()

    def found(what: str) -> None:
        result.fault = place.fault(what)

    with faults(path, found), closing(connect(path, LEDGER, read_mode(path))) as db:
        require_tables(db, path, LEDGER, genesis)
        _audit_loose(db, result, place)
        _audit_chains(db, result, place)
        require_structure(db)
        ((result.aside,),) = db.execute("SELECT count(*) FROM aside").fetchall()
    return result


def describe(result: Audit) -> str:
    """An audit in words, for a terminal."""
    fault = result.fault
    verdict = "is sound." if fault is None else f"is NOT sound.\nThe first fault is in {fault.where}: {fault.what}."
    total = (
        f"{counted(result.blocks, 'block')} in {counted(len(result.chains), 'chain')} and "
        f"{counted(result.records, 'record')}, {result.loose} of them outside chains"
    )
    lines = [
        f"The ledger {result.path} of the federation {result.genesis.hex()} {verdict}",
        f"{'Verified' if fault is None else 'Verified before that'}: {total}.",
    ]
    for peer in sorted(result.chains.keys() | result.signed.keys()):
        line = f"  {short_name(peer)} {peer}: signed {counted(result.signed.get(peer, 0), 'record')}"
        chain = result.chains.get(peer)
        if chain is not None and chain.head is not None:
            held = f"{counted(chain.blocks, 'block')} with {counted(chain.records, 'record')}"
            line += f"; a chain of {held}, the last {chain.head.id.hex()} of {date(chain.head.time)}"
        lines.append(line)
    lines += result.tally.lines()
    if result.aside:
        lines.append(f"{counted(result.aside, 'block')} could not be joined to a chain: those before are missing.")
    lines.append("A chain that was cut short would look the same: compare last blocks with what other peers have.")
    return "\n".join(lines)


@dataclass
class _Place:
    """What is being looked at."""

    author: PeerId | None = None
    height: int | None = None
    index: int | None = None

    def fault(self, what: str) -> Fault:
        return Fault(printable(what), self.author, self.height, self.index)


def _audit_loose(db: sqlite3.Connection, result: Audit, place: _Place) -> None:
    before, found = 0, False
    for seq, name, kind, data in db.execute("SELECT seq, id, kind, data FROM loose ORDER BY seq"):
        place.index = result.loose
        if seq <= before:
            raise Stop("the file's rows are out of order")
        record = _record(data)
        if (record.id, record.kind) != (name, kind):
            raise Stop("it is filed as another record")
        if record.kind == GENESIS_KIND:
            if record.id != result.genesis:
                raise Stop("a genesis record that is not this federation's")
            found = True
        before = seq
        result.loose += 1
        result.tally.add(record)
        result.signed[record.author] = result.signed.get(record.author, 0) + 1
    place.index = None
    if not found:
        raise Stop("the genesis record is missing")


def _audit_chains(db: sqlite3.Connection, result: Audit, place: _Place) -> None:
    head: Block | None = None
    # the index gives the order: sorting would hold all blocks
    query = "SELECT author, height, data FROM blocks INDEXED BY sqlite_autoindex_blocks_1 ORDER BY author, height"
    for author, height, data in db.execute(query):
        if head is not None and author != head.author:
            head = None
        place.author, place.height, place.index = _name(author), 0 if head is None else head.height + 1, None
        full, block = _block(data)
        if (block.author, block.height) != (author, height):
            raise Stop("it is filed as another block")
        if head is None and block.author in result.chains:
            raise Stop("the file's rows are out of order")
        try:
            records = extend(head, block, full.records, result.genesis)
        except BadRecord as error:
            place.index = error.index
            raise Stop(error.what) from None
        except LedgerError as error:
            raise Stop(error.what) from None
        head = block
        chain = result.chains.setdefault(author, ChainCount())
        chain.blocks, chain.records, chain.head = chain.blocks + 1, chain.records + len(records), block
        for record in records:
            result.tally.add(record)
            result.signed[record.author] = result.signed.get(record.author, 0) + 1
        place.height = block.height + 1
    place.author = place.height = place.index = None


def _record(data: object) -> Record:
    if type(data) is not bytes:
        raise Stop("it is no bytes")
    try:
        return Record.decode(data)
    except LedgerError as error:
        raise Stop(str(error)) from None


def _block(data: object) -> tuple[FullBlock, Block]:
    if type(data) is not bytes:
        raise Stop("it is no bytes")
    try:
        full = FullBlock.decode(data)
        return full, Block.decode(full.block)
    except LedgerError as error:
        raise Stop(str(error)) from None


def _name(author: object) -> PeerId:
    return author if isinstance(author, str) else f"a {type(author).__name__}"
