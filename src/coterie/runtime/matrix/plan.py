"""From a spec with ``[matrix]`` to the runs that it asks for, each checked before the first one begins.

An entry of ``[matrix]`` is a name or a table. Beside the keys of the table it stands for, an entry may have ``label``,
the name of its row or column, and keys with a dot, such as ``"training.local_steps" = 10``, that change its runs alone.
What decides who holds which data and who attacks may differ from split to split only: all rows and columns of one table
meet the same data and the same attackers.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coterie import spec as specs
from coterie.errors import SpecError, near_miss
from coterie.runtime.work.placement import require_root
from coterie.spec import MatrixTable, Spec

NONE = "none"
"""The column in which nobody attacks."""
REFERENCES = ("oracle", "root_only")
_ORACLE_RULE = "metropolis"
_KEY = re.compile(r"(\w+)\.(\w+)")
_SHARED = ("data", "attack", "aggregation", "matrix", "federation.seed", "federation.peers")
"""Tables and keys that an entry cannot change with a dotted key."""
_LABEL = 60

Tables = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Panel:
    """One table of figures: the rows are rules, then references; the columns are attacks."""

    split: str
    fraction: float | None
    """Share of attackers, of the attacks that do not set their own; None where there are none such."""
    rules: tuple[str, ...]
    references: tuple[str, ...]
    attacks: tuple[str, ...]
    cells: Mapping[tuple[str, str], str]
    """(row, column) -> the key of the run that fills the cell; several cells may share one."""

    @property
    def title(self) -> str:
        """What the table is about."""
        return self.split if self.fraction is None else f"{self.split}, {100 * self.fraction:g} % attackers"


@dataclass(frozen=True)
class Plan:
    """All tables, and the runs that fill them: each of ``runs`` once a seed."""

    spec: Spec
    panels: tuple[Panel, ...]
    runs: Mapping[str, Tables]
    """The tables of each run without its seed, by key."""
    seeds: tuple[int, ...]
    datasets: Mapping[str, Spec]
    """A spec for each data set, by its name."""
    plugins: Mapping[str, str]
    """The user's own components: SHA-256 of their files."""

    @property
    def definition(self) -> dict[str, Any]:
        """What must not change while the matrix is under way; for JSON. Seeds may be added."""
        tables = {name: table for name, table in self.spec.resolved().items() if name != "evaluation"}
        tables["federation"] = {key: value for key, value in tables["federation"].items() if key != "seed"}
        whole = {"spec": tables, "plugins": dict(self.plugins)}
        read: dict[str, Any] = json.loads(json.dumps(whole, default=str))
        return read


@dataclass(frozen=True)
class _Entry:
    label: str
    table: str
    settings: Mapping[str, Any]
    """Keys of the table it stands for, which is ``table``."""
    changes: Mapping[str, Any]
    """Dotted keys."""
    where: str


@dataclass
class _Builder:
    """Collects runs by key; a run that several cells ask for is there once."""

    runs: dict[str, Tables] = field(default_factory=dict)
    plugins: dict[str, str] = field(default_factory=dict)

    def add(self, tables: Tables, changes: Mapping[str, Any], base: Path) -> str:
        spec = specs.check(tables, base)
        if changes:
            spec = spec.with_values(changes)
        spec = spec.with_values({"evaluation.every": spec.federation.rounds})  # nobody looks at a run in its middle
        require_root(spec)
        key = run_key(spec)
        self.runs[key] = {name: dict(table) for name, table in spec.given.items()}
        self.runs[key].get("federation", {}).pop("seed", None)
        self.plugins |= {c.name: c.digest for c in spec.components if c.digest}
        return key


