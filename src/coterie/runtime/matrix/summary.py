"""The figures of a matrix: over the seeds of each cell their mean and deviation, as one JSON object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coterie import __version__
from coterie.runtime.matrix.plan import Panel, Plan
from coterie.runtime.results import Result

SCHEMA = "coterie.matrix/1"


def summarise(planned: Plan, results: Mapping[tuple[str, int], Result], directory: str) -> dict[str, Any]:
    """The JSON object ``coterie.matrix/1``; ``results`` by (key, seed) has one for each run and seed.

    A figure is ``{"mean", "std"}`` over the seeds that ended well; std is the sample standard deviation, 0 for one
    seed. ``best`` marks the rule with the highest mean accuracy in its column, ``least_attacked`` that with the lowest
    attack rate, among those of which no seed failed; references do not compete. The status is "failed" only where
    every run failed.
    """
    runs = [results[key, seed] for key in planned.runs for seed in planned.seeds]
    failed = [result for result in runs if not result.ok]
    federation = planned.spec.federation
    return {
        "schema": SCHEMA,
        "version": __version__,
        "status": "failed" if len(failed) == len(runs) else "ok",
        "error": dict(failed[0].error or {}) if len(failed) == len(runs) else None,
        "out": directory,
        "name": federation.name,
        "protocol": federation.protocol,
        "peers": federation.peers,
        "rounds": federation.rounds,
        "seeds": list(planned.seeds),
        "runs": len(runs),
        "failed": len(failed),
        "seconds": sum(result.seconds for result in runs),
        "panels": [_panel(panel, planned.seeds, results) for panel in planned.panels],
        "definition": planned.definition,
    }


def _panel(panel: Panel, seeds: Sequence[int], results: Mapping[tuple[str, int], Result]) -> dict[str, Any]:
    cells: list[dict[str, Any]] = []
    for (row, column), key in panel.cells.items():
        figures = _figures([results[key, seed] for seed in seeds], seeds)
        cells.append({"row": row, "attack": column, "reference": row in panel.references} | figures)
    for column in panel.attacks:
        rivals = [c for c in cells if c["attack"] == column and not c["reference"] and not c["failed"]]
        _mark(rivals, "best", {id(c): -c["accuracy"]["mean"]["mean"] for c in rivals})
        rated = [c for c in rivals if c["attack_rate"] is not None]
        _mark(rated, "least_attacked", {id(c): c["attack_rate"]["mean"] for c in rated})
    return {
        "title": panel.title,
        "split": panel.split,
        "fraction": panel.fraction,
        "rules": list(panel.rules),
        "references": list(panel.references),
        "attacks": list(panel.attacks),
        "cells": cells,
    }


def _mark(cells: Sequence[dict[str, Any]], mark: str, cost: Mapping[int, float]) -> None:
    """Mark the cells of least cost, where there is something to compare."""
    for cell in cells:
        cell[mark] = len(cells) > 1 and cost[id(cell)] == min(cost.values())


def _figures(runs: Sequence[Result], seeds: Sequence[int]) -> dict[str, Any]:
    together = Result.of_seeds(runs).to_json()
    good = [(seed, run) for seed, run in zip(seeds, runs, strict=True) if run.ok]
    bad = {str(seed): dict(run.error or {}) for seed, run in zip(seeds, runs, strict=True) if not run.ok}
    known = bool(good)
    return {
        "accuracy": {key: together["accuracy"][key] for key in ("mean", "min", "max")} if known else None,
        "loss": together["loss"]["mean"] if known else None,
        "attack_rate": together["attack_rate"] if known else None,
        "seconds": together["seconds"],
        "seeds": [seed for seed, _ in good],
        "spec_hashes": {str(seed): run.spec_hash for seed, run in good},
        "model_hashes": {str(seed): run.model_hash for seed, run in good},
        "failed": bad,
        "best": False,
        "least_attacked": False,
    }
