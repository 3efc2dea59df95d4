"""``coterie matrix``: run what is not done yet, write everything down, and draw the tables."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import coterie.runtime.catalog  # noqa: F401 - fills the registries
from coterie import __version__, data
from coterie import spec as specs
from coterie.errors import DataError, SpecError, WorkerLost
from coterie.runtime.matrix.journal import Journal
from coterie.runtime.matrix.plan import Plan, plan
from coterie.runtime.matrix.plot import heat_maps
from coterie.runtime.matrix.pool import Job, run_jobs
from coterie.runtime.matrix.progress import MatrixProgress
from coterie.runtime.matrix.summary import SCHEMA, summarise
from coterie.runtime.matrix.tables import markdown
from coterie.runtime.results import Result, RunDirectory, json_text
from coterie.runtime.run_files import reading
from coterie.spec import Spec

JOURNAL, FIGURES, TABLES, IMAGE = "cells.jsonl", "matrix.json", "matrix.md", "matrix.png"
_LIBRARIES = ("torch", "numpy")


@dataclass(frozen=True)
class Outcome:
    """What a matrix came to: its directory, and the JSON object ``coterie.matrix/1``."""

    directory: Path
    record: Mapping[str, Any]


def run_matrix(
    spec: str | Path | Mapping[str, object] | Spec,
    *,
    sets: Iterable[str] = (),
    seeds: Sequence[int] | None = None,
    out: Path | None = None,
    data_dir: Path | None = None,
    jobs: int | None = None,
    progress: MatrixProgress | None = None,
) -> Outcome:
    """Do every run that the ``[matrix]`` of ``spec`` asks for, and write tables and heat maps of their figures.

    ``spec``: a TOML file or its tables; ``sets``: ``"table.key=value"`` over it. ``seeds``: one run of each cell for
    each. ``out``: a new directory (default ``runs/NAME-matrix``), or that of the same matrix, which then goes on where
    it stopped. ``jobs``: processes, by default one a core; a run takes one, whatever its size, and figures do not
    depend on their number.

    All specs are checked and the data loaded before the first run. A run that fails is written down as failed. Raises
    SpecError, DataError, OutputError for what the user can mend; WorkerLost where one process after another dies. On
    Ctrl-C the KeyboardInterrupt has a ``result`` that says how to go on.
    """
    if jobs is not None and jobs < 1:
        raise SpecError(f"{jobs} processes cannot do anything", where="jobs", remedy="Name 1 or more.")
    checked = specs.load(spec, sets, seeds)
    planned = plan(checked)
    # What is wrong with the data is better found now; each process loads its own.
    held = {name: data.load(one.dataset, data_dir).fingerprint for name, one in planned.datasets.items()}
    shown = progress or MatrixProgress(quiet=True)
    directory = _directory(out, checked)
    versions = {"coterie": __version__} | {name: metadata.version(name) for name in _LIBRARIES}
    try:
        definition = {**planned.definition, "versions": versions, "data": held}
        with directory.locked(), Journal(directory.path / JOURNAL, definition) as journal, shown:
            lost = _do(planned, journal, data_dir, jobs or os.cpu_count() or 1, shown)
            record = summarise(planned, {**journal.results, **lost}, str(directory.path))
            _write(directory, record)
    except KeyboardInterrupt as error:
        error.result = _interrupted(directory.path)  # type: ignore[attr-defined]  # cli.py looks for it
        raise
    except WorkerLost as error:
        error.result = Result.failure(error, run=str(directory.path))
        raise
    return Outcome(directory.path, record)


def _do(
    planned: Plan, journal: Journal, data_dir: Path | None, processes: int, progress: MatrixProgress
) -> dict[tuple[str, int], Result]:
    """Do what the journal does not have. Gives the runs lost with their process: next time they are tried again."""
    names = {
        key: f"{panel.title}: {row}, {column}" for panel in planned.panels for (row, column), key in panel.cells.items()
    }
    folder = str(planned.spec.base.resolve())
    wanted = [
        Job(key, tables, seed, folder, str(data_dir) if data_dir else None)
        for seed in planned.seeds
        for key, tables in planned.runs.items()
    ]
    missing = [job for job in wanted if (job.key, job.seed) not in journal.results]
    progress.begin(len(wanted), len(wanted) - len(missing))
    lost = {}
    with closing(run_jobs(missing, processes)) as ends:
        for job, result in ends:
            if (result.error or {}).get("code") == WorkerLost.code:
                lost[job.key, job.seed] = result
            else:
                journal.add(job.key, job.seed, result)
            progress.ended(f"{names[job.key]}, seed {job.seed}", result)
    return lost


def _directory(out: Path | None, spec: Spec) -> RunDirectory:
    """A new directory, or one in which a matrix has been begun."""
    if out is not None and (out / JOURNAL).is_file():
        return RunDirectory(out)
    return RunDirectory.create(out, f"{spec.federation.name[:50]}-matrix")


def is_matrix(directory: Path) -> bool:
    """Whether a matrix has been done in this directory."""
    return (directory / FIGURES).is_file()


def write_tables(directory: Path) -> Path:
    """Make the tables and heat maps of a matrix again, from its figures; gives the path of the tables.

    Raises DataError for figures that cannot be read, OutputError where nothing can be written.
    """
    path = directory / FIGURES
    try:
        with reading(path):
            record = json.loads(path.read_bytes())
        if record["schema"] != SCHEMA:
            raise ValueError(record["schema"])  # noqa: TRY301 - as unreadable as one that is damaged
        image, tables = heat_maps(record), markdown(record)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        remedy = f"The same 'coterie matrix' command with --out {directory} writes them again; no run is done twice."
        raise DataError(f"not figures of schema {SCHEMA!r}", where=str(path), remedy=remedy) from None
    return _write_tables(RunDirectory(directory), image, tables)


def _write(directory: RunDirectory, record: Mapping[str, Any]) -> None:
    for name in (FIGURES, TABLES, IMAGE):
        for unfinished in directory.path.glob(f".{name}.*"):  # killed while it wrote them
            unfinished.unlink(missing_ok=True)
    directory.write(FIGURES, json_text(record))
    _write_tables(directory, heat_maps(record), markdown(record))


def _write_tables(directory: RunDirectory, image: bytes, tables: str) -> Path:
    directory.write(IMAGE, image)
    return directory.write(TABLES, tables.encode())


def _interrupted(path: Path) -> Result:
    error = {
        "code": "interrupted",
        "what": "interrupted: the matrix is not complete",
        "where": "",
        "remedy": f"The same command with --out {path} goes on where it stopped.",
    }
    return Result(status="failed", run=str(path), error=error)
