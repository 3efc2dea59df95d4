"""The write-ahead log: what a voter has said and knows above the last final block, on disk before it says more.

One value in the peer's store, replaced at once: whatever the crash, the log is whole, or it is not there. A voter whose
log is not there may have said anything; it keeps silent until nothing it can have said matters any more: through the
epoch after the newest that a quorum of the voters knows (``Consensus``). Only ``create`` makes the first log, when a
peer has just made or been given its key.

Meanwhile the voter counts among the silent. Where too many are, as in a group of three by stake, of which all must
agree, the chain stands still for good: keep the log as you keep the key. A log that was put back from a back-up cannot
be told from the real one, except by a certificate that bears an unknown vote of the peer; then it falls silent too.
"""

from __future__ import annotations

import hashlib

import msgspec

from coterie.ledger.encoding import Hash, Height
from coterie.ledger.shared import Certificate, FullSharedBlock, Vote
from coterie.protocols.consensus.simplex import Simplex
from coterie.protocols.consensus.tally import Tally
from coterie.protocols.peer import Store

KEY = "consensus"
_DIGEST = 32


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One height."""

    height: Height
    votes: tuple[Vote, ...]
    certificates: tuple[Certificate, ...]
    own: Hash | None
    """The block that this peer has proposed."""
    blocks: tuple[FullSharedBlock, ...]


class Log(msgspec.Struct, frozen=True, array_like=True):
    """All of it."""

    genesis: Hash
    start: Height
    """The first epoch in which this peer may vote."""
    epoch: Height
    final: Height
    """Height of the last final block in it. What was said up to there is not in the log any more: should the ledger be
    mended and end before, nothing may be said there again."""
    entries: tuple[Entry, ...]


def create(store: Store, genesis: bytes, epoch: int = 0) -> None:
    """Begin the log of a peer that has never voted in this federation, and may from ``epoch`` on.

    To be called once, when the peer is founded or joins, and never to mend a lost log. Raises OutputError.
    """
    write(store, Log(genesis, epoch, epoch, 0, ()))


def write(store: Store, log: Log) -> None:
    """On disk when this returns. Raises OutputError."""
    data = msgspec.msgpack.encode(log)
    store.put_durably(KEY, hashlib.sha256(data).digest() + data)


def read(store: Store, genesis: bytes) -> Log | None:
    """The log; None where there is none, or none of this federation that is as it was written."""
    data = store.get(KEY)
    if not isinstance(data, bytes) or hashlib.sha256(data[_DIGEST:]).digest() != data[:_DIGEST]:
        return None
    try:
        log = _decoder.decode(data[_DIGEST:])
    except (msgspec.MsgspecError, ValueError):
        return None
    return log if log.genesis == genesis else None


def entries(machine: Simplex) -> tuple[Entry, ...]:
    """What a machine must not forget."""
    found = []
    for height in sorted(machine.tallies):
        tally = machine.tallies[height]
        if tally.mine or tally.certificates or tally.own:
            certified = [c.hash for c in tally.certificates.values()] + [vote.hash for vote in tally.mine.values()]
            blocks = tuple(full for name, full in tally.blocks.items() if name in certified or name == tally.own)
            votes, certificates = tuple(tally.mine.values()), tuple(tally.certificates.values())
            found.append(Entry(height, votes, certificates, tally.own, blocks))
    return tuple(found)


def restore(machine: Simplex, log: Log) -> None:
    """Give a machine that has not started what the log holds of its epoch."""
    if log.epoch != machine.state.epoch:
        return
    machine.height, machine.unremembered = max(machine.height, log.final + 1), log.final
    for entry in log.entries:
        if entry.height <= machine.final:
            continue
        tally = machine.tallies[entry.height] = Tally(entry.height, own=entry.own)
        tally.certificates.update((certificate.kind, certificate) for certificate in entry.certificates)
        tally.blocks.update((full.block.id, full) for full in entry.blocks)
        for vote in entry.votes:
            tally.mine[vote.kind] = vote
            if machine.place is not None:
                tally.add(machine.place, vote, machine.state, machine.known)


_decoder = msgspec.msgpack.Decoder(Log)
