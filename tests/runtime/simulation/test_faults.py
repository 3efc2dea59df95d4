"""Many seeds with faults: every run ends, every peer finishes, and nothing is lost that should be kept."""

from __future__ import annotations

from typing import Any

import pytest
from small_federation import simulate, small

from coterie.errors import Deadlock, PluginError, RunError, SpecError

MIXED: dict[str, Any] = {
    "network__loss": 0.1,
    "compute__spread": 0.6,
    "faults__crashes_per_minute": 40.0,
    "faults__restart_seconds": 0.5,
    "faults__partitions": [{"at": 0.3, "seconds": 0.5, "groups": [[0, 1, 2], [3, 4, 5]]}],
    "federation__rounds": 5,
}


@pytest.mark.parametrize("protocol", ["gossip", "fedavg", "isolated"])
@pytest.mark.parametrize("first", range(0, 60, 20))
def test_federations_with_crashes_loss_and_partitions_end_well(protocol: str, first: int) -> None:
    crashed = 0
    for seed in range(first, first + 20):
        spec = small(federation__seed=seed, federation__protocol=protocol, **MIXED)
        figures, simulation = simulate(spec)
        assert all(member.finished for member in simulation.federation.members)
        assert figures["accuracy"]["min"] > 0.2
        crashed += sum(member.starts > 1 for member in simulation.federation.members)
    assert crashed > 5


def test_a_peer_that_returns_goes_on_where_the_others_are() -> None:
    returned = skipped = 0
    for seed in range(6):
        spec = small(
            federation__seed=seed,
            federation__rounds=30,
            faults__crashes_per_minute=4.0,
            faults__restart_seconds=1.0,
            run__checkpoint_every=0,  # nobody waits at a barrier for those who are away
        )
        records: list[Any] = []
        _, simulation = simulate(spec, records)
        for member in simulation.federation.members:
            rounds = [record.round for record in records if record.peer == member.id]
            assert rounds[-1] == 29
            if member.starts == 1:
                assert rounds == list(range(30))
            else:
                assert rounds == sorted(set(rounds))
                returned += 1
                skipped += len(rounds) < 30
    assert returned > 5
    assert skipped > returned / 2, "most were away for several rounds, and must not have lived through them all"


def test_peers_on_two_sides_of_a_partition_do_not_mix() -> None:
    sides = [{"at": 0.0, "seconds": 1e9, "groups": [[0, 1, 2], [3, 4, 5]]}]
    records: list[Any] = []
    simulate(small(faults__partitions=sides, federation__rounds=3, gossip__fanout=5), records)
    for record in records:
        mine = {0, 1, 2} if record.index < 3 else {3, 4, 5}
        heard = {int(peer.removeprefix("peer-")) for peer, weight in record.weights.items() if weight > 0}
        assert heard == mine


def test_a_lossy_network_sends_as_many_bytes_as_the_frames_it_carries() -> None:
    _, simulation = simulate(small(federation__rounds=2))
    federation = simulation.federation
    questions = 2 * 6 * 3  # rounds x peers x fanout
    assert federation.network.frames_sent == 2 * questions
    payload = questions * (4 * simulation.layout.size)
    headers = sum(federation.network.bytes_sent.values()) - payload
    assert 0 < headers < 400 * questions


def test_a_protocol_that_waits_for_ever_is_named() -> None:
    with pytest.raises(Deadlock, match="peer-0 waits"):
        simulate(small(federation__protocol="fragile.py:sleepy"))


def test_an_error_in_a_job_names_the_peer_and_the_round() -> None:
    with pytest.raises(RunError, match=r"peer \d, round 0") as caught:
        simulate(small(training__lr=1e38, training__clip=0.0))
    assert caught.value.remedy


def test_an_error_in_a_users_rule_is_a_plugin_error() -> None:
    with pytest.raises(PluginError, match=r"peer-\d, round 0.*broken.*KeyError"):
        simulate(small(aggregation__rule="fragile.py:broken"))


def test_a_rule_that_needs_held_out_data_says_so_where_there_is_none() -> None:
    with pytest.raises(SpecError, match=r"data\.validation"):
        simulate(small(aggregation__rule="fragile.py:random_mean", data__validation=0.0))


def test_asynchronous_peers_wait_for_nobody() -> None:
    """With peers of very different speeds, each ends when its own steps are done; waiting for rounds ties them."""
    ends = {}
    for asynchronous in (False, True):
        spec = small(
            federation__rounds=12,
            compute__spread=1.5,
            network__latency_ms=1.0,
            run__checkpoint_every=0,
            gossip__asynchronous=asynchronous,
        )
        records: list[Any] = []
        figures, simulation = simulate(spec, records)
        assert figures["accuracy"]["min"] > 0.85
        ends[asynchronous] = {r.peer: r.time for r in records if r.round == 11}
        alone = {m.id: 12 * 4 * m.learner._seconds_per_step for m in simulation.federation.members}
    fastest = min(alone, key=lambda peer: alone[peer])
    slowest = max(alone, key=lambda peer: alone[peer])
    assert alone[slowest] > 4 * alone[fastest]
    assert ends[True][fastest] < ends[False][fastest] / 1.5
    # It waits for first models, and for latencies; a round is 3 steps and an aggregation, which counts as one.
    assert ends[True][fastest] < 2 * alone[fastest] + alone[slowest] / 12
