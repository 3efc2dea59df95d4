"""What a federation is: the spec, its tables, its defaults and its canonical hash.

A spec is TOML. Every table below is checked key by key; tables that name a component (``[data]``, ``[model]``,
``[aggregation]``, ``[topology]``, ``[attack]``, and the protocol's own) also take that component's settings.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from coterie import registry
from coterie.errors import SpecError, near_miss
from coterie.registry import Component, Registry, explain

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class Table(BaseModel):
    """A table of the spec: its keys are checked strictly; a number must be finite."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class FederationTable(Table):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = "digits"
    protocol: str = "gossip"
    peers: Count = 10
    rounds: Count = 80
    seed: Annotated[int, Field(ge=0)] = 7


class DataTable(Table):
    dataset: str = "digits"
    partition: str = "dirichlet"
    samples_per_peer: Count | None = None
    validation: Share = 0.1
    root: Annotated[int, Field(ge=0)] = 0
    """Size of the public, class-balanced sample taken from the training data before it is divided."""
    scaling: Literal["pooled", "none"] = "pooled"
    """Of a table's columns. pooled: mean 0, deviation 1 over all peers, from each peer's sums; none: as they are.
    Images are scaled by published constants, and data of one's own is taken as it is."""


class ModelTable(Table):
    name: str = "mlp"


class TrainingTable(Table):
    loss: str = "cross_entropy"
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: Positive = 0.3
    momentum: Share = 0.0
    beta2: Share = 0.999
    """Adam's second-moment decay; its first is ``momentum``, or 0.9 where that is 0."""
    weight_decay: NotNegative = 0.0
    clip: NotNegative = 2.0
    """Largest Euclidean norm of a gradient; 0 does not clip."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    lr_floor: Annotated[float, Field(ge=0, le=1)] = 0.05
    """What is left of ``lr`` at the end of a linear or cosine schedule, as a share."""
    quasi_global_momentum: Share = 0.9
    """Beta of quasi-global momentum; by default 0.9 with sgd and 0 with adam."""
    proximal: NotNegative = 0.0
    """FedProx's mu."""
    optimizer_state: Literal["reset", "keep"] = "reset"
    batch_size: Count = 32
    local_steps: Count | None = None
    local_epochs: Count | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_momentum(cls, table: Any) -> Any:
        if isinstance(table, dict) and "quasi_global_momentum" not in table:
            return {**table, "quasi_global_momentum": 0.0 if table.get("optimizer") == "adam" else 0.9}
        return table

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.local_steps is not None and self.local_epochs is not None:
            raise ValueError("set local_steps or local_epochs, not both")
        if self.quasi_global_momentum and self.optimizer != "sgd":
            raise ValueError("quasi_global_momentum goes with optimizer = 'sgd'")
        return self


class AggregationTable(Table):
    rule: str = "clip_and_trust"


class TopologyTable(Table):
    kind: str = "full"


class AttackTable(Table):
    kind: str
    fraction: Share = 0.3


class ComputeTable(Table):
    seconds_per_step: NotNegative = 0.01
    spread: NotNegative = 0.2
    """Sigma of the log-normal factor on a peer's speed: 0 makes all peers equally fast."""
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    """Where fits and evaluations are computed; auto: on cuda if there is one. Results differ in rounding."""


class NetworkTable(Table):
    latency_ms: NotNegative = 20.0
    jitter: NotNegative = 0.5
    """Each delivery takes latency x (1 + jitter x u), u uniform in [0, 1)."""
    bandwidth_mbps: Positive = 100.0
    loss: Share = 0.0


class PartitionFault(Table):
    at: NotNegative
    seconds: Positive
    groups: list[list[Annotated[int, Field(ge=0)]]]


class FaultsTable(Table):
    crashes_per_minute: NotNegative = 0.0
    """Mean rate of each peer, in virtual time."""
    restart_seconds: Positive = 5.0
    partitions: list[PartitionFault] = []


