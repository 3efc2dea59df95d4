"""Rules that ask a judge or remember, in a whole simulated federation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from small_federation import simulate, small

from coterie.runtime.simulation.workers import WorkerPool


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    workers = WorkerPool(2)
    yield workers
    workers.close()


@pytest.mark.parametrize("rule", ["papaya", "l2c", "fltrust", "spectral_history", "nnm"])
def test_worker_processes_change_no_bit_of_it(rule: str, pool: WorkerPool) -> None:
    spec = small(aggregation__rule=rule, data__root=10)

    def executor(setup: Any, runner: Any) -> WorkerPool:
        pool.prepare(setup, runner.vectors)
        return pool

    expected, _ = simulate(spec)
    found, _ = simulate(spec, None, executor)
    assert found == expected
    assert expected["accuracy"]["mean"] > 0.5
