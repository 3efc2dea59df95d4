"""Whether a shared chain is what its voters agreed on, found out offline from nothing but its file and a hash.

The hash is the genesis hash: the file must then hold the genesis record and begin with a charter that the same founder
has signed. Or, stronger, the id of the charter or checkpoint that the chain starts from, as an invitation names it.

What is checked, epoch by epoch: the voters follow from the records two epochs before; each proposer is the leader whom
the beacon drew; each block and record is in its one encoding and signed, and follows the one before; each Merkle root
is that of its records; a quorum's signatures make each block final; the proofs of closing blocks are good, and the
beacons follow from them; evidence proves what it says; checkpoints, and where records are said to be, agree with all
that; the file's structure holds together. Nothing in the file is believed, and nothing in it can make the audit fail or
run for ever. Memory grows with the voters, and with the records of one epoch that change them. All values in all
tables are covered. Of the file's own bytes those are not that say nothing: unused pages, unused room within pages, and
counters in SQLite's header.

What cannot be seen: that the chain was longer; that two thirds of some epoch's stake, or who has stolen their keys
since, wrote another chain from there on (compare the last block's id with what others have: it stands for everything
before it); that a founder signed another charter; that what was recorded is true, that joins, their weights and
removals were right; what a leader left out, and whether closing blocks were kept back until a beacon suited somebody.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from coterie.errors import LedgerError, printable
from coterie.identity import PeerId, short_name
from coterie.ledger.auditing import Stop, counted, date, faults, read_mode, require_file, require_structure
from coterie.ledger.formats import connect, require_tables
from coterie.ledger.kinds import Tally
from coterie.ledger.records import Record
from coterie.ledger.shared.chain import CheckedBlock, SharedChain, check_finality
from coterie.ledger.shared.changes import Accusation
from coterie.ledger.shared.charter import Charter, Checkpoint, decode_start, state_of
from coterie.ledger.shared.ledger import Row
from coterie.ledger.shared.signatures import Signatures
from coterie.ledger.shared.tables import SHARED


@dataclass(frozen=True)
class SharedFault:
    """The first thing that is wrong."""

    what: str
    epoch: int | None = None
    """Of the bad block; None outside blocks."""
    height: int | None = None

    @property
    def where(self) -> str:
        return "the file" if self.epoch is None else f"block {self.epoch}.{self.height}"


@dataclass
class SharedAudit:
    """What was verified, and the first fault: the audit stops there."""

    path: Path
    genesis: bytes
    start: Charter | Checkpoint | None = None
    pinned: bool = False
    """Whether the start was named by its id, not only by who signed it."""
    chain: SharedChain | None = None
    """The state after the last verified block."""
    last: CheckedBlock | None = None
    blocks: int = 0
    records: int = 0
    certificates: int = 0
    proposed: dict[PeerId, int] = field(default_factory=dict)
    """By peer: how many final blocks."""
    signed: dict[PeerId, int] = field(default_factory=dict)
    """By peer: how many records."""
    accused: dict[PeerId, int] = field(default_factory=dict)
    """By peer: how many pieces of evidence show that it contradicted itself."""
    changes: dict[str, int] = field(default_factory=dict)
    """Records that may change voters, by kind."""
    tally: Tally = field(default_factory=Tally)
    fault: SharedFault | None = None


Judge: TypeAlias = Callable[[Checkpoint, Record], str]
"""Says what is wrong with a record in an epoch with this state; nothing for a good one."""


def _no_fault(state: Checkpoint, record: Record) -> str:
    return ""


def is_shared(path: Path) -> bool:
    """Whether a file says that it is a shared chain: by SQLite's application id, in its header. Never raises."""
    try:
        with path.open("rb") as file:
            return path.is_file() and file.read(72)[68:] == SHARED.application.to_bytes(4, "big")
    except OSError:
        return False


