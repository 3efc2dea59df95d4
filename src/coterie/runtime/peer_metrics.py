"""A record a peer and evaluated round: what the lines of ``metrics.jsonl`` hold."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from coterie.errors import DataError

if TYPE_CHECKING:
    from coterie.protocols import Mixed
    from coterie.training import Evaluation


@dataclass(frozen=True)
class PeerMetrics:
    """One peer after one evaluated round: one line of ``metrics.jsonl``. A number that is not finite is null there."""

    round: int
    peer: str
    index: int
    attacker: bool
    time: float
    """Virtual seconds since the start."""
    accuracy: float
    loss: float
    train_loss: float | None
    bytes_sent: int
    """By this peer so far."""
    weights: dict[str, float] = field(default_factory=dict)
    """Of the last aggregation, the peer's own included."""
    trust: dict[str, float] | None = None
    attack_rate: float | None = None
    """Share of the test samples of the attacked classes that are taken for what the attack wants; None without one."""

    @classmethod
    def of(cls, evaluation: Evaluation, mixed: Mixed | None, **where_and_when: Any) -> PeerMetrics:
        """What an evaluation found at a peer that last mixed in this way."""
        weights = {} if mixed is None else mixed.weights
        trust = None if mixed is None else mixed.trust
        return cls(
            accuracy=evaluation.accuracy,
            loss=evaluation.loss,
            attack_rate=evaluation.attack_rate,
            weights=dict(weights),
            trust=None if trust is None else {peer: trust[peer] for peer in weights if peer in trust},
            **where_and_when,
        )


class _Line(msgspec.Struct):
    """PeerMetrics as read back: null stands for a number that was not finite."""

    round: int
    peer: str
    index: int
    attacker: bool
    time: float
    accuracy: float | None
    loss: float | None
    train_loss: float | None
    bytes_sent: int
    weights: dict[str, float | None]
    trust: dict[str, float | None] | None
    attack_rate: float | None = None

    def record(self) -> PeerMetrics:
        values = {f.name: getattr(self, f.name) for f in fields(PeerMetrics)}
        values["accuracy"], values["loss"] = _or_nan(self.accuracy), _or_nan(self.loss)
        values["weights"] = {peer: _or_nan(value) for peer, value in self.weights.items()}
        values["trust"] = None if self.trust is None else {peer: _or_nan(v) for peer, v in self.trust.items()}
        return PeerMetrics(**values)


def line_of(record: PeerMetrics) -> bytes:
    """The line of a record, with its end."""
    return msgspec.json.encode(record, enc_hook=_plain) + b"\n"


def parse_records(lines: Iterable[bytes], where: str) -> Iterator[PeerMetrics]:
    """The records of lines of a ``metrics.jsonl``, up to one without an end. Raises DataError for another line."""
    decoder = msgspec.json.Decoder(_Line)
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            return  # the run was killed while it wrote this line
        try:
            yield decoder.decode(line).record()
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DataError(
                f"the line cannot be read: {error}",
                where=f"{where}, line {number}",
                remedy="Remove that line, or run the spec again.",
            ) from None


class NewRecords:
    """The records of a ``metrics.jsonl`` that is being written, as they come."""

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0

    def take(self) -> list[PeerMetrics]:
        """Those of the whole lines that have come since the last look. Raises DataError for a damaged line."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as stream:
            stream.seek(self._read)
            content = stream.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._read += len(whole)
        return list(parse_records(whole.splitlines(keepends=True), str(self._path)))


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _plain(value: Any) -> Any:
    """A numpy scalar as the Python number it stands for."""
    return value.item()
