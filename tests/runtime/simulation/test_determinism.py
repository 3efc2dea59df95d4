"""One seed decides everything: latency, loss, crashes, workers and the company a job is in change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from small_federation import simulate, small

from coterie.runtime.results import PeerMetrics
from coterie.runtime.simulation.workers import WorkerPool
from coterie.runtime.work.descriptions import ClearJob
from coterie.runtime.work.tickets import Ticket

FAULTS: dict[str, Any] = {
    "network__loss": 0.05,
    "network__jitter": 1.0,
    "compute__spread": 0.5,
    "faults__crashes_per_minute": 30.0,
    "faults__restart_seconds": 0.4,
}
FRAGILE: dict[str, Any] = {"model__name": "fragile.py:noisy", "aggregation__rule": "fragile.py:random_mean"}


def test_the_same_seed_gives_the_same_run_and_another_seed_another() -> None:
    first, second = [], []
    spec = small(**FAULTS, **FRAGILE)
    one, simulation = simulate(spec, first)
    two, _ = simulate(spec, second)
    other, _ = simulate(small(federation__seed=2, **FAULTS, **FRAGILE))
    assert one == two
    assert first == second
    assert any(member.starts > 1 for member in simulation.federation.members), "no peer crashed: the test shows nothing"
    assert other["model_hash"] != one["model_hash"]


HOSTILE: dict[str, Any] = {"model__name": "fragile.py:restless", "aggregation__rule": "fragile.py:in_place"}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("parts", [FRAGILE, HOSTILE])
def test_worker_processes_change_no_bit(workers: int, parts: dict[str, Any]) -> None:
    spec = small(**FAULTS, **parts, training__optimizer_state="keep", training__momentum=0.5)
    alone, distributed = [], []
    expected, _ = simulate(spec, alone)
    pool = WorkerPool(workers)

    def executor(setup: Any, runner: Any) -> WorkerPool:
        pool.prepare(setup, runner.vectors)
        return pool

    try:
        found, _ = simulate(spec, distributed, executor)
        again, _ = simulate(spec, None, executor)
    finally:
        pool.close()
    assert found == expected == again
    assert distributed == alone


def test_what_a_run_leaves_undone_is_not_done_in_the_next() -> None:
    """Its blocks have gone with it, and the next run's memory may lie at the same paths."""
    pool = WorkerPool(1)
    left: list[Ticket] = []

    def abandons(setup: Any, runner: Any) -> Any:
        pool.prepare(setup, runner.vectors)
        block = runner.vectors.take()
        for _ in range(50):  # of one lane: the worker gets one at a time
            left.append(Ticket(0, ClearJob(0, block)))
            pool.begin(left[-1:])
        return runner

    def executor(setup: Any, runner: Any) -> WorkerPool:
        pool.prepare(setup, runner.vectors)
        return pool

    try:
        simulate(small(federation__rounds=1), None, abandons)
        found, _ = simulate(small(federation__rounds=1), None, executor)
    finally:
        pool.close()
    assert not left[-1].done
    assert found == simulate(small(federation__rounds=1))[0]


def test_what_a_rule_remembers_is_not_written_over_by_the_next_job() -> None:
    """One worker and many peers: it does several jobs before it sends any outcome."""
    spec = small(federation__peers=30, federation__rounds=3, aggregation__rule="fragile.py:own_memory")
    expected, _ = simulate(spec)
    pool = WorkerPool(1)

    def executor(setup: Any, runner: Any) -> WorkerPool:
        pool.prepare(setup, runner.vectors)
        return pool

    try:
        found, _ = simulate(spec, None, executor)
    finally:
        pool.close()
    assert found == expected


class Shuffled:
    """Does the jobs of a batch in another order, one worker's worth at a time, as late as it may."""

    def __init__(self, runner: Any, step: int) -> None:
        self.runner, self.step = runner, step
        self.lanes: dict[int, list[Ticket]] = {}

    def begin(self, tickets: Sequence[Ticket]) -> None:
        for ticket in tickets:
            self.lanes.setdefault(ticket.lane, []).append(ticket)

    def hungry(self) -> bool:
        return len(self.lanes) % self.step == 1

    def finish(self, ticket: Ticket) -> None:
        lanes = sorted(self.lanes, key=lambda lane: (lane * self.step) % 7)
        for lane in lanes if self.step > 1 else [ticket.lane]:
            for waiting in self.lanes.pop(lane, ()):
                if not waiting.done:
                    waiting.finish(self.runner.lane([waiting.job])[0])
        assert ticket.done


@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_job_does_not_depend_on_who_shares_its_batch(step: int) -> None:
    spec = small(**FAULTS, **FRAGILE)
    expected, _ = simulate(spec)
    found, _ = simulate(spec, executor=lambda setup, runner: Shuffled(runner, step))
    assert found == expected


def test_evaluating_more_or_less_often_changes_no_model() -> None:
    often, rarely = [], []
    one, _ = simulate(small(**FRAGILE), often)
    two, _ = simulate(small(**FRAGILE, evaluation__every=5, evaluation__samples=10), rarely)
    assert one["model_hash"] == two["model_hash"]
    assert {m.round for m in often} == set(range(8))
    assert {m.round for m in rarely} == {4, 7}
    assert isinstance(often[0], PeerMetrics)
