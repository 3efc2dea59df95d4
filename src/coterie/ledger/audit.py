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
from datetime import UTC, datetime
from pathlib import Path

from coterie.errors import LedgerError
from coterie.identity import PeerId, short_name
from coterie.ledger.blocks import Block, FullBlock
from coterie.ledger.chain import BadRecord, extend
from coterie.ledger.database import FAULTS, Damaged, connect, require_tables, translated
from coterie.ledger.records import Record
from coterie.ledger.tables import GENESIS_KIND, LEDGER

_MOST_WORDS = 400


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
    _require_file(path)
    result = Audit(path, genesis)
    place = _Place()
    try:
        with closing(connect(path, LEDGER, _mode(path))) as db:
            require_tables(db, path, LEDGER, genesis)
            _audit_loose(db, result, place)
            _audit_chains(db, result, place)
            _audit_structure(db, result, place)
    except _Stop as stop:
        result.fault = place.fault(str(stop))
    except Damaged as damaged:
        result.fault = place.fault(damaged.what)
    except FAULTS as error:
        meaning = translated(error, path)
        if not isinstance(meaning, Damaged):
            raise meaning from error
        result.fault = place.fault(meaning.what)
    return result


def describe(result: Audit) -> str:
    """An audit in words, for a terminal."""
    fault = result.fault
    verdict = "is sound." if fault is None else f"is NOT sound.\nThe first fault is in {fault.where}: {fault.what}."
    total = (
        f"{_counted(result.blocks, 'block')} in {_counted(len(result.chains), 'chain')} and "
        f"{_counted(result.records, 'record')}, {result.loose} of them outside chains"
    )
    lines = [
        f"The ledger {result.path} of the federation {result.genesis.hex()} {verdict}",
        f"{'Verified' if fault is None else 'Verified before that'}: {total}.",
    ]
    for peer in sorted(result.chains.keys() | result.signed.keys()):
        line = f"  {short_name(peer)} {peer}: signed {_counted(result.signed.get(peer, 0), 'record')}"
        chain = result.chains.get(peer)
        if chain is not None and chain.head is not None:
            held = f"{_counted(chain.blocks, 'block')} with {_counted(chain.records, 'record')}"
            line += f"; a chain of {held}, the last {chain.head.id.hex()} of {_date(chain.head.time)}"
        lines.append(line)
    if result.aside:
        lines.append(f"{_counted(result.aside, 'block')} could not be joined to a chain: those before are missing.")
    lines.append("A chain that was cut short would look the same: compare last blocks with what other peers have.")
    return "\n".join(lines)


class _Stop(Exception):
    """A fault was found."""


@dataclass
class _Place:
    """What is being looked at."""

    author: PeerId | None = None
    height: int | None = None
    index: int | None = None

    def fault(self, what: str) -> Fault:
        """A message may hold bytes from the file: only what prints is kept of it."""
        plain = "".join(letter if letter.isprintable() else "?" for letter in what[:_MOST_WORDS])
        return Fault(plain, self.author, self.height, self.index)


def _audit_loose(db: sqlite3.Connection, result: Audit, place: _Place) -> None:
    before, found = 0, False
    for seq, name, kind, data in db.execute("SELECT seq, id, kind, data FROM loose ORDER BY seq"):
        place.index = result.loose
        if seq <= before:
            raise _Stop("the file's rows are out of order")
        record = _record(data)
        if (record.id, record.kind) != (name, kind):
            raise _Stop("it is filed as another record")
        if record.kind == GENESIS_KIND:
            if record.id != result.genesis:
                raise _Stop("a genesis record that is not this federation's")
            found = True
        before = seq
        result.loose += 1
        result.signed[record.author] = result.signed.get(record.author, 0) + 1
    place.index = None
    if not found:
        raise _Stop("the genesis record is missing")


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
            raise _Stop("it is filed as another block")
        if head is None and block.author in result.chains:
            raise _Stop("the file's rows are out of order")
        try:
            records = extend(head, block, full.records, result.genesis)
        except BadRecord as error:
            place.index = error.index
            raise _Stop(error.what) from None
        except LedgerError as error:
            raise _Stop(error.what) from None
        head = block
        chain = result.chains.setdefault(author, ChainCount())
        chain.blocks, chain.records, chain.head = chain.blocks + 1, chain.records + len(records), block
        for record in records:
            result.signed[record.author] = result.signed.get(record.author, 0) + 1
        place.height = block.height + 1
    place.author = place.height = place.index = None


def _audit_structure(db: sqlite3.Connection, result: Audit, place: _Place) -> None:
    """What the walk could not see, such as rows that an index leaves out."""
    ((found,),) = db.execute("PRAGMA integrity_check(1)").fetchall()
    if found != "ok":
        raise _Stop(f"its structure is damaged: {found}")
    ((result.aside,),) = db.execute("SELECT count(*) FROM aside").fetchall()


def _record(data: object) -> Record:
    if type(data) is not bytes:
        raise _Stop("it is no bytes")
    try:
        return Record.decode(data)
    except LedgerError as error:
        raise _Stop(str(error)) from None


def _block(data: object) -> tuple[FullBlock, Block]:
    if type(data) is not bytes:
        raise _Stop("it is no bytes")
    try:
        full = FullBlock.decode(data)
        return full, Block.decode(full.block)
    except LedgerError as error:
        raise _Stop(str(error)) from None


def _name(author: object) -> PeerId:
    return author if isinstance(author, str) else f"a {type(author).__name__}"


def _require_file(path: Path) -> None:
    remedy = "Name a ledger, such as ledger.sqlite."
    try:
        if path.exists() and not path.is_file():
            raise LedgerError("not a file", where=str(path), remedy=remedy)
        path.open("rb").close()
    except OSError as error:
        raise LedgerError(f"it cannot be read: {error.strerror or error}", where=str(path), remedy=remedy) from None


def _mode(path: Path) -> str:
    """Without logs beside it nobody has the file open: it is read as it is, in a folder that may be read-only."""
    logs = (path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-shm"))
    return "ro" if any(log.exists() for log in logs) else "ro&immutable=1"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _date(milliseconds: int) -> str:
    """An author may have written any time."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"{milliseconds} ms after 1970"
