"""Real peers on a real clock, over a network in memory, against the simulation of the same spec."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from small_federation import simulate, small

from coterie import data
from coterie.errors import PluginError
from coterie.ledger import NullLedger
from coterie.network import Frame
from coterie.network.codec import Codec, Envelope, MemorySnapshot
from coterie.protocols import Model
from coterie.runtime.node.life import Life
from coterie.runtime.node.newcomer import Refusals, new_peer
from coterie.runtime.node.site import Site, part_of
from coterie.runtime.results import PeerMetrics
from coterie.runtime.work.placement import place


@dataclass
class Wire:
    """Carries whole frames as bytes between peers of one event loop."""

    lives: dict[str, Life]
    sent: dict[str, int] = field(default_factory=dict)
    change: Callable[[str, Envelope], Envelope] = lambda peer, envelope: envelope

    def end_of(self, peer: str) -> End:
        return End(self, peer)


@dataclass
class End:
    wire: Wire
    peer: str
    bytes_sent: int = 0

    def post(self, to: str, frame: Frame, failed: Callable[[], None]) -> None:
        data = b"".join(bytes(piece) for piece in frame.chunks())
        assert len(data) == frame.nbytes
        self.bytes_sent += len(data)
        envelope = self.wire.change(self.peer, Codec().parse(data))
        again = Codec().encode(envelope)
        asyncio.get_running_loop().call_soon(self.wire.lives[to].peer.receive, self.peer, again)


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@dataclass
class Kept:
    """A ledger in memory, of one peer."""

    own: str
    records: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def append(self, kind: str, content: Mapping[str, Any]) -> None:
        self.records.append((kind, dict(content)))

    async def confirms(self, author: str, kind: str, content: Mapping[str, Any]) -> bool:
        return author == self.own and (kind, dict(content)) in self.records


def real(
    spec: Any,
    folder: Path,
    closing: ExitStack,
    ledgers: Sequence[Kept] = (),
    returned: bool = False,
    change: Callable[[str, Envelope], Envelope] = lambda peer, envelope: envelope,
) -> tuple[list[Life], list[PeerMetrics], list[tuple[Any, ...]]]:
    parts = place(spec, data.load(spec.dataset, None))
    records: list[PeerMetrics] = []
    lives = []
    for number in parts.numbers:
        site = Site.open(spec, part_of(parts, number), parts.ids[number], parts.ids, folder / str(number))
        closing.callback(site.close)
        lives.append(Life(spec, site, parts.ids, number, parts.topology, parts.attackers, records.append))
    wire = Wire({life.ids[life.number]: life for life in lives}, change=change)

    async def main() -> list[tuple[Any, ...]]:
        for life in lives:
            own = life.ids[life.number]
            ledger = ledgers[life.number] if ledgers else NullLedger()
            life.enter(new_peer(own, wire.end_of(own), ledger, Refusals()), returned=returned)
        await asyncio.wait_for(asyncio.gather(*(life.run() for life in lives)), 60)
        return [await life.site.final() for life in lives]

    return lives, records, asyncio.run(main())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"aggregation__rule": "median", "topology__kind": "ring", "federation__rounds": 12},
        {"attack__kind": "sign_flip", "attack__fraction": 0.34},
        {"federation__protocol": "fedavg"},
    ],
)
def test_the_outcome_is_that_of_the_simulation(changes: dict[str, Any], tmp_path: Path, closing: ExitStack) -> None:
    spec = small(federation__seed=3, run__checkpoint_every=5, compute__spread=0.0, **changes)
    kept: list[PeerMetrics] = []
    _, simulation = simulate(spec, kept)
    lives, records, outcomes = real(spec, tmp_path, closing)
    by_place = {(record.peer, record.round): record for record in kept}
    assert len(records) == len(kept)
    for record in records:
        expected = by_place[record.peer, record.round]
        assert record.accuracy == expected.accuracy
        assert record.weights == pytest.approx(expected.weights)
    for life, member, (evaluation, _, state) in zip(lives, simulation.federation.members, outcomes, strict=True):
        assert torch.equal(life.site.vector, simulation.arena[member.learner.block])
        assert evaluation.samples == len(life.site.dataset.y_test)
        assert set(state) == {"1.weight", "1.bias"}


def test_a_record_that_the_ledger_lost_in_a_crash_is_made_again(tmp_path: Path, closing: ExitStack) -> None:
    spec = small(federation__rounds=4)
    ids = place(spec, data.load(spec.dataset, None)).ids
    ledgers = [Kept(peer) for peer in ids]
    with ExitStack() as first:
        real(spec, tmp_path, first, ledgers)
    whole = [list(ledger.records) for ledger in ledgers]
    assert [content["round"] for _, content in whole[0]] == [0, 1, 2, 3]
    del ledgers[0].records[-1]
    real(spec, tmp_path, closing, ledgers, returned=True)
    assert [ledger.records for ledger in ledgers] == whole


def test_a_protocol_that_is_no_coroutine_is_named(tmp_path: Path, closing: ExitStack) -> None:
    (tmp_path / "mine.py").write_text("def mine(peer, rounds):\n    pass\n")
    with pytest.raises(PluginError, match="is no coroutine"):
        real(small(federation__protocol=f"{tmp_path / 'mine.py'}:mine"), tmp_path, closing)


@pytest.mark.parametrize("size", [1, 5, 4096])
def test_a_model_of_the_right_layout_and_another_size_is_refused(size: int, tmp_path: Path, closing: ExitStack) -> None:
    """The hash of its layout is the sender's word: nothing else told that the vector was another one."""
    spec = small(federation__rounds=3)
    liar = place(spec, data.load(spec.dataset, None)).ids[0]

    def lie(sender: str, envelope: Envelope) -> Envelope:
        if sender != liar or not isinstance(envelope.message, Model):
            return envelope
        vector = MemorySnapshot(envelope.message.vector.layout_hash, torch.zeros(size))
        return Envelope(envelope.kind, envelope.id, msgspec.structs.replace(envelope.message, vector=vector))

    lives, _, _ = real(spec, tmp_path, closing, change=lie)
    for life in lives[1:]:
        assert life.metrics.round == 2
        assert set(life.metrics.before.refused) <= {liar}
    assert sum(life.metrics.before.refused.get(liar, 0) for life in lives) > 0