class RunTable(Table):
    checkpoint_every: Annotated[int, Field(ge=0)] = 10
    """Rounds from one checkpoint to the next, each a barrier at which all peers meet; 0 makes none."""
    oracle: bool = False
    exact_kernels: bool = False
    """Train and evaluate every module by autograd, also where faster kernels know it."""


class EvaluationTable(Table):
    every: Count = 1
    samples: Count = 2000


Entries = Annotated[list[str | dict[str, Any]], Field(min_length=1)]


class MatrixTable(Table):
    rules: Entries
    """The rows: each a name, or a table of keys of ``[aggregation]``."""
    attacks: Entries = ["none"]
    """The columns: each ``"none"``, a name, or a table of keys of ``[attack]``."""
    splits: Annotated[list[dict[str, Any]], Field(min_length=1)] = [{}]
    """A table of figures for each: keys of ``[data]``, laid over those of the file."""
    fractions: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=1)] = [0.3]
    """Shares of attackers, for attacks that do not set their own."""
    references: list[str | dict[str, Any]] = []
    """Further rows: ``"oracle"`` leaves the attackers out, with ``metropolis``, or with another rule where it is
    written ``{ kind = "oracle", rule = "mean" }``; ``"root_only"`` is that protocol.
    """


TABLES: Mapping[str, type[Table]] = {
    "federation": FederationTable,
    "data": DataTable,
    "model": ModelTable,
    "training": TrainingTable,
    "aggregation": AggregationTable,
    "topology": TopologyTable,
    "attack": AttackTable,
    "compute": ComputeTable,
    "network": NetworkTable,
    "faults": FaultsTable,
    "run": RunTable,
    "evaluation": EvaluationTable,
    "matrix": MatrixTable,
}
_OPTIONAL = ("attack", "matrix")
"""Tables that stand for nothing where they are not written."""
_NAMING: Mapping[str, tuple[str, Registry]] = {
    "data": ("partition", registry.partitions),
    "model": ("name", registry.models),
    "aggregation": ("rule", registry.rules),
    "topology": ("kind", registry.topologies),
    "attack": ("kind", registry.attacks),
}
"""Tables that take the settings of the component one of their keys names."""