def audit_shared(path: Path, genesis: bytes, start: bytes | None = None, judge: Judge = _no_fault) -> SharedAudit:
    """Verify the shared chain in ``path`` of the federation with this genesis hash, 32 bytes.

    ``start``: the id of the charter or of the checkpoint that it must begin with; None believes the founder's charter.
    ``judge``: what else must hold of a record in an epoch, such as that a committee is the one that the beacon draws.
    Raises LedgerError for what cannot be audited at all: no file, one that may not be read, a newer version, another
    federation's, another start, or one that nobody vouches for. Everything else that is wrong is the ``fault``.
    """
    if len(genesis) != 32 or len(start or genesis) != 32:
        raise LedgerError("a genesis hash, and the id of a start, has 32 bytes")
    require_file(path)
    result = SharedAudit(path, genesis, pinned=start is not None)
    place: list[tuple[int, int]] = []

    def found(what: str) -> None:
        result.fault = SharedFault(printable(what), *place[0]) if place else SharedFault(printable(what))

    with faults(path, found), closing(connect(path, SHARED, read_mode(path))) as db:
        require_tables(db, path, SHARED, genesis)
        state = _start(db, result, start)
        seen = _Seen(db, state)
        _audit_blocks(db, result, SharedChain.begin(state), seen, place, judge)
        place.clear()
        seen.require_nothing_else()
        require_structure(db)
    return result


def _start(db: sqlite3.Connection, result: SharedAudit, wanted: bytes | None) -> Checkpoint:
    """The state with which the chain begins, once there is a reason to believe it."""
    ((data, founding),) = db.execute("SELECT start, founding FROM federation").fetchall()
    try:
        found = decode_start(_bytes(data))
        record = Record.decode(founding) if _bytes(founding) else None
    except LedgerError as error:
        raise Stop(f"its beginning is no good: {error}") from None
    result.start, state = found, state_of(found)
    if state.genesis != result.genesis or (record is not None and record.id != result.genesis):
        raise Stop("its beginning is not this federation's")
    where = str(result.path)
    if wanted is not None:
        if wanted != found.id:
            raise LedgerError(f"it starts from {found.id.hex()}, not from {wanted.hex()}", where=where)
    elif isinstance(found, Checkpoint):
        raise LedgerError(
            "it starts from a checkpoint, which bears no signature",
            where=where,
            remedy=f"Give --start with the id that the invitation names; the file's is {state.id.hex()}.",
        )
    elif record is None:
        raise LedgerError(
            "it does not hold the genesis record, so who signed its charter may be anybody",
            where=where,
            remedy=f"Give --start with the charter's id, from somebody you trust; the file's is {found.id.hex()}.",
        )
    elif record.author != found.founder:
        raise Stop("its charter is not signed by the federation's founder")
    return state


def _audit_blocks(
    db: sqlite3.Connection,
    result: SharedAudit,
    chain: SharedChain,
    seen: _Seen,
    place: list[tuple[int, int]],
    judge: Judge,
) -> None:
    final, known, waiting = chain, Signatures(), list[CheckedBlock]()
    result.chain = chain
    # the index gives the order: sorting would hold all blocks
    query = "SELECT seq, epoch, height, data FROM blocks INDEXED BY sqlite_autoindex_blocks_1 ORDER BY epoch, height"
    for number, (seq, epoch, height, data) in enumerate(db.execute(query), 1):
        place[:] = [(epoch, height) if type(epoch) is type(height) is int else (chain.state.epoch, chain.height + 1)]
        try:
            row = Row.decode(_bytes(data))
            if (row.full.block.epoch, row.full.block.height, number) != (epoch, height, seq):
                raise Stop("it is filed as another block")
            chain, checked = chain.follow(row.full, known)
            waiting.append(checked._replace(records=()))
            seen.block(checked)
            _count(result, checked)
            for index, record in enumerate(checked.records):
                if fault := judge(final.state, record):
                    raise Stop(f"record {index}: {fault}")
            if row.finality is not None:
                check_finality(final.state, checked.block, row.finality, known)
        except LedgerError as error:
            raise Stop(str(error)) from None
        if row.finality is not None:
            for earlier in waiting:
                block = earlier.block
                result.blocks, result.records = result.blocks + 1, result.records + block.count
                result.proposed[block.proposer] = result.proposed.get(block.proposer, 0) + 1
            result.certificates += 1
            result.chain, result.last, final, waiting = chain, checked, chain, []
        elif chain.state is not final.state:
            raise Stop("nothing makes it final")
        seen.state(chain.state)
    if waiting:
        place[:] = [(waiting[0].block.epoch, waiting[0].block.height)]
        raise Stop("nothing makes it final")


