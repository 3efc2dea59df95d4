"""The federation as one node knows it: the ledger file, the membership records in it, and who is in."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from coterie.data import Dataset
from coterie.errors import NodeError
from coterie.identity import PeerId
from coterie.ledger import LedgerStore, Record
from coterie.network.members import Members
from coterie.protocols.membership import Book, Genesis, Membership
from coterie.protocols.membership.records import KINDS

LEDGER = "ledger.sqlite"


def now_ms() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)


def begin_ledger(folder: Path, genesis: Record, records: Iterable[Record] = ()) -> None:
    """Make a new node's ledger file, with what it knows of the federation."""
    with LedgerStore(folder / LEDGER, genesis.id) as store:
        store.put_record(genesis)
        for record in records:
            store.put_record(record)


class Roster:
    """The store and the book over it. A context manager, or close it when done."""

    def __init__(self, folder: Path, federation: str) -> None:
        """Raises NodeError where the ledger does not hold the genesis record, LedgerError where it cannot be read."""
        self.store = LedgerStore(folder / LEDGER, bytes.fromhex(federation))
        genesis = self.store.record(self.store.genesis)
        if genesis is None:
            self.store.close()
            raise NodeError(
                "the ledger has lost the genesis record",
                where=str(folder / LEDGER),
                remedy="Join again with a new invitation and a new --home; the old key can be succeeded.",
            )
        records = [record for kind in KINDS for record in self.store.records(kind)]
        self.book = Book(genesis, now_ms, self._keep, records)

    def close(self) -> None:
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def genesis(self) -> Genesis:
        return self.book.replay.genesis

    def require_in(self, own: PeerId, home: Path) -> None:
        """Raise NodeError where this peer has left."""
        if own in self.membership.left:
            key = shlex.quote(str(home / "key.pem"))
            raise NodeError(
                "this peer has left the federation",
                where=str(home),
                remedy=f"An invitation lets it in again: coterie federation join INVITATION --home NEW --key {key}. "
                "To tell the members once more: coterie federation leave.",
            )

    def require_layout(self, layout: str, dataset: Dataset) -> None:
        """Raise NodeError where a model with this layout hash, made for ``dataset``, is not the federation's."""
        wanted = self.genesis.layout
        if wanted and layout != wanted.hex():
            raise NodeError(
                f"with the data here, samples of shape {dataset.shape} and {dataset.classes} classes, the spec's model "
                "is another one than the federation's",
                where="node.toml, dataset",
                remedy="All sites must have the same features, in the same order, and the same classes.",
            )

    @property
    def founder(self) -> PeerId:
        """Who has signed the genesis record."""
        return self.book.replay.graph.genesis.author

    @property
    def membership(self) -> Membership:
        return self.book.membership

    @property
    def peers(self) -> tuple[PeerId, ...]:
        """The members in the order of their seats."""
        return tuple(self.membership.members)

    def others(self, own: PeerId) -> list[PeerId]:
        """The members but this one."""
        return [peer for peer in self.peers if peer != own]

    def ever_members(self) -> set[PeerId]:
        """Those whose chains are kept: an auditor wants those of former members too."""
        membership = self.membership
        return {*membership.members, *membership.expelled, *membership.left}

    def numbered(self, count: int) -> tuple[PeerId, ...]:
        """Who takes part, by the numbers of the spec: the first ``count`` seats, or as many as there have been.

        The place of one that is gone without a successor is taken by the next who came after those, if there is one.
        """
        places, members = self.membership.places, self.membership.members
        later = [peer for peer in places[count:] if peer in members]
        return tuple(later.pop(0) if peer not in members and later else peer for peer in places[:count])

    def membership_has(self, peer: PeerId) -> bool:
        """Whether this peer is in, now."""
        return peer in self.membership.members

    def members(self) -> Members:
        """Who may connect."""
        certificates = [held for member in self.membership.members.values() for held in member.certificates]
        return Members.of(self.store.genesis, certificates, self.membership.left)

    def _keep(self, record: Record) -> None:
        self.store.put_record(record)
