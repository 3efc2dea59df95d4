"""A node's shared chain: founded by one, believed by its signature, its log begun once. Over a network in memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from coterie.errors import LedgerError, OutputError
from coterie.identity import Identity
from coterie.identity.vrf import VrfKey
from coterie.ledger import LedgerStore, PeerLedger, Record
from coterie.ledger.shared import (
    Certificate,
    Charter,
    Finality,
    FullSharedBlock,
    QuorumRule,
    SharedBlock,
    SharedStore,
    Vote,
    audit_shared,
    closing_alpha,
)
from coterie.network import Codec, Frame
from coterie.protocols import Peer
from coterie.protocols.consensus import ChainTerms, log
from coterie.runtime.node.chain_start import (
    START,
    CharterAsk,
    CharterText,
    CheckpointAsk,
    CheckpointText,
    VoterAsk,
    VoterKey,
    save_pin,
)
from coterie.runtime.node.newcomer import Refusals, new_peer
from coterie.runtime.node.shared import FILE, NodeChain

FOUNDER = Identity.from_seed(bytes([1] * 32))
GENESIS = Record.make(FOUNDER, "genesis", {"a": 1}, (), 1)
IDS = [Identity.from_seed(bytes([number] * 32)).id for number in range(1, 5)]


class Disk:
    """A store that is a dictionary."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.full = False

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def put_durably(self, key: str, value: Any) -> None:
        if self.full:
            raise OutputError("no room")
        self.values[key] = value


class Node:
    """A node reduced to its shared chain."""

    def __init__(self, number: int, folder: Path, wire: dict[str, Peer]) -> None:
        self.identity, self.folder, self.wire = Identity.from_seed(bytes([number] * 32)), folder / str(number), wire
        self.folder.mkdir(exist_ok=True)
        self.disk, self.bytes_sent, self.said = Disk(), 0, list[str]()
        self.start()

    def start(self) -> None:
        """Its process begins, again."""
        self.store = LedgerStore(self.folder / "ledger.sqlite", GENESIS.id)
        self.store.put_record(GENESIS)
        self.peer = new_peer(self.identity.id, self, PeerLedger(self.identity, self.store), Refusals())  # type: ignore[arg-type]
        self.peer.identity, self.peer.store, self.peer.members = self.identity, self.disk, IDS  # type: ignore[assignment]
        members: Any = SimpleNamespace(
            founder=FOUNDER.id,
            store=self.store,
            others=lambda own: [peer for peer in IDS if peer != own],
            membership_has=lambda peer: peer in IDS,
        )
        self.chain = NodeChain(self.folder, members, self.peer, self._say)
        self.wire[self.identity.id] = self.peer

    def stop(self) -> None:
        self.wire.pop(self.identity.id, None)
        self.chain.close()
        self.store.close()

    async def _say(self, what: str, silent: Sequence[str]) -> None:
        self.said.append(what)

    def post(self, to: str, frame: Frame, failed: Callable[[], None]) -> None:
        again = Codec().encode(Codec().parse(b"".join(bytes(piece) for piece in frame.chunks())))
        loop = asyncio.get_running_loop()
        if to in self.wire:
            loop.call_soon(self.wire[to].receive, self.identity.id, again)
        else:
            loop.call_soon(failed)

    @property
    def refused(self) -> dict[str, int]:
        return self.peer.metrics.refused  # type: ignore[attr-defined,no-any-return]