def _count(result: SharedAudit, checked: CheckedBlock) -> None:
    for record in checked.records:
        result.signed[record.author] = result.signed.get(record.author, 0) + 1
        result.tally.add(record)
    for change in checked.changes:
        kind = change.kind
        result.changes[kind] = result.changes.get(kind, 0) + 1
        if isinstance(change.says, Accusation):
            voter = change.says.shown.voter
            result.accused[voter] = result.accused.get(voter, 0) + 1


class _Seen:
    """What the other tables must hold, no more and no less."""

    def __init__(self, db: sqlite3.Connection, start: Checkpoint) -> None:
        self._db, self._state = db, start
        self._places = self._checkpoints = 0
        self._voters: set[bytes] = set()

    def block(self, checked: CheckedBlock) -> None:
        epoch, height = checked.block.epoch, checked.block.height
        query = "SELECT count(*) FROM places WHERE id = ? AND epoch = ? AND height = ? AND position = ?"
        for position, record in enumerate(checked.records):
            if self._number(query, record.id, epoch, height, position) != 1:
                raise Stop("a record is not filed in its place")
        self._places += len(checked.records)

    def state(self, state: Checkpoint) -> None:
        if state is self._state:
            return
        self._state = state
        self._checkpoints += 1
        query = "SELECT count(*) FROM checkpoints WHERE epoch = ? AND data = ?"
        if self._number(query, state.epoch, state.summary) != 1:
            raise Stop(f"the checkpoint of epoch {state.epoch} is not what follows from the blocks")
        query = "SELECT count(*) FROM voters WHERE hash = ? AND data = ?"
        for voters in (state.voters, state.following):
            if voters.hash not in self._voters and self._number(query, voters.hash, voters.encode()) != 1:
                raise Stop(f"the voters of epoch {state.epoch} are not what follows from the blocks")
            self._voters.add(voters.hash)

    def require_nothing_else(self) -> None:
        expected = {"places": self._places, "checkpoints": self._checkpoints, "voters": len(self._voters)}
        for table, number in expected.items():
            if self._number(f"SELECT count(*) FROM {table}") != number:  # noqa: S608 - of the three names above
                raise Stop(f"its {table} are more than follow from the blocks")

    def _number(self, query: str, *values: object) -> int:
        ((number,),) = self._db.execute(query, values).fetchall()
        return int(number)


def describe_shared(result: SharedAudit, vouched: str = "signed by the federation's founder") -> str:
    """An audit in words, for a terminal. ``vouched``: why its start is believed where that was not asked for."""
    fault, chain, last = result.fault, result.chain, result.last
    verdict = "is sound." if fault is None else f"is NOT sound.\nThe first fault is in {fault.where}: {fault.what}."
    lines = [
        f"The shared chain {result.path} of the federation {result.genesis.hex()} {verdict}",
        f"{'Verified' if fault is None else 'Verified before that'}: {counted(result.blocks, 'final block')} with "
        f"{counted(result.records, 'record')} by {counted(result.certificates, 'certificate')}.",
    ]
    if result.start is not None:
        kind = "charter" if isinstance(result.start, Charter) else "checkpoint"
        why = "the one asked for" if result.pinned else vouched
        lines.append(f"It starts from the {kind} {result.start.id.hex()}, {why}.")
    if chain is not None:
        state = chain.state
        lines.append(
            f"It has come to epoch {state.epoch}, with {counted(len(state.voters), 'voter')} of weight "
            f"{state.voters.total:,} in all; beacon {state.beacon.hex()}; checkpoint {state.id.hex()}."
        )
    if last is not None:
        block = last.block
        lines.append(f"The last block is {block.epoch}.{block.height}: {block.id.hex()} of {date(block.time)}.")
    for peer in sorted(result.proposed.keys() | result.signed.keys() | result.accused.keys()):
        line = f"  {short_name(peer)} {peer}: proposed {counted(result.proposed.get(peer, 0), 'block')}, signed "
        line += counted(result.signed.get(peer, 0), "record")
        if peer in result.accused:
            line += f"; shown to have contradicted itself by {counted(result.accused[peer], 'record')}"
        lines.append(line)
    lines += [f"  {kind}: {count:,}" for kind, count in sorted(result.changes.items())]
    lines += result.tally.lines()
    lines.append(
        "A chain that was cut short, or written anew with stolen old keys, would look the same: compare the last "
        "block's id with what other peers have."
    )
    return "\n".join(lines)


def _bytes(data: object) -> bytes:
    if type(data) is not bytes:
        raise Stop("it is no bytes")
    return data