@dataclass(frozen=True)
class Choice:
    """A component the spec names, with its checked settings as keyword arguments."""

    component: Component
    settings: Mapping[str, Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.component.function(*args, **kwargs, **self.settings)


@dataclass(frozen=True)
class Spec:
    """A checked spec for one seed: the first of ``seeds``. ``base`` is the folder that relative paths start from."""

    LEFT_OUT: ClassVar = ("compute", "network", "faults", "evaluation", "matrix")
    """Tables that say how a federation is simulated, watched or compared, not what it is: not part of the hash."""

    federation: FederationTable
    data: DataTable
    model: ModelTable
    training: TrainingTable
    aggregation: AggregationTable
    topology: TopologyTable
    attack: AttackTable | None
    compute: ComputeTable
    network: NetworkTable
    faults: FaultsTable
    run: RunTable
    evaluation: EvaluationTable
    matrix: MatrixTable | None
    protocol: Choice
    dataset: Component
    loss: Component
    choices: Mapping[str, Choice]
    """The chosen partition, model, rule, topology and attack, under the names of their tables."""
    seeds: tuple[int, ...]
    base: Path
    given: Mapping[str, Any]
    """The tables as written, for sending to worker processes."""

    @property
    def seed(self) -> int:
        return self.federation.seed

    @property
    def is_for_scripts(self) -> bool:
        """Whether model and data are those of each site's own training script."""
        return bool(self.dataset.traits.get("script"))

    @property
    def local_steps(self) -> int | None:
        """Steps a round; None where ``local_epochs`` decides."""
        table = self.training
        return None if table.local_epochs is not None else table.local_steps or 10

    def evaluates(self, round: int) -> bool:
        """Whether the models are looked at after this round, counted from 0: every so many, and the last."""
        return (round + 1) % self.evaluation.every == 0 or round + 1 >= self.federation.rounds

    def resolved(self) -> dict[str, dict[str, Any]]:
        """All tables with defaults and component settings filled in: what ``spec.toml`` in a run directory holds."""
        tables: dict[str, dict[str, Any]] = {}
        for name in TABLES:
            table = getattr(self, name)
            if table is not None:
                tables[name] = table.model_dump(exclude_none=True)
                if name in self.choices:
                    tables[name] |= {k: v for k, v in self.choices[name].settings.items() if v is not None}
        if self.protocol.settings:
            settings = {k: v for k, v in self.protocol.settings.items() if v is not None}
            tables[_table_name(self.protocol.component)] = settings
        if self.local_steps is not None:
            tables["training"]["local_steps"] = self.local_steps
        return tables

    @property
    def components(self) -> tuple[Component, ...]:
        """Everything the spec names."""
        return self.protocol.component, self.dataset, self.loss, *(c.component for c in self.choices.values())

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of the canonical JSON of what the federation is, plug-ins by the content of their file."""
        tables = {name: table for name, table in self.resolved().items() if name not in self.LEFT_OUT}
        tables["plugins"] = {c.name: c.digest for c in self.components if c.digest}
        text = json.dumps(tables, sort_keys=True, separators=(",", ":"), default=str)  # a date, for one, is no JSON
        return hashlib.sha256(text.encode()).hexdigest()

    def each_seed(self) -> list[Spec]:
        """The same spec for each of its seeds alone."""
        return [self.with_values({"federation.seed": seed}) for seed in self.seeds]

    def with_values(self, values: Mapping[str, Any]) -> Spec:
        """The same spec with some dotted keys changed, such as ``{"federation.seed": 8}``."""
        tables = {name: dict(table) for name, table in self.given.items()}
        for key, value in values.items():
            _set(tables, key, value, self.base)
        return check(tables, self.base)


def load(
    source: str | Path | Mapping[str, Any] | Spec | None = None,
    sets: Iterable[str] = (),
    seeds: Sequence[int] | None = None,
) -> Spec:
    """A spec from a TOML file, from tables, or the built-in one, with ``sets`` (``"a.b=value"``) applied over it.

    A value is read as TOML; what is not TOML is taken as a string. Where it names another component, the settings of
    the one before go. ``seeds``: in place of those of the spec. Raises SpecError for the first thing that is wrong.
    """
    if isinstance(source, Spec):
        tables, base = {name: dict(table) for name, table in source.given.items()}, source.base
    elif isinstance(source, Mapping):
        tables, base = {str(name): table for name, table in source.items()}, Path.cwd()
    elif source is None:
        tables, base = {}, Path.cwd()
    else:
        tables, base = _read(Path(source)), Path(source).resolve().parent
    for assignment in sets:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise SpecError(f"{assignment!r} has no '='", where="--set", remedy="Write --set table.key=value.")
        _set(tables, key.strip(), _value(text.strip()), base)
    if seeds is not None:
        _set(tables, "federation.seed", list(seeds), base)
    return check(tables, base)


def check(tables: Mapping[str, Any], base: Path) -> Spec:
    """The Spec that ``tables`` mean. Raises SpecError naming the key, a near miss and the remedy."""
    written, seeds = tables, _seeds(tables)
    tables = {**tables, "federation": {**_table(tables, "federation"), "seed": seeds[0]}} if seeds else tables
    checked: dict[str, Any] = {}
    extras: dict[str, dict[str, Any]] = {}
    for name, model in TABLES.items():
        if name in _OPTIONAL and name not in tables:
            checked[name] = None
            continue
        content = dict(_table(tables, name))
        if name in _NAMING:
            extras[name] = {key: content.pop(key) for key in list(content) if key not in model.model_fields}
        checked[name] = _validate(model, content, name)
    choices = {}
    for name, (key, known) in _NAMING.items():
        if checked[name] is not None:
            component = known.resolve(getattr(checked[name], key), base, f"{name}.{key}")
            choices[name] = Choice(component, _component_settings(component, extras[name], name))
    protocol = registry.protocols.resolve(checked["federation"].protocol, base, "federation.protocol")
    _check_protocol_tables(tables, protocol)
    own = _table(tables, _table_name(protocol))
    return Spec(
        **checked,
        protocol=Choice(protocol, protocol.settings(own, _table_name(protocol))),
        dataset=registry.datasets.resolve(checked["data"].dataset, base, "data.dataset"),
        loss=registry.losses.resolve(checked["training"].loss, base, "training.loss"),
        choices=choices,
        seeds=seeds or (checked["federation"].seed,),
        base=base,
        given=written,
    )


def _seeds(tables: Mapping[str, Any]) -> tuple[int, ...]:
    """The seeds, where the spec gives a list of them."""
    given = _table(tables, "federation").get("seed")
    if not isinstance(given, list):
        return ()
    if not given or len(set(map(repr, given))) < len(given):
        raise SpecError(
            f"{given} is not a list of different seeds", where="federation.seed", remedy="Name each seed once."
        )
    for seed in given:
        _validate(FederationTable, {"seed": seed}, "federation")
    return tuple(given)


def _component_settings(component: Component, given: Mapping[str, Any], table: str) -> dict[str, Any]:
    options = component.options().model_fields
    for key in given:
        if key not in options:
            known = [*TABLES[table].model_fields, *options]
            raise SpecError("unknown key", where=f"{table}.{key}", remedy=near_miss(key, known))
    return component.settings(given, table)


def _check_protocol_tables(tables: Mapping[str, Any], protocol: Component) -> None:
    """Tables of protocols not in use are checked too, so that one file serves for several; others are unknown."""
    own = _table_name(protocol)
    if own in TABLES:
        raise SpecError(
            f"a protocol cannot be called {own!r}, as a table of the spec is",
            where="federation.protocol",
            remedy="Rename the function.",
        )
    for name in tables:
        if name in TABLES or name == own:
            continue
        if name not in registry.protocols:
            known = {*TABLES, own, *(c.name for c in registry.protocols)}
            raise SpecError(f"unknown table [{name}]", where=name, remedy=near_miss(name, known))
        registry.protocols.resolve(name, Path(), name).settings(_table(tables, name), name)


def _table_name(protocol: Component) -> str:
    return protocol.name.rpartition(":")[2]


def _table(tables: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    content = tables.get(name, {})
    if not isinstance(content, Mapping):
        raise SpecError(
            f"this must be a table, not {content!r}", where=name, remedy=f"Write [{name}] and keys under it."
        )
    for key, value in content.items():
        if value is None:
            raise SpecError("None cannot be written in TOML", where=f"{name}.{key}", remedy="Leave the key out.")
    return {str(key): value for key, value in content.items()}


def _validate(model: type[Table], content: Mapping[str, Any], where: str) -> Table:
    try:
        return model(**content)
    except ValidationError as error:
        raise explain(error, where, model.model_fields) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        meant = path.with_name(f"{path.name}.toml")
        remedy = f"Did you mean {meant}?" if meant.is_file() else "Make one with 'coterie new NAME'."
        raise SpecError(f"there is no file {path}", where="the spec", remedy=remedy) from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SpecError(f"not valid TOML: {error}", where=str(path), remedy="Correct that line.") from None
    except (OSError, ValueError) as error:
        raise SpecError(f"cannot be read: {error}", where=str(path), remedy="Name a TOML file.") from None


def _set(tables: dict[str, Any], key: str, value: Any, base: Path) -> None:
    table, dot, rest = key.partition(".")
    if not dot or not table or not rest or "." in rest:
        raise SpecError(f"{key!r} is not a key", where="--set", remedy="Write table.key, such as federation.peers.")
    content = tables.get(table, {})
    kept = dict(content) if isinstance(content, Mapping) else {}
    if table in _NAMING and rest == _NAMING[table][0] and value != kept.get(rest) and isinstance(value, str):
        known = {*TABLES[table].model_fields, *_NAMING[table][1].resolve(value, base, key).options().model_fields}
        kept = {name: content for name, content in kept.items() if name in known}
    tables[table] = {**kept, rest: value}


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, KeyError, RecursionError):  # of ValueErrors also that of a number of thousands of digits
        return text