def run(folder: Path, work: Callable[..., Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        wire: dict[str, Peer] = {}
        nodes = [Node(number, folder, wire) for number in range(1, 5)]
        try:
            await asyncio.wait_for(work(*nodes), 30)
        finally:
            for node in nodes:
                node.stop()

    asyncio.run(main())


async def opened(*nodes: Node, terms: ChainTerms | None = None) -> list[Any]:
    return await asyncio.gather(*(node.chain.open(terms or ChainTerms()) for node in nodes))


def test_all_get_the_founders_charter(tmp_path: Path) -> None:
    async def work(*nodes: Node) -> None:
        terms = ChainTerms(QuorumRule("two thirds", 3), 9, dict(zip(IDS, (4, 3, 2, 1), strict=True)))
        places = await opened(*nodes, terms=terms)
        charters = {place.ledger.start.encode() for place in places}
        assert len(charters) == 1
        charter = Charter.decode(charters.pop())
        assert (charter.founder, charter.genesis, charter.rule, charter.lock_epochs) == (
            FOUNDER.id,
            GENESIS.id,
            terms.rule,
            9,
        )
        told = {voter.key: (voter.weight, voter.vrf) for voter in charter.voters.members}
        weights = terms.weights or {}
        assert told == {
            node.identity.id: (weights[node.identity.id], VrfKey.of(node.identity, GENESIS.id).public) for node in nodes
        }
        assert all(place.key_of(IDS[2]) == IDS[2] == place.peer_of(IDS[2]) for place in places)
        assert places[0].key_of("ab" * 32) is None
        assert await nodes[1].chain.open(terms) is places[1]
        status = nodes[3].chain.status
        assert status is not None
        assert (status["start"], status["epoch"], status["final"]) == (charter.id.hex(), 0, 0)
        nodes[2].stop()
        assert audit_shared(nodes[2].folder / FILE, GENESIS.id).fault is None, "the genesis record is in it"

    run(tmp_path, work)


def test_the_founder_waits_for_all_keys_and_the_others_for_the_founder(tmp_path: Path) -> None:
    async def work(founder: Node, ann: Node, bob: Node, late: Node) -> None:
        late.stop()
        waiting = asyncio.ensure_future(opened(founder, ann, bob))
        while not (founder.said and ann.said):
            await asyncio.sleep(0.01)
        assert not waiting.done()
        assert "keys" in founder.said[0]
        assert "founder" in ann.said[0]
        late.start()
        await waiting
        (place,) = await opened(late)
        assert place.ledger.start.id.hex() == ann.chain.status["start"]  # type: ignore[index]

    run(tmp_path, work)


def test_who_has_a_charter_gives_it_when_the_founder_is_gone(tmp_path: Path) -> None:
    async def work(founder: Node, ann: Node, bob: Node, late: Node) -> None:
        waiting = await opened(founder, ann)
        founder.stop()
        ann.stop()
        ann.start()  # it has not opened the chain yet, and gives what it has kept
        places = await opened(bob, late)
        assert {place.ledger.start.id for place in places} == {waiting[0].ledger.start.id}

    run(tmp_path, work)


def forged(by: Identity, genesis: bytes = GENESIS.id) -> bytes:
    voters = {one: (VrfKey.of(Identity.from_seed(bytes([n] * 32)), genesis).public, 1) for n, one in enumerate(IDS, 1)}
    return ChainTerms().charter(by, genesis, voters).encode()


@pytest.mark.parametrize(
    "charter",
    [
        forged(Identity.from_seed(bytes([2] * 32))),
        forged(FOUNDER, bytes(32)),
        forged(FOUNDER)[:-1] + b"\0",
        b"no charter",
    ],
    ids=["by another", "of another federation", "a signature that is none", "junk"],
)
def test_what_the_founder_has_not_signed_is_refused(tmp_path: Path, charter: bytes) -> None:
    async def work(founder: Node, liar: Node, ann: Node, bob: Node) -> None:
        liar.chain._on_charter_ask = None  # type: ignore[assignment,method-assign]
        liar.peer.handle(CharterAsk, lambda sender, question: CharterText(charter))
        places = await opened(founder, ann, bob)
        assert len({place.ledger.start.id for place in places}) == 1
        assert Charter.decode(places[1].ledger.start.encode()).founder == FOUNDER.id
        assert ann.refused.get(liar.identity.id, 0) >= 1

    run(tmp_path, work)


def test_a_key_that_is_none_founds_nothing(tmp_path: Path) -> None:
    async def work(founder: Node, liar: Node, ann: Node, bob: Node) -> None:
        liar.peer.handle(VoterAsk, lambda sender, question: VoterKey(bytes(32)))
        waiting = asyncio.ensure_future(opened(founder))
        while not founder.said:
            await asyncio.sleep(0.01)
        assert not waiting.done()
        waiting.cancel()

    run(tmp_path, work)


def test_other_terms_are_refused(tmp_path: Path) -> None:
    async def work(*nodes: Node) -> None:
        await opened(nodes[0])
        for terms in (ChainTerms(QuorumRule("majority")), ChainTerms(lock_epochs=5)):
            with pytest.raises(LedgerError, match="other terms"):
                await opened(nodes[1], terms=terms)

    run(tmp_path, work)


def test_a_damaged_charter_comes_back_from_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "coterie.chain")

    async def work(*nodes: Node) -> None:
        await opened(*nodes)
        node = nodes[1]
        node.stop()
        path = node.folder / START
        whole = path.read_bytes()
        path.write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
        node.start()
        await opened(node)
        assert path.read_bytes() == whole
        assert "is no good" in caplog.text

    run(tmp_path, work)


def add_block(ledger: SharedStore, closes: bool = False) -> None:
    """The next block, final by the signatures of all."""
    state, height = ledger.chain.state, ledger.chain.height + 1
    who = {one.id: one for one in (Identity.from_seed(bytes([number] * 32)) for number in range(1, 5))}
    leader = who[state.leader(height)]
    block = SharedBlock.make(
        leader,
        genesis=GENESIS.id,
        epoch=state.epoch,
        height=height,
        parent_height=height - 1,
        parent=ledger.chain.head,
        records=[],
        closes=closes,
        proof=VrfKey.of(leader, GENESIS.id).prove(closing_alpha(state.beacon, height)) if closes else b"",
        time=height,
    )
    votes = [Vote.make(one, GENESIS.id, state.epoch, height, "final", block.id) for one in who.values()]
    ledger.add([FullSharedBlock.of(block, ())], Finality((), Certificate.of(votes, state.voters, state.rule)))


def test_a_damaged_chain_is_mended_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "coterie.chain")

    async def work(*nodes: Node) -> None:
        places = await opened(*nodes)
        for _ in range(3):
            add_block(places[1].ledger)
        node = nodes[1]
        node.stop()
        path = node.folder / FILE
        path.write_bytes(path.read_bytes()[:-4096])
        node.start()
        (place,) = await opened(node)
        assert isinstance(place.ledger, SharedStore)
        assert place.ledger.damage is not None
        assert place.ledger.chain.height == 3
        assert str(place.ledger.damage) in caplog.text

    run(tmp_path, work)


