"""The shared chain that simulated peers get from their runtime: through crashes, lost messages and checkpoints."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from small_federation import small

from coterie import data
from coterie.errors import LedgerError, NodeError
from coterie.identity.vrf import VrfKey
from coterie.ledger.shared import QuorumRule, SharedMemory
from coterie.protocols import Peer
from coterie.protocols.consensus import ChainTerms, log
from coterie.runtime.results import RunDirectory
from coterie.runtime.simulation import checkpoint
from coterie.runtime.simulation.build import Simulation
from coterie.runtime.simulation.federation import Federation

PROTOCOL = Path(__file__).parents[3] / "examples" / "shared_chain" / "chain.py"
BLOCKS = 12


def spec(**changes: Any) -> Any:
    keys = {"federation__rounds": BLOCKS, "chain__delay": 0.3, "chain__closing": 3, "network__latency_ms": 20.0}
    return small(federation__protocol=f"{PROTOCOL}:chain", **{**keys, **changes})


def simulation(spec: Any) -> Simulation:
    return Simulation(
        spec, data.load(spec.dataset, None), lambda setup, runner, work: runner, lambda _: None, lambda *_: None
    )


def chain_of(member: Any) -> list[bytes]:
    """Ids of all final blocks of a peer."""
    ledger, found = member.chain, []
    for epoch in range(ledger.chain.state.epoch + 1):
        batch = ledger.blocks(epoch, 0)
        found += [] if batch is None else [full.block.id for full in batch.blocks]
    return found


def chains(made: Simulation) -> list[list[bytes]]:
    found = [chain_of(member) for member in made.federation.members]
    longest = max(found, key=len)
    assert all(one == longest[: len(one)] for one in found)
    assert min(map(len, found)) >= BLOCKS
    return found


@pytest.mark.parametrize("seed", range(5))
def test_crashes_and_lost_messages(seed: int) -> None:
    """Whoever comes back goes on with its own copy and its own log: nothing forks, and nobody contradicts itself."""
    changes = {"faults__crashes_per_minute": 20.0, "faults__restart_seconds": 1.0, "network__loss": 0.05}
    with simulation(spec(federation__seed=seed, **changes)) as made:
        made.federation.run()
        chains(made)
        members = made.federation.members
        assert sum(member.starts for member in members) > len(members)
        assert all(member.chain.chain.state.locked == () for member in members)


def test_the_same_seed_gives_the_same_chain() -> None:
    found = []
    for seed in (1, 1, 2):
        with simulation(spec(federation__seed=seed)) as made:
            made.federation.run()
            found.append(chains(made))
    assert found[0] == found[1] != found[2]


def test_a_checkpoint_holds_the_chain(tmp_path: Path) -> None:
    """A run that is restored at a barrier ends as the one that goes on."""
    chosen = spec(run__checkpoint_every=5)
    directory = RunDirectory(tmp_path)
    with simulation(chosen) as made:
        saved: list[list[bytes]] = []

        def keep() -> None:
            if not saved:
                checkpoint.save(directory, made.federation, made.arena, data=0, seconds=0.0)
                saved.extend(chain_of(member) for member in made.federation.members)

        made.federation.run(keep)
        whole, now = chains(made), made.federation.now
    assert all(5 <= len(one) < BLOCKS for one in saved)
    with simulation(chosen) as made:
        found = checkpoint.load(directory)
        assert found is not None
        checkpoint.restore(directory, found, made.federation, made.arena)
        assert [chain_of(member) for member in made.federation.members] == saved
        made.federation.run()
        assert (chains(made), made.federation.now) == (whole, now)


def test_terms(tmp_path: Path) -> None:
    """All must ask for the same; weights are by the peers' names; the log is begun once."""
    with simulation(spec()) as made:
        federation = made.federation
        federation.loop = asyncio.new_event_loop()  # type: ignore[assignment]
        federation.network.begin(federation.loop, random.Random(1))
        first, second, third, *_ = federation.members
        terms = ChainTerms(QuorumRule("majority", 3), 7, {"peer-0": 5, "peer-1": 1, "peer-2": 2})

        async def opened(member: Any, terms: ChainTerms) -> Any:
            return await federation._peer(member, False).chain(terms)

        run = federation.loop.run_until_complete
        place = run(opened(first, terms))
        state = place.ledger.chain.state
        assert {place.peer_of(voter.key): voter.weight for voter in state.voters.members} == terms.weights
        assert (state.rule, state.lock_epochs) == (terms.rule, 7)
        own = state.voters.get(place.key_of("peer-1"))
        assert own is not None
        assert own.vrf == VrfKey.of(second.identity, state.genesis).public
        assert place.key_of("peer-9") is place.peer_of("ff") is None
        with pytest.raises(LedgerError, match="other terms"):
            run(opened(second, ChainTerms()))
        assert run(opened(second, terms)).ledger.chain.state.id == state.id
        assert isinstance(second.chain, SharedMemory)
        first.store.values[log.KEY] = b"what it has said since"
        assert run(opened(first, terms)).ledger is place.ledger
        assert first.store.values[log.KEY] == b"what it has said since"
        assert third.chain is None
        federation.loop.close()


def test_a_peer_without_one_says_so() -> None:
    peer = Peer.__new__(Peer)
    peer.id, peer.open_chain = "p", None
    with pytest.raises(NodeError, match="no shared chain"):
        asyncio.run(peer.chain(ChainTerms()))


def test_what_is_done_beside_the_protocol_ends_with_the_peer() -> None:
    with simulation(spec()) as made:
        made.federation.run()
        for member in made.federation.members:
            assert member.peer is not None
            assert member.peer._tasks == []
        assert isinstance(made.federation, Federation)
