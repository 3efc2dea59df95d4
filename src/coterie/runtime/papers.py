"""Papers whose results can be run again: where their specs lie, and what was published.

A paper is a folder with ``paper.toml``, the index, and two specs a published figure: ``SPEC.toml`` is the published
method, ``SPEC_ours.toml`` Coterie's on the same data. The folders lie in ``papers/`` of a checkout, and in the package
once it is installed.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from coterie import spec as specs
from coterie.errors import DataError, SpecError, near_miss
from coterie.registry import explain
from coterie.spec import Spec, Table

INDEX = "paper.toml"
_PACKAGE = Path(__file__).resolve().parents[1]
Figure = Annotated[float, Field(ge=0, le=1)]


class Row(Table):
    """A published figure and the specs that stand beside it."""

    name: str
    spec: str
    published: Figure
    note: str = ""


class Missing(Table):
    """A published figure that cannot be run."""

    name: str
    published: Figure
    reason: str


class Quick(Table):
    """What ``--quick`` changes: ``sets`` in every spec, ``theirs`` and ``ours`` in those."""

    sets: list[str]
    theirs: list[str]
    ours: list[str]
    margin: Figure
    """How far ours may be below theirs."""
    floor: Figure
    """What ours must reach at least."""


class Index(Table):
    """``paper.toml``."""

    title: str
    source: str
    measure: str
    notes: list[str] = Field(default_factory=list)
    quick: Quick
    row: Annotated[list[Row], Field(min_length=1)]
    missing: list[Missing] = Field(default_factory=list)


@dataclass(frozen=True)
class Paper:
    """A paper: the name of its folder, the folder, and what its index says."""

    name: str
    folder: Path
    index: Index

    @classmethod
    def open(cls, folder: Path) -> Paper:
        """The paper in ``folder``. Raises DataError or SpecError for an index that cannot be read."""
        path = folder / INDEX
        try:
            return cls(folder.name, folder, Index(**tomllib.loads(path.read_text(encoding="utf-8"))))
        except ValidationError as error:
            raise explain(error, str(path), Index.model_fields) from None
        except (OSError, ValueError) as error:
            raise DataError(f"cannot be read: {error}", where=str(path), remedy="Install Coterie again.") from None

    def load(self, row: Row, *, ours: bool, quick: bool) -> Spec:
        """The spec of the published method of ``row``, or ours; smaller where ``quick``."""
        extra = (*self.index.quick.sets, *(self.index.quick.ours if ours else self.index.quick.theirs))
        return specs.load(self.folder / f"{row.spec}{'_ours' if ours else ''}.toml", extra if quick else ())


def known(home: Path | None = None) -> dict[str, Paper]:
    """All papers by name, in order. ``home``: their folder, where it is not Coterie's own."""
    places = [home] if home is not None else [_PACKAGE / "papers", _PACKAGE.parents[1] / "papers"]
    found = next((sorted(place.glob(f"*/{INDEX}")) for place in places if any(place.glob(f"*/{INDEX}"))), [])
    return {path.parent.name: Paper.open(path.parent) for path in found}


def find(name: str, home: Path | None = None) -> Paper:
    """The paper called ``name``. Raises SpecError for one that is not there."""
    papers = known(home)
    if name not in papers:
        raise SpecError(f"there is no paper {name!r}", where="PAPER", remedy=near_miss(name, papers))
    return papers[name]
