"""Members keep each other's chains: over a network in memory, with stores on disk."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from coterie.identity import Identity
from coterie.ledger import Equivocation, Head, LedgerStore, NullLedger, PeerLedger, Record, Request, audit
from coterie.network import Codec, Frame
from coterie.protocols import Peer
from coterie.runtime.node import chains
from coterie.runtime.node.chains import ChainAsk, ChainBlocks, ChainHeads, Chains
from coterie.runtime.node.newcomer import Refusals, new_peer

GENESIS = Record.make(Identity.from_seed(bytes([9] * 32)), "genesis", {"a": 1}, (), 1)


@dataclass
class Site:
    """A node reduced to its chains."""

    number: int
    folder: Path
    wire: dict[str, Peer]
    bytes_sent: int = 0
    members: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.identity = Identity.from_seed(bytes([self.number] * 32))
        self.path = self.folder / f"{self.number}.sqlite"
        self.open()

    def open(self) -> None:
        self.store = LedgerStore(self.path, GENESIS.id)
        self.store.put_record(GENESIS)
        self.own = PeerLedger(self.identity, self.store)
        self.peer = new_peer(self.identity.id, self, NullLedger(), Refusals())
        self.chains = Chains(self.peer, self.store, self.own, lambda: self.members)
        self.wire[self.identity.id] = self.peer

    def post(self, to: str, frame: Frame, failed: Callable[[], None]) -> None:
        again = Codec().encode(Codec().parse(b"".join(bytes(piece) for piece in frame.chunks())))
        asyncio.get_running_loop().call_soon(self.wire[to].receive, self.identity.id, again)

    @property
    def height(self) -> int:
        head = self.own.head
        return -1 if head is None else head.height

    @property
    def refused(self) -> int:
        return sum(self.peer.metrics.refused.values())  # type: ignore[attr-defined]


def run(folder: Path, work: Callable[..., Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        wire: dict[str, Peer] = {}
        sites = [Site(number, folder, wire) for number in (1, 2, 3)]
        for site in sites:
            site.members = {one.identity.id for one in sites}
        try:
            await asyncio.wait_for(work(*sites), 30)
        finally:
            for site in sites:
                site.store.close()

    asyncio.run(main())


def test_chains_come_to_those_who_ask(tmp_path: Path) -> None:
    async def work(ann: Site, bob: Site, cyd: Site) -> None:
        for number in range(5):
            ann.own.append("model", {"round": number})
        bob.own.append("model", {"round": 0})
        await bob.chains.pull(ann.identity.id)
        await cyd.chains.pull(bob.identity.id)
        for site in (bob, cyd):
            head = site.store.head(ann.identity.id)
            assert head is not None
            assert head.height == 4
        ann.own.append("model", {"round": 5})
        assert await cyd.chains.confirms(ann.identity.id, "model", {"round": 5})
        assert not await cyd.chains.confirms(ann.identity.id, "model", {"round": 6})
        assert not await cyd.chains.confirms(bob.identity.id, "model", {"round": 5})
        assert audit(cyd.path, GENESIS.id).fault is None
        assert audit(cyd.path, GENESIS.id).blocks == 7

    run(tmp_path, work)


def test_a_full_disk_here_is_not_the_others_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def work(ann: Site, bob: Site, cyd: Site) -> None:
        pages = bob.store._db.execute("PRAGMA page_count").fetchone()[0]
        bob.store._db.execute(f"PRAGMA max_page_count = {pages}")  # SQLite says that the disk is full
        for number in range(200):
            ann.own.append("model", {"round": number})
        for _ in range(3):
            await bob.chains.pull(ann.identity.id)
        assert bob.refused == 0
        assert sum("no room is left" in line for line in caplog.messages) == 1, "it is said once"
        bob.store._db.execute("PRAGMA max_page_count = 10000")
        await bob.chains.pull(ann.identity.id)
        head = bob.store.head(ann.identity.id)
        assert head is not None
        assert head.height == 199
        pages = bob.store._db.execute("PRAGMA page_count").fetchone()[0]
        bob.store._db.execute(f"PRAGMA max_page_count = {pages}")
        for number in range(200, 400):
            ann.own.append("model", {"round": number})
        await bob.chains.pull(ann.identity.id)
        assert sum("no room is left" in line for line in caplog.messages) == 2, "and again when it is full again"

    run(tmp_path, work)


def test_a_node_that_lost_the_end_of_its_chain_gets_it_back(tmp_path: Path) -> None:
    async def work(ann: Site, bob: Site, cyd: Site) -> None:
        ann.own.append("model", {"round": 0})
        ann.store.close()
        shutil.copy(ann.path, tmp_path / "older")
        ann.open()
        for number in range(1, 4):
            ann.own.append("model", {"round": number})
        await bob.chains.pull(ann.identity.id)
        ann.store.close()
        for path in tmp_path.glob("1.sqlite*"):
            path.unlink()
        shutil.copy(tmp_path / "older", ann.path)
        ann.open()
        assert ann.height == 0
        await ann.chains.recover([bob.identity.id, cyd.identity.id])
        assert ann.height == 3
        ann.own.append("model", {"round": 4})
        await bob.chains.pull(ann.identity.id)
        assert bob.own.head is None  # nothing to record: no contradiction

    run(tmp_path, work)


def test_two_blocks_for_one_height_are_recorded(tmp_path: Path) -> None:
    async def work(ann: Site, bob: Site, cyd: Site) -> None:
        ann.own.append("model", {"round": 0})
        await bob.chains.pull(ann.identity.id)
        with LedgerStore(tmp_path / "twin", GENESIS.id) as twin:
            PeerLedger(ann.identity, twin).append("model", {"round": 99})
            await cyd.chains.pull(cyd.identity.id)
            cyd.store.receive(twin.blocks(ann.identity.id), {ann.identity.id})
        await bob.chains.recover([cyd.identity.id])
        await bob.chains.pull(cyd.identity.id)
        head = bob.own.head
        assert head is not None
        assert head.height == 0  # once, however often it is seen
        (full,) = bob.store.blocks(bob.identity.id)
        content = Record.decode(full.records[0]).content
        assert content["author"] == ann.identity.id
        assert Equivocation.decode(bytes.fromhex(content["evidence"])).author == ann.identity.id

    run(tmp_path, work)


def test_a_node_that_lost_the_end_of_its_chain_accuses_nobody_before_it_is_back(tmp_path: Path) -> None:
    """A liar that shows two blocks of its own would else have it sign a second block for a height."""

    async def work(ann: Site, bob: Site, cyd: Site) -> None:
        ann.own.append("model", {"round": 0})
        await cyd.chains.pull(ann.identity.id)
        bob.own.append("model", {"round": 0})
        await ann.chains.pull(bob.identity.id)
        ann.store.close()
        for path in tmp_path.glob("1.sqlite*"):
            path.unlink()
        ann.open()
        ann.store.receive(bob.store.blocks(bob.identity.id), {bob.identity.id})
        with LedgerStore(tmp_path / "twin", GENESIS.id) as twin:
            PeerLedger(bob.identity, twin).append("model", {"round": 99})
            both = bob.store.blocks(bob.identity.id) + twin.blocks(bob.identity.id)
        bob.peer.handle(chains.ChainHeadsAsk, lambda *_: ChainHeads({bob.identity.id: Head(1, bytes(32))}))
        bob.peer.handle(ChainAsk, lambda *_: ChainBlocks(tuple(both)))
        await ann.chains.pull(bob.identity.id)
        assert ann.height == -1
        await ann.chains.recover([cyd.identity.id])
        kinds = [Record.decode(full.records[0]).kind for full in ann.store.blocks(ann.identity.id)]
        assert kinds == ["model", "equivocation"]

    run(tmp_path, work)


def test_junk_is_refused_and_counted(tmp_path: Path) -> None:
    async def work(ann: Site, bob: Site, cyd: Site) -> None:
        ann.own.append("model", {"round": 0})
        (good,) = ann.store.blocks(ann.identity.id)
        from coterie.ledger import FullBlock
        from coterie.runtime.node.chains import ChainHeadsAsk

        ann.peer.handle(ChainHeadsAsk, lambda *_: ChainHeads(ann.store.heads()))
        for block in (FullBlock(b"junk", (b"x",)), FullBlock(good.block, (b"junk",)), FullBlock(good.block, ())):
            ann.peer.handle(ChainAsk, lambda *_, block=block: ChainBlocks((block,)))
            await bob.chains.pull(ann.identity.id)
            assert bob.store.head(ann.identity.id) is None
        assert bob.refused == 3
        bob.members.discard(ann.identity.id)
        bob.chains._members = lambda: {bob.identity.id}  # type: ignore[method-assign]
        before = bob.refused
        await ann.peer.ask_all([bob.identity.id], ChainHeadsAsk(), 0.2)
        assert bob.refused == before + 1  # a stranger asks

    run(tmp_path, work)


def test_so_much_of_anothers_chain_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a member signs costs it little; it must not fill the disks of all others."""
    monkeypatch.setattr(chains, "MOST_CHAIN_BYTES", 2_000_000)

    async def work(ann: Site, bob: Site, cyd: Site) -> None:
        for _ in range(60):
            ann.own.append("model", {"junk": "x" * 60_000})
        cyd.own.append("model", {"round": 0})
        for _ in range(2):
            for other in (ann, cyd):
                await bob.chains.pull(other.identity.id)
            head = bob.store.head(ann.identity.id)
            assert head is not None
            assert 33 <= head.height <= 33 + 12, "it stops within one answer"
            assert bob.store.head(cyd.identity.id) == cyd.own.head
            bob.store.close()
            bob.open()
        await ann.chains.recover([bob.identity.id])
        ann.own.append("model", {"round": 1})
        assert ann.height == 60, "its own is its own affair"
        assert not bob.refused

    run(tmp_path, work)


def test_a_member_that_asks_all_the_time_is_not_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chains, "_BURST", 10.0)

    async def work(ann: Site, bob: Site, cyd: Site) -> None:
        ask = ChainAsk(Request(ann.identity.id, 0, 1))
        answers = await asyncio.gather(*(ann.peer.ask_all([bob.identity.id], ask, 0.5) for _ in range(100)))
        assert 10 <= sum(answer is not None for (answer,) in answers) <= 30
        assert await cyd.peer.ask_all([bob.identity.id], ask, 5) != [None]

    run(tmp_path, work)