def run_key(spec: Spec) -> str:
    """SHA-256 (hex) of all that decides the figures of a run, but its seed."""
    tables = {name: table for name, table in spec.resolved().items() if name != "matrix"}
    kept = {key: value for key, value in tables["federation"].items() if key not in ("name", "seed")}
    plugins = {c.name: c.digest for c in spec.components if c.digest}
    text = json.dumps({**tables, "federation": kept, "plugins": plugins}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def plan(spec: Spec) -> Plan:
    """The runs that the ``[matrix]`` of ``spec`` asks for, over its seeds.

    Raises SpecError, naming the entry, for anything that is wrong in any of them.
    """
    table = spec.matrix
    if table is None:
        raise SpecError(
            "there is no table [matrix]", where="matrix", remedy='Add [matrix] with rules = ["metropolis", ...].'
        )
    rules, attacks = (
        _entries(table.rules, "rules", "aggregation.rule"),
        _entries(table.attacks, "attacks", "attack.kind"),
    )
    splits = _entries(table.splits, "splits", "data.partition", spec.data.partition)
    references = _entries(table.references, "references", "aggregation.kind")
    if len(set(table.fractions)) < len(table.fractions):
        raise SpecError("a share is there twice", where="matrix.fractions", remedy="Name each once.")
    for each in references:
        if each.settings["kind"] not in REFERENCES:
            kind = str(each.settings["kind"])
            raise SpecError(f"unknown reference {kind!r}", where=each.where, remedy=near_miss(kind, REFERENCES))
    twice = _repeated([each.label for each in (*rules, *references)])
    if twice:
        raise SpecError(f"two rows are called {twice!r}", where="matrix.references", remedy="Give one a label.")
    builder, panels, datasets = _Builder(), [], {}
    for split in splits:
        with _at(split):
            base = _without(spec).with_values({f"data.{key}": value for key, value in split.settings.items()})
            base = base.with_values(split.changes) if split.changes else base
        datasets[base.data.dataset] = base
        panels += [
            _panel(builder, base, split.label, fraction, rules, references, attacks)
            for fraction in _fractions(table, attacks)
        ]
    return Plan(spec, tuple(panels), builder.runs, spec.seeds, datasets, builder.plugins)


def _fractions(table: MatrixTable, attacks: Sequence[_Entry]) -> list[float] | list[None]:
    """One panel a share of attackers, where there are attacks that leave it open."""
    open_ = any(each.settings["kind"] != NONE and "fraction" not in each.settings for each in attacks)
    return list(table.fractions) if open_ else [None]


def _panel(
    builder: _Builder,
    base: Spec,
    split: str,
    fraction: float | None,
    rules: Sequence[_Entry],
    references: Sequence[_Entry],
    attacks: Sequence[_Entry],
) -> Panel:
    cells = {}
    first: dict[str, dict[str, Any]] = {}
    for attack in attacks:
        table = None if attack.settings["kind"] == NONE else {"fraction": fraction, **attack.settings}
        for rule in rules:
            with _at(rule, attack):
                tables = _tables(base, rule.settings, table)
                cells[rule.label, attack.label] = builder.add(tables, {**attack.changes, **rule.changes}, base.base)
        for reference in references:
            with _at(reference, attack):
                settings = {key: value for key, value in reference.settings.items() if key != "kind"}
                if reference.settings["kind"] == "root_only":
                    tables = _root_only(base, settings)
                else:
                    # any attack draws the same attackers: one run serves all columns of this share
                    like = json.dumps([(table or {}).get("fraction"), attack.changes], default=str)
                    left_out = None if table is None else first.setdefault(like, table)
                    tables = _tables(base, {"rule": _ORACLE_RULE, **settings}, left_out)
                    if left_out is not None:
                        tables["run"] = {**tables.get("run", {}), "oracle": True}
                changes = {**attack.changes, **reference.changes}
                cells[reference.label, attack.label] = builder.add(tables, changes, base.base)
    rows, further, columns = (tuple(each.label for each in entries) for entries in (rules, references, attacks))
    return Panel(split, fraction, rows, further, columns, cells)


def _tables(base: Spec, rule: Mapping[str, Any], attack: Mapping[str, Any] | None) -> Tables:
    tables = {name: dict(table) for name, table in base.given.items()}
    tables["aggregation"] = dict(rule)
    return tables if attack is None else {**tables, "attack": dict(attack)}


def _root_only(base: Spec, settings: Mapping[str, Any]) -> Tables:
    if settings:
        raise SpecError("root_only mixes nothing", where=next(iter(settings)), remedy="Remove this key.")
    tables = {name: dict(table) for name, table in base.given.items()}
    tables.pop(base.protocol.component.name.rpartition(":")[2], None)  # a protocol of one's own: not known to others
    return {**tables, "federation": {**tables.get("federation", {}), "protocol": "root_only"}}


def _without(spec: Spec) -> Spec:
    """The spec without the tables that the matrix fills in."""
    filled = ("matrix", "aggregation", "attack")
    return specs.check({name: table for name, table in spec.given.items() if name not in filled}, spec.base)


def _entries(given: Sequence[Any], axis: str, key: str, default: str = "") -> list[_Entry]:
    """The entries of one list of ``[matrix]``; ``key`` is the table they stand for and the key that names them."""
    table, _, naming = key.partition(".")
    entries = []
    for number, written in enumerate(given, 1):
        where = f"matrix.{axis}, entry {number}"
        content = {naming: written} if isinstance(written, str) else dict(written)
        label = content.pop("label", None)
        changes = {key: content.pop(key) for key in list(content) if "." in key}
        for change in changes:
            _check_change(change, where)
        name = content.get(naming, default)
        if not isinstance(name, str) or not name:
            raise SpecError(f"it has no {naming}", where=where, remedy=f'Write {{ {naming} = "..." }}.')
        content.setdefault(naming, name)
        if key == "attack.kind" and name == NONE and len(content) > 1:
            raise SpecError("nobody attacks in it, so it takes no settings", where=where, remedy='Write "none".')
        shown = {key: value for key, value in (content | changes).items() if key != naming}
        label = _label(name, shown) if label is None else label
        if not isinstance(label, str) or not 0 < len(label) <= _LABEL or not label.isprintable():
            raise SpecError(
                f"{label!r} cannot be a label",
                where=where,
                remedy=f"Set label to a text of up to {_LABEL} characters in one line.",
            )
        entries.append(_Entry(label, table, content, changes, where))
    twice = _repeated([each.label for each in entries])
    if twice:
        raise SpecError(f"{twice!r} is there twice", where=f"matrix.{axis}", remedy="Remove one, or give it a label.")
    return entries


def _check_change(key: str, where: str) -> None:
    found = _KEY.fullmatch(key)
    if not found:
        raise SpecError(f"{key!r} is not a key", where=where, remedy='Write "table.key", such as "training.lr".')
    if found[1] in _SHARED or key in _SHARED:
        raise SpecError(
            f"{key} cannot differ from entry to entry: the runs of a table share it",
            where=where,
            remedy="Set it in the table of the spec, or data keys in matrix.splits.",
        )


def _label(name: str, settings: Mapping[str, Any]) -> str:
    """``name (key = value, ...)``, cut where it is long."""
    if not settings:
        return name
    inner = ", ".join(
        f"{key} = {value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items()
    )
    text = f"{name} ({inner})"
    return text if len(text) <= _LABEL else f"{text[: _LABEL - 1]}…"


def _repeated(labels: Sequence[str]) -> str:
    return next((label for number, label in enumerate(labels) if label in labels[:number]), "")


@contextmanager
def _at(*entries: _Entry) -> Iterator[None]:
    """Put the entry that is to blame before the place that a SpecError names; all of them where none is alone."""
    try:
        yield
    except SpecError as error:
        at = error.where
        guilty = [each for each in entries if at in each.changes or at.partition(".")[0] == each.table] or entries
        error.where = f"{' with '.join(each.where for each in guilty)}: {at}".removesuffix(": ")
        raise
