"""What a tracker shows of a round, of a result and of a spec: plain names and numbers."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from coterie.runtime.results import PeerMetrics, Result

Figures = dict[str, float]
"""By name, such as ``accuracy/mean``. What is not finite at some honest peer is left out."""
_CUT = 6000
"""Characters of a parameter's value: MLflow takes no more."""


def of_round(records: Sequence[PeerMetrics]) -> Figures:
    """The figures of one round, from the records of its peers.

    ``accuracy``, ``loss`` (mean, min, max), ``train_loss`` and ``attack_rate`` (mean) are those of honest peers,
    ``bytes_sent`` that of all peers together so far. ``trust/honest`` and ``trust/attackers`` are the means of what
    honest peers have in the others that they mixed with.
    """
    honest = [record for record in records if not record.attacker]
    attackers = {record.peer for record in records if record.attacker}
    found: Figures = {}
    for name in ("accuracy", "loss"):
        found |= _spread(name, [getattr(record, name) for record in honest])
    for name in ("train_loss", "attack_rate"):
        values = [value for record in honest if (value := getattr(record, name)) is not None]
        if values:
            found[f"{name}/mean"] = statistics.fmean(values)
    trust: dict[str, list[float]] = {"trust/honest": [], "trust/attackers": []}
    for record in honest:
        for peer, value in (record.trust or {}).items():
            if peer != record.peer:
                trust["trust/attackers" if peer in attackers else "trust/honest"].append(value)
    found |= {name: statistics.fmean(values) for name, values in trust.items() if values}
    found["bytes_sent"] = float(sum(record.bytes_sent for record in records))
    return _finite(found)


def of_result(result: Result) -> Figures:
    """The final figures, each as ``final/NAME``."""
    found: Figures = {}
    for name in ("accuracy", "loss", "metrics"):
        found |= {f"final/{name}/{key}": value for key, value in getattr(result, name).items()}
    for name in ("attack_rate", "epsilon", "seconds", "virtual_seconds", "bytes_sent"):
        value = getattr(result, name)
        if value is not None:
            found[f"final/{name}"] = value
    return _finite(found)


def parameters(tables: Mapping[str, Any]) -> dict[str, str]:
    """A resolved spec as ``{"training.lr": "0.05", ...}``."""
    shown = {name: value if isinstance(value, str) else json.dumps(value, default=str) for name, value in flat(tables)}
    return {name: text[:_CUT] for name, text in shown.items()}


def flat(tables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested tables, each with its dotted name."""
    for key, value in tables.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


class Rounds:
    """Records gathered into rounds, in order. A round is over when all ``peers`` have told of it, or of a later one."""

    def __init__(self, peers: int) -> None:
        self._peers = peers
        self._open: dict[int, dict[str, PeerMetrics]] = {}
        self._told = -1

    def add(self, record: PeerMetrics) -> Iterator[tuple[int, Figures]]:
        """The rounds that are over with this record. One of a round that was told already is left out."""
        if record.round <= self._told:
            return
        told = self._open.setdefault(record.round, {})
        told[record.peer] = record
        if len(told) >= self._peers:
            yield from self.rest(record.round)

    def rest(self, last: int | None = None) -> Iterator[tuple[int, Figures]]:
        """Those that nobody else will tell of; up to round ``last``."""
        for round in sorted(self._open):
            if last is None or round <= last:
                self._told = round
                yield round, of_round(list(self._open.pop(round).values()))


def _spread(name: str, values: Sequence[float]) -> Figures:
    if not values or not all(map(math.isfinite, values)):
        return {}
    return {f"{name}/mean": statistics.fmean(values), f"{name}/min": min(values), f"{name}/max": max(values)}


def _finite(figures: Figures) -> Figures:
    return {name: float(value) for name, value in figures.items() if math.isfinite(value)}
