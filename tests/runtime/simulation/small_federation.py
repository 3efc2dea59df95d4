"""A federation small enough to run hundreds of times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import coterie.runtime.catalog  # noqa: F401 - fills the registries
from coterie import data
from coterie import spec as specs
from coterie.runtime.results import PeerMetrics
from coterie.runtime.simulation.build import Simulation

HERE = Path(__file__).parent


def small(**changes: Any) -> specs.Spec:
    """Six peers with a linear model on blobs; ``changes`` are dotted keys with ``__`` for the dot."""
    spec = specs.check(
        {
            "federation": {"name": "small", "peers": 6, "rounds": 8, "seed": 1},
            "data": {"dataset": "blobs.py:blobs", "alpha": 0.5},
            "model": {"name": "softmax"},
            "training": {"lr": 0.2, "local_steps": 3, "batch_size": 16},
        },
        HERE,
    )
    return spec.with_values({key.replace("__", "."): value for key, value in changes.items()})


def simulate(
    spec: specs.Spec, records: list[PeerMetrics] | None = None, executor: Any = None
) -> tuple[dict[str, Any], Simulation]:
    """Run a spec in this process, or by an executor of one's own: its figures, and the simulation as it ended."""
    kept = [] if records is None else records

    def choose(setup: Any, runner: Any, work: float) -> Any:
        return executor(setup, runner) if executor else runner

    with Simulation(spec, data.load(spec.dataset, None), choose, kept.append, lambda *_: None) as simulation:
        simulation.federation.run()
        return simulation.outcome(), simulation
