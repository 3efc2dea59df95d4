"""What a worker is told: the data it works on, and the jobs it is given.

A job reads and writes only the blocks it names; snapshots are read only. Everything here goes through a pipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from coterie.runtime.work.memory import Block, SharedArray
from coterie.training import FitReport
from coterie.training.vector import LocalState


@dataclass(frozen=True)
class Arrays:
    """The data of a run, shared by all workers. Positions are rows of ``x`` and ``y``."""

    x: SharedArray
    y: SharedArray
    x_test: SharedArray
    y_test: SharedArray
    test_order: SharedArray
    """(n_test,) int64: a fixed order of the test set; the first ones are used during the run."""
    train: SharedArray
    """(n,) int64: every peer's training positions, one peer after another."""
    train_ends: tuple[int, ...]
    validation: SharedArray
    validation_ends: tuple[int, ...]
    root: SharedArray


@dataclass(frozen=True)
class Setup:
    """What a worker must know before its first job."""

    tables: dict[str, Any]
    base: str
    search_path: tuple[str, ...]
    data_shape: tuple[int, ...]
    classes: int
    arrays: Arrays
    founders: frozenset[str]
    numbers: tuple[int, ...]
    """Each peer's number in the spec, which seeds go by; an oracle run leaves some out."""
    spec_hash: str
    layout_hash: str = ""
    """Of the vectors; empty until a model has been built."""


class FitJob(msgspec.Struct, frozen=True):
    """Train a copy of ``source`` in ``target``; ``velocity`` is read, ``optimizer`` goes on from where it was."""

    peer: int
    round: int
    source: Block
    target: Block
    velocity: Block | None
    optimizer: tuple[Block, ...]
    count: int
    local: LocalState | None
    steps: int | None = None
    """In place of the spec's local steps or epochs."""


class FitOutcome(msgspec.Struct, frozen=True):
    report: FitReport
    count: int
    local: LocalState | None


class AggregateJob(msgspec.Struct, frozen=True):
    """Mix ``own`` with snapshots into ``target``, and let quasi-global momentum follow.

    ``base``: the vector before the ``steps`` local steps; it may be the target.
    """

    peer: int
    round: int
    steps: int
    own: Block
    base: Block
    target: Block
    velocity: Block | None
    received: tuple[Block, ...]
    degrees: tuple[int, ...]
    """In the graph, the peer's own first."""
    context: dict[str, Any]
    local: LocalState | None
    state: Any
    rule: str | None


class AggregateOutcome(msgspec.Struct, frozen=True):
    weights: dict[str, float]
    trust: dict[str, float] | None
    state: Any
    refused: tuple[str, ...]


class AttackJob(msgspec.Struct, frozen=True):
    """Craft what an attacker publishes into ``target``, from its own vector, its base and those of ``others``."""

    peer: int
    round: int
    own: Block
    base: Block
    target: Block
    others: tuple[Block, ...]
    attackers: int
    """How many collude."""


class CopyJob(msgspec.Struct, frozen=True):
    """Copy one block to another."""

    peer: int
    source: Block
    target: Block


class ClearJob(msgspec.Struct, frozen=True):
    """Fill a block with zeros."""

    peer: int
    target: Block


class EvaluateJob(msgspec.Struct, frozen=True):
    """Evaluate the vector on the first ``samples`` of the test set."""

    peer: int
    vector: Block
    samples: int
    local: LocalState | None


class MergeJob(msgspec.Struct, frozen=True):
    """Merge the models ``sources`` into ``target``: by one of the merging methods, or by the spec's rule."""

    peer: int
    round: int
    names: tuple[str, ...]
    sources: tuple[Block, ...]
    weights: tuple[float, ...]
    samples: tuple[int, ...]
    base: Block
    """The last merged model."""
    target: Block
    method: str
    """mean, coordmedian, geomedian; or ``rule``, that of ``[aggregation]``."""


class DigestJob(msgspec.Struct, frozen=True):
    """SHA-256 of a vector's little-endian elements, 32 bytes."""

    peer: int
    vector: Block


class JudgeJob(msgspec.Struct, frozen=True):
    """Evaluate the vector on the peer's held-out part; None where it has none."""

    peer: int
    vector: Block
    local: LocalState | None


Job: TypeAlias = FitJob | AggregateJob | AttackJob | CopyJob | ClearJob | EvaluateJob | MergeJob | DigestJob | JudgeJob
