"""What a run came to, for one seed or for several: the JSON object ``coterie.result/1``."""

from __future__ import annotations

import hashlib
import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from coterie import __version__
from coterie.errors import CoterieError, DataError

if TYPE_CHECKING:
    from coterie.spec import Spec

SCHEMA = "coterie.result/1"
_INTERRUPTED = {
    "code": "interrupted",
    "what": "interrupted: the run is not complete",
    "where": "",
    "remedy": "To see what there is: coterie report RUN; to go on from the last checkpoint: coterie resume RUN",
}
_STATED = ("accuracy", "loss", "metrics")
_FIGURES = ("attack_rate", "epsilon", "seconds", "virtual_seconds", "bytes_sent")


def facts_of(spec: Spec) -> dict[str, Any]:
    """What the spec of a run says of it, as fields of a Result."""
    federation = spec.federation
    return {
        "spec_hash": spec.hash,
        "seed": spec.seed,
        "protocol": federation.protocol,
        "peers": federation.peers,
        "rounds": federation.rounds,
    }


def _no_figure() -> dict[str, float]:
    return {"mean": math.nan, "min": math.nan, "max": math.nan}


def summary(values: Sequence[float]) -> dict[str, float]:
    """``{"mean", "min", "max"}`` of ``values``; NaN where there are none, or one is NaN."""
    if not values or any(map(math.isnan, values)):
        return _no_figure()
    return {"mean": statistics.fmean(values), "min": min(values), "max": max(values)}


def final_figures(models: Sequence[tuple[float, float, float | None, float | None]]) -> dict[str, Any]:
    """What final models came to on the whole test set, as fields of a Result.

    ``models``: accuracy, loss, area under the ROC curve and attack rate of each; None for a figure that it has not.
    """
    areas = [area for _, _, area, _ in models if area is not None]
    rates = [rate for _, _, _, rate in models if rate is not None]
    return {
        "accuracy": summary([accuracy for accuracy, *_ in models]),
        "loss": summary([loss for _, loss, *_ in models]),
        "metrics": {"auc": statistics.fmean(areas)} if areas else {},
        "attack_rate": statistics.fmean(rates) if rates else None,
    }


