"""Write docs/spec.md: every table and key of a spec, and every component that one can name.

    python tools/spec_reference.py [--check]

Names, types, bounds and defaults come from the code. What a key means comes from the comment on it in template.toml,
from the text below its field, from the docstring of its component, or from ``MEANINGS`` here; a key of which nothing is
said anywhere is an error. With ``--check`` nothing is written, and the exit status is 1 where the file is out of date.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

import coterie.runtime.catalog  # noqa: F401 - fills the registries
from coterie import registry
from coterie import spec as specs
from coterie.registry import Component, Registry

SOURCE = Path(specs.__file__)
TARGET = Path(__file__).resolve().parent.parent / "docs" / "spec.md"

TABLES: Mapping[str, str] = {
    "federation": "What the federation is.",
    "data": "What the peers learn from. Settings of the partition go here too.",
    "model": "What they train. Settings of the model go here too.",
    "training": "What a peer does alone, between two exchanges.",
    "aggregation": "How received models become one. Settings of the rule go here too.",
    "topology": "Who may talk to whom. Settings of the graph go here too.",
    "attack": "Who is malicious. Without this table nobody is. Settings of the attack go here too.",
    "compute": "How long work takes in simulated time. Not part of the spec's hash.",
    "network": "How messages travel in the simulation. Not part of the spec's hash.",
    "faults": "What goes wrong in the simulation. Not part of the spec's hash.",
    "run": "How the federation is run.",
    "evaluation": "How often the run is watched. Not part of the spec's hash.",
    "matrix": "What `coterie matrix` compares; `coterie run` takes no notice of it. An entry is a name, or a table of "
    'keys; `label` names its row or column, and a key with a dot, such as `"training.lr" = 0.1`, changes its runs '
    "alone. Not part of the spec's hash.",
}
MEANINGS: Mapping[str, str] = {
    "federation.name": "names the run directory, `runs/NAME`: up to 64 letters, digits, `.`, `_` and `-`",
    "training.lr_floor": "what is left of `lr` at the end of a linear or cosine schedule, as a share",
    "network.jitter": "each delivery takes latency x (1 + jitter x u), with u uniform in [0, 1)",
    "federation.seed": "decides everything that is random; a list gives means and deviations",
    "data.partition": "how it is divided: one of the partitions below",
    "data.root": "size of a public, class-balanced sample for rules that need one, taken from the training data first",
    "model.name": "one of the models below",
    "training.loss": "what is minimised: one of the losses below",
    "training.optimizer": "how a peer's steps are made",
    "training.schedule": "how `lr` falls over the rounds",
    "training.beta2": "Adam's second-moment decay; its first is `momentum`, or 0.9 where that is 0",
    "training.quasi_global_momentum": "share of the mixed model's last move that is kept; with adam the default is 0",
    "training.proximal": "FedProx's mu: pull towards the vector before the local steps",
    "training.local_steps": "steps a round; 10 where neither this nor `local_epochs` is set",
    "training.local_epochs": "instead of `local_steps`: passes over the peer's data a round",
    "topology.kind": "one of the topologies below",
    "attack.kind": "one of the attacks below",
    "mlp.hidden": "widths of the hidden layers, the first one first; empty gives `softmax`",
    "shuffled_labels.form": "random: a peer's labels are shuffled among its samples; permutation: each class becomes "
    "another",
    "label_flip.map": "from class to class; left out it is `{ 1 = 7 }`",
    "clip_and_trust.duplicate_tolerance": "models nearer to each other than this share of the median distance count as "
    "one; 0 counts only identical ones",
    "training.optimizer_state": "what becomes of the optimizer's state after a round: it starts anew, or is kept",
    "faults.crashes_per_minute": "mean rate at which each peer crashes, in simulated time",
    "faults.restart_seconds": "simulated time until a crashed peer starts again from what it had stored",
    "faults.partitions": "times when the network falls apart: tables `{ at, seconds, groups }`, with groups of peer "
    "numbers from 0",
    "run.oracle": "leave the attackers out: the reference beside an attack",
    "cnn.channels": "channels of the convolutional layers, one to three",
    "cnn.hidden": "widths of the hidden layers after them",
    "labels.labels_per_peer": "how many labels each peer holds",
    "regular.degree": "how many neighbours each peer has",
    "dirichlet.alpha": "the smaller, the more the peers' data differ",
    "quantity.alpha": "the smaller, the more the peers' numbers of samples differ",
    "small_world.degree": "how many nearest neighbours each peer has before edges are rewired",
    "small_world.rewire": "probability with which an edge is rewired",
    "scale_free.links": "how many peers each newcomer links to",
    "edges.edges": "pairs of peer numbers, from 0",
    "clip_and_trust_root.memory": "raise it if honest peers lose trust over a bad round: running means follow slower",
    "clip_and_trust_root.gate": "lower it if large moves still do harm; honest peers with unusual data are gated first",
    "clip_and_trust.newcomer_trust": "trust in a peer that was not a member from the start, before its first round",
}
KINDS: tuple[tuple[str, Registry, str], ...] = (
    ("Protocols", registry.protocols, "Named by `federation.protocol`; settings go in the table of its name."),
    ("Data sets", registry.datasets, "Named by `data.dataset`."),
    ("Partitions", registry.partitions, "Named by `data.partition`; settings go in `[data]`."),
    ("Models", registry.models, "Named by `model.name`; settings go in `[model]`."),
    ("Losses", registry.losses, "Named by `training.loss`."),
    ("Aggregation rules", registry.rules, "Named by `aggregation.rule`; settings go in `[aggregation]`."),
    ("Topologies", registry.topologies, "Named by `topology.kind`; settings go in `[topology]`."),
    ("Attacks", registry.attacks, "Named by `attack.kind`; settings go in `[attack]`."),
)
HEAD = """# The spec