def test_the_log_is_begun_once(tmp_path: Path) -> None:
    """Lost, it is not begun again: the peer's own ledger says that it has taken part."""

    async def work(*nodes: Node) -> None:
        await opened(*nodes)
        node = nodes[1]
        assert log.read(node.disk, GENESIS.id) is not None  # type: ignore[arg-type]
        node.stop()
        node.disk = Disk()
        for path in node.folder.glob("shared.*"):
            path.unlink()
        node.start()
        await opened(node)
        assert node.disk.values == {}

    run(tmp_path, work)


def test_a_log_without_its_record_is_kept(tmp_path: Path) -> None:
    """It stopped between the two: what it may have said since is in the log."""

    async def work(*nodes: Node) -> None:
        node = nodes[1]
        later = log.Log(GENESIS.id, 0, 7, 0, ())
        log.write(node.disk, later)  # type: ignore[arg-type]
        await opened(*nodes)
        assert log.read(node.disk, GENESIS.id) == later  # type: ignore[arg-type]
        assert [record.kind for record in node.chain._own_records()] == ["shared chain"]
        node.stop()
        node.start()
        await opened(node)
        assert len(node.chain._own_records()) == 1

    run(tmp_path, work)


def test_no_record_before_the_log_is_on_disk(tmp_path: Path) -> None:
    async def work(*nodes: Node) -> None:
        nodes[1].disk.full = True
        waiting = asyncio.gather(*(node.chain.open(ChainTerms()) for node in nodes), return_exceptions=True)
        assert isinstance((await waiting)[1], OutputError)
        assert nodes[1].chain._own_records() == []

    run(tmp_path, work)


def test_a_newcomer_begins_with_the_checkpoint_that_it_was_told(tmp_path: Path) -> None:
    """Whatever else it is given is refused; it goes on from there, after a restart too."""

    async def work(founder: Node, ann: Node, liar: Node, late: Node) -> None:
        for place in await opened(founder, ann, liar, late):
            add_block(place.ledger)
            add_block(place.ledger, closes=True)
            add_block(place.ledger)
        late.stop()
        for path in late.folder.iterdir():
            path.unlink()
        pin = ann.chain.pin
        assert pin is not None
        assert pin[0] == 1
        save_pin(late.folder, pin)
        late.start()
        begins = ann.chain.open(ChainTerms())
        older = (await begins).ledger.checkpoint(0)
        liar.peer.handle(CheckpointAsk, lambda sender, question: CheckpointText(older.encode()))
        founder.stop()
        for again in range(2):
            (place,) = await opened(late)
            assert place.ledger.start.id == pin[1]
            assert (place.ledger.chain.state.epoch, place.ledger.chain.height) == (1, again)
            if not again:
                place.ledger.receive((await opened(ann))[0].ledger.blocks(1, 0))
                late.stop()
                assert audit_shared(late.folder / FILE, GENESIS.id, pin[1]).fault is None
                late.start()

    run(tmp_path, work)


def test_a_newcomer_does_not_believe_a_charter(tmp_path: Path) -> None:
    """Nor founds one, though it be the founder's successor in everything but the key."""

    async def work(founder: Node, ann: Node, bob: Node, late: Node) -> None:
        await opened(founder, ann)
        save_pin(late.folder, (1, bytes(32)))
        late.peer.handle(CharterAsk, lambda sender, question: CharterText(b""))
        waiting = asyncio.ensure_future(opened(late))
        while not late.said:
            await asyncio.sleep(0.01)
        assert "checkpoint" in late.said[0]
        assert not waiting.done()
        waiting.cancel()

    run(tmp_path, work)


def test_a_charter_that_is_too_long_is_no_message() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"charter": b"x" * (15 << 17)}, CharterText)