@dataclass(frozen=True)
class Result:
    """What a run came to: the JSON object ``coterie.result/1``. A figure that is not known is NaN here and null there.

    For several seeds the figures are means over the runs that ended well, ``deviation`` holds the standard deviations,
    ``seed`` is None, and ``spec_hash`` and ``model_hash`` are the SHA-256 of those of the runs, in order.
    """

    status: str
    """``"ok"`` or ``"failed"``."""
    run: str = ""
    """The run directory; empty where there is none."""
    error: Mapping[str, str] | None = None
    spec_hash: str = ""
    seed: int | None = None
    protocol: str = ""
    peers: int = 0
    rounds: int = 0
    accuracy: Mapping[str, float] = field(default_factory=_no_figure)
    loss: Mapping[str, float] = field(default_factory=_no_figure)
    metrics: Mapping[str, float] = field(default_factory=dict)
    attack_rate: float | None = None
    epsilon: float | None = None
    seconds: float = 0.0
    virtual_seconds: float = 0.0
    bytes_sent: float = 0
    """By all peers together; whole, except as a mean over seeds."""
    model_hash: str = ""
    ledger: Mapping[str, Any] | None = None
    version: str = __version__
    seeds: tuple[int, ...] = ()
    runs: tuple[str, ...] = ()
    deviation: Mapping[str, Any] | None = None

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @classmethod
    def failure(cls, error: BaseException, **known: Any) -> Self:
        """The result of a run that ended with ``error``; ``known`` are the fields that are known all the same."""
        if isinstance(error, CoterieError):
            record = error.record()
        elif isinstance(error, KeyboardInterrupt):
            record = dict(_INTERRUPTED)
            if known.get("run"):
                record["remedy"] = record["remedy"].replace("RUN", shlex.quote(known["run"]))
        else:
            what = f"{type(error).__name__}: {error}".rstrip(": ")
            record = {"code": "internal", "what": what, "where": "", "remedy": "Please report this."}
        return cls(status="failed", error=record, **known)

    @staticmethod
    def of_seeds(results: Sequence[Result], run: str = "") -> Result:
        """One result for several seeds; ``run`` is the parent directory.

        Figures are means over the runs that ended well; the deviation is the sample standard deviation (n - 1), 0 for
        a single run. One failed run makes the whole failed, with the first error.
        """
        if not results:
            raise ValueError("there are no results to combine")
        good = [result for result in results if result.ok]
        failed = next((result for result in results if not result.ok), None)
        known = good or list(results)
        means: dict[str, Any] = {}
        spread: dict[str, Any] = {}
        for name in _STATED:
            tables = [getattr(result, name) for result in known]
            shared = [key for key in tables[0] if all(key in table for table in tables)]
            pairs = {key: _mean_std([table[key] for table in tables]) for key in shared}
            means[name] = {key: mean for key, (mean, _) in pairs.items()}
            spread[name] = {key: std for key, (_, std) in pairs.items()}
        for name in _FIGURES:
            values = [value for result in known if (value := getattr(result, name)) is not None]
            means[name], spread[name] = _mean_std(values) if values else (None, None)
        return replace(
            results[0],
            status="ok" if failed is None else "failed",
            error=None if failed is None else failed.error,
            run=run,
            spec_hash=_joined([result.spec_hash for result in results]),
            model_hash=_joined([result.model_hash for result in results]),
            ledger=None,
            seed=None,
            seeds=tuple(-1 if result.seed is None else result.seed for result in results),
            runs=tuple(result.run for result in results),
            deviation=spread,
            **means,
        )

    def to_json(self) -> dict[str, Any]:
        """The JSON object, with ``None`` for what is not known; ``json.dumps(allow_nan=False)`` takes it."""
        record: dict[str, Any] = {"schema": SCHEMA, "version": self.version, "status": self.status}
        record["error"] = dict(self.error) if self.error is not None else None
        record |= {"run": self.run or None, "spec_hash": self.spec_hash or None}
        record |= {"seeds": list(self.seeds), "runs": list(self.runs)} if self.seeds else {"seed": self.seed}
        record |= {"protocol": self.protocol or None, "peers": self.peers, "rounds": self.rounds}
        spread = self.deviation or {}
        for name in _STATED:
            inner = spread.get(name, {})
            record[name] = {k: self._figure(v, inner.get(k)) for k, v in getattr(self, name).items()}
        for name in _FIGURES:
            record[name] = self._figure(getattr(self, name), spread.get(name))
        return record | {"model_hash": self.model_hash or None, "ledger": dict(self.ledger) if self.ledger else None}

    def _figure(self, value: float | None, std: float | None) -> Any:
        return {"mean": _finite(value), "std": _finite(std)} if self.seeds and value is not None else _finite(value)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """The inverse of ``to_json``. Raises DataError for another schema or a missing key."""
        if record.get("schema") != SCHEMA:
            raise DataError(
                f"the schema is {record.get('schema')!r}, not {SCHEMA!r}",
                where="result.json",
                remedy="Use the version of Coterie that wrote it.",
            )
        try:
            return cls._read(record)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"a key is missing or has the wrong type: {error}", where="result.json", remedy="Run the spec again."
            ) from None

    @classmethod
    def _read(cls, record: Mapping[str, Any]) -> Self:
        several = "seeds" in record
        values: dict[str, Any] = {}
        spread: dict[str, Any] = {}
        for name in _STATED:
            pairs = {k: _pair(v) if several else (_number(v), None) for k, v in record[name].items()}
            values[name] = {k: mean for k, (mean, _) in pairs.items()}
            spread[name] = {k: std for k, (_, std) in pairs.items()}
        for name in _FIGURES:
            values[name] = record[name]
            if several and record[name] is not None:
                values[name], spread[name] = _pair(record[name])
        for name in ("attack_rate", "epsilon"):
            values[name] = None if values[name] is None else float(values[name])
        for name in ("seconds", "virtual_seconds"):
            values[name] = float(values[name])
        if not isinstance(values["bytes_sent"], int | float):
            raise TypeError("bytes_sent is no number")
        error, ledger = record["error"], record["ledger"]
        return cls(
            status=str(record["status"]),
            run=record["run"] or "",
            error=None if error is None else {str(k): str(v) for k, v in error.items()},
            spec_hash=record["spec_hash"] or "",
            seed=None if several else record["seed"],
            protocol=record["protocol"] or "",
            peers=int(record["peers"]),
            rounds=int(record["rounds"]),
            model_hash=record["model_hash"] or "",
            ledger=None if ledger is None else dict(ledger),
            version=str(record["version"]),
            seeds=tuple(record["seeds"]) if several else (),
            runs=tuple(record["runs"]) if several else (),
            deviation=spread if several else None,
            **values,
        )


def _mean_std(values: Sequence[float]) -> tuple[float, float]:
    """NaN where one of them is not finite: a mean of the others alone would flatter."""
    if not all(map(math.isfinite, values)):
        return math.nan, math.nan
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _joined(hashes: Sequence[str]) -> str:
    return hashlib.sha256("".join(hashes).encode()).hexdigest() if all(hashes) else ""


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _pair(value: Mapping[str, float | None]) -> tuple[float, float]:
    return _number(value["mean"]), _number(value["std"])