A federation is one TOML file. Every key that is not marked as required has a default; an unknown key is an error that
names the nearest known one. `coterie new NAME` writes a file with the common keys and a comment on each, and
`--set table.key=value` changes a key for one run.

Where a key names a component, `"file.py:function"` names one of your own, sought in the folder of the spec, and
`"package.module:function"` one that Python can import. Keyword-only parameters of the function are its settings. A
value written as *none* stands for a key that is left out.

The spec's hash covers one seed and all tables but `[compute]`, `[network]`, `[faults]`, `[evaluation]` and
`[matrix]`, with components of your own by the content of their files.

This page is written by `tools/spec_reference.py` from the code.
"""

_SAID: set[str] = set()


def reference() -> str:
    """The page."""
    parts = [HEAD, "## Tables\n"]
    for name, model in specs.TABLES.items():
        parts.append(f"### [{name}]\n\n{TABLES[name]}\n")
        said = _field_docs()[model.__name__] | _comments(name)
        rows = {key: (field, _meaning(f"{name}.{key}", said.get(key, ""))) for key, field in model.model_fields.items()}
        parts.append(_table(rows))
    for title, known, where in KINDS:
        parts.append(f"## {title}\n\n{where}\n")
        parts += [_component(component) for component in sorted(known, key=lambda each: each.name)]
    stale = [key for key in MEANINGS if key not in _SAID]
    if stale:
        raise SystemExit(f"there is no {stale[0]} any more: remove it from MEANINGS")
    return "\n".join(parts)


def _component(component: Component) -> str:
    name = component.name + (":PATH" if component.traits.get("takes_path") else "")
    text = f"### {name}\n\n{component.summary.replace('``', '`')}\n"
    said = _settings_docs(component)
    rows = {
        key: (field, _meaning(f"{component.name}.{key}", said.get(key, "")))
        for key, field in component.options().model_fields.items()
    }
    return f"{text}\n{_table(rows)}" if rows else text


def _meaning(key: str, said: str) -> str:
    _SAID.add(key)
    text = MEANINGS.get(key) or said
    if not text:
        raise SystemExit(f"nothing is said of {key}: say it in template.toml, below its field or in its docstring")
    text = re.sub(r"'(coterie \w+)'", r"`\1`", text.replace("``", "`"))
    return " ".join(text.split()).rstrip(".")


def _table(rows: Mapping[str, tuple[FieldInfo, str]]) -> str:
    lines = ["| Key | Default | Takes | Meaning |", "|---|---|---|---|"]
    for key, (field, meaning) in rows.items():
        cells = (f"`{key}`", _default(field), _takes(field), meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "*none*" if value is None else f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"


def _takes(field: FieldInfo) -> str:
    limits = [*field.metadata, *_limits(field.annotation)]
    return ", ".join([_type(field.annotation), *filter(None, map(_bound, limits))])


def _type(annotation: Any) -> str:
    plain = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in plain:
        return plain[annotation]
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin is typing.Literal:
        return " or ".join(f"`{json.dumps(value)}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return _type(next(argument for argument in arguments if argument is not type(None)))
    if origin is dict:
        return "table"
    return "list" if arguments else "table"


def _limits(annotation: Any) -> Iterator[Any]:
    """The bounds of an optional annotation, as of ``Annotated[int, Field(ge=1)] | None``."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for argument in typing.get_args(annotation):
            yield from getattr(argument, "__metadata__", ())


def _bound(limit: Any) -> str:
    inner = [] if not isinstance(limit, FieldInfo) else limit.metadata
    if inner:
        return ", ".join(filter(None, map(_bound, inner)))
    words = {"ge": "from", "gt": "above", "le": "up to", "lt": "below", "multiple_of": "a multiple of"}
    return ", ".join(f"{word} {getattr(limit, name):g}" for name, word in words.items() if hasattr(limit, name))


def _comments(table: str) -> dict[str, str]:
    """``key = value  # comment`` of one table of the template, also where the line itself is a comment."""
    text = SOURCE.with_name("template.toml").read_text(encoding="utf-8")
    found = re.search(rf"^(?:# )?\[{table}\].*?\n(.*?)(?=^(?:# )?\[|\Z)", text, re.MULTILINE | re.DOTALL)
    return dict(re.findall(r"^(?:# )?(\w+) = .*?\s# (.+)$", found[1], re.MULTILINE)) if found else {}


def _field_docs() -> dict[str, dict[str, str]]:
    """The text below each field of each table's class."""
    docs: dict[str, dict[str, str]] = {}
    for node in ast.parse(SOURCE.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            below = docs.setdefault(node.name, {})
            for field, text in zip(node.body, node.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    match text:
                        case ast.Expr(ast.Constant(str(words))):
                            below[field.target.id] = words
    return docs


def _settings_docs(component: Component) -> dict[str, str]:
    """What the docstring says of each setting: ``key``: up to the next one, else the sentence that names ``key``."""
    text = " ".join((inspect.getdoc(component.function) or "").split("\n\n", 1)[-1].split())
    said = {}
    for key in component.options().model_fields:
        own = re.search(rf"``{key}``: (.+?)(?=(?:[;.] ``\w+``: )|\. [A-Z`]|\.?$)", text)
        own = own or re.search(rf"``{key}(?: = [^`]*)?``:? (.+?\.)", text)
        sentence = re.search(rf"(?:^|\. )([^.]*``{key}``[^.]*)", text)
        said[key] = own[1] if own else sentence[1] if sentence else ""
    return said


def main() -> int:
    page = reference()
    if "--check" in sys.argv[1:]:
        return 0 if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == page else 1
    TARGET.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
