"""``coterie reproduce``: a paper's results run again, the published method and ours, beside the published figures."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from coterie import __version__, data
from coterie.data.dataset import Dataset
from coterie.runtime.papers import Paper, Row
from coterie.runtime.plots import ATTACKER, MEAN, png
from coterie.runtime.progress import Progress, duration, size
from coterie.runtime.results import RunDirectory, json_text
from coterie.runtime.run import run
from coterie.spec import Spec

SCHEMA = "coterie.reproduction/1"
_TICKS = (0.001, 0.01, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99, 0.999)


@dataclass(frozen=True)
class Measured:
    """What one spec came to, over its seeds. Accuracies are shares; ``mean`` is over peers and seeds."""

    mean: float
    std: float | None
    """Sample standard deviation over the seeds; None for a single seed."""
    worst: float
    """Accuracy of the worst peer, averaged over the seeds."""
    rule: str
    seeds: tuple[int, ...]
    samples: int
    """How many training samples a peer goes through in a run, counting repeats; the mean over peers and seeds."""
    bytes_sent: float
    """By a peer in a run; the mean over peers and seeds."""
    seconds: float
    """Of all seeds together."""
    run: str


@dataclass(frozen=True)
class Comparison:
    """A row of the table: published, theirs here, ours here."""

    row: Row
    theirs: Measured
    ours: Measured
    reached: bool
    verdict: str


@dataclass(frozen=True)
class Reproduction:
    """All rows of a paper."""

    paper: Paper
    quick: bool
    rows: tuple[Comparison, ...]
    seconds: float
    directory: Path

    @property
    def reached(self) -> bool:
        return all(row.reached for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """The JSON object ``coterie.reproduction/1``: what PAPER.json holds and ``--json`` prints."""
        index = self.paper.index
        rows = [
            {"name": row.row.name, "published": row.row.published, "note": row.row.note}
            | {"theirs": asdict(row.theirs), "ours": asdict(row.ours), "reached": row.reached, "verdict": row.verdict}
            for row in self.rows
        ]
        return {
            "schema": SCHEMA,
            "version": __version__,
            "paper": self.paper.name,
            "title": index.title,
            "source": index.source,
            "measure": index.measure,
            "quick": self.quick,
            "reached": self.reached,
            "rows": rows,
            "missing": [missing.model_dump() for missing in index.missing],
            "notes": list(index.notes),
            "seconds": self.seconds,
            "run": str(self.directory),
        }


def reproduce(
    paper: Paper,
    *,
    quick: bool,
    seeds: Sequence[int] | None,
    out: Path | None,
    data_dir: Path | None,
    progress: Progress,
) -> Reproduction:
    """Run all rows of ``paper`` and write PAPER.json, PAPER.md, PAPER.png and the run directories.

    ``out``: a new directory (default ``runs/PAPER``). ``seeds``: of every run; by default those of its spec, and with
    ``quick`` the first of them. A row is reached where our mean accuracy is at or above the published figure. With
    ``quick`` figures are of smaller runs and are not held against the published ones: there a row is reached where ours
    comes within the paper's margin of theirs and is above its floor.

    Raises what ``coterie.run`` raises; DataError before anything is run where the data cannot be had.
    """
    started = time.monotonic()
    pairs = [[_spec(paper, row, ours, quick, seeds) for ours in (False, True)] for row in paper.index.row]
    held = {spec.dataset.name: spec.dataset for pair in pairs for spec in pair}
    datasets = {name: data.load(component, data_dir) for name, component in held.items()}
    directory = RunDirectory.create(out, paper.name)
    rows = []
    for row, pair in zip(paper.index.row, pairs, strict=True):
        theirs, ours = (
            _measure(spec, directory.path / name, datasets[spec.dataset.name], data_dir, progress)
            for spec, name in zip(pair, (row.spec, f"{row.spec}_ours"), strict=True)
        )
        rows.append(_compare(paper, row, theirs, ours, quick=quick))
    found = Reproduction(paper, quick, tuple(rows), time.monotonic() - started, directory.path)
    directory.write(f"{paper.name}.json", json_text(found.to_json()))
    directory.write(f"{paper.name}.png", plot(found))
    directory.write(f"{paper.name}.md", markdown(found).encode())
    return found


def _spec(paper: Paper, row: Row, ours: bool, quick: bool, seeds: Sequence[int] | None) -> Spec:
    spec = paper.load(row, ours=ours, quick=quick)
    chosen = list(seeds) if seeds is not None else list(spec.seeds[:1] if quick else spec.seeds)
    return spec.with_values({"federation.seed": chosen})


def _measure(spec: Spec, out: Path, dataset: Dataset, data_dir: Path | None, progress: Progress) -> Measured:
    started = time.monotonic()
    result = run(spec, out=out, data_dir=data_dir, progress=progress)
    several = len(spec.seeds) > 1
    return Measured(
        mean=result.accuracy["mean"],
        std=(result.deviation or {}).get("accuracy", {}).get("mean") if several else None,
        worst=result.accuracy["min"],
        rule=spec.aggregation.rule,
        seeds=spec.seeds,
        samples=round(statistics.fmean(_samples(one, dataset) for one in spec.each_seed())),
        bytes_sent=result.bytes_sent / spec.federation.peers,
        seconds=time.monotonic() - started,
        run=str(out),
    )


def _samples(spec: Spec, dataset: Dataset) -> float:
    """Training samples that a peer goes through in a run, counting repeats: the mean over the peers."""
    sizes = [len(indices) for indices in data.divide(spec, dataset).train]
    if spec.local_steps is None:
        each = [(spec.training.local_epochs or 1) * count for count in sizes]
    else:
        each = [spec.local_steps * min(spec.training.batch_size, count) for count in sizes]
    return spec.federation.rounds * statistics.fmean(each)


def _compare(paper: Paper, row: Row, theirs: Measured, ours: Measured, *, quick: bool) -> Comparison:
    if quick:
        limits = paper.index.quick
        reached = ours.mean >= max(theirs.mean - limits.margin, limits.floor)
        if ours.mean < limits.floor:
            verdict = f"did not learn (below {limits.floor:g})"
        else:
            verdict = "quick: no worse than theirs" if reached else "quick: worse than theirs"
    else:
        reached = ours.mean >= row.published
        verdict = "reached" if reached else "below the published figure"
    return Comparison(row, theirs, ours, reached, verdict)


HEADER = ("result", "published", "theirs here", "ours here", "worst node", "samples a node", "sent a node", "verdict")


def cells(found: Reproduction) -> list[tuple[str, ...]]:
    """The table as text, a tuple a row, in the order of ``HEADER``; theirs stand before ours, after a slash."""
    return [
        (
            row.row.name,
            f"{row.row.published:.4f}",
            _figure(row.theirs),
            _figure(row.ours),
            f"{row.theirs.worst:.4f} / {row.ours.worst:.4f}",
            f"{row.theirs.samples:,} / {row.ours.samples:,}",
            f"{size(row.theirs.bytes_sent)} / {size(row.ours.bytes_sent)}",
            row.verdict,
        )
        for row in found.rows
    ]


def _figure(measured: Measured) -> str:
    spread = "" if measured.std is None else f" ± {measured.std:.4f}"
    return f"{measured.mean:.4f}{spread}"


def remarks(found: Reproduction) -> list[str]:
    """What must be known to read the table, a sentence or two each."""
    lines = []
    if found.quick:
        lines.append("Quick: a few images and rounds. The figures cannot be held against the published ones.")
    seeds = dict.fromkeys(side.seeds for row in found.rows for side in (row.theirs, row.ours))
    listed = " or ".join(", ".join(map(str, each)) for each in seeds)
    lines.append(f"Measured: {found.paper.index.measure}; mean ± standard deviation over the seeds ({listed}).")
    lines += [f"{row.row.name}: {row.row.note}" for row in found.rows if row.row.note]
    lines += [
        f"Not run: {missing.name}, published {missing.published:.4f}. {missing.reason}"
        for missing in found.paper.index.missing
    ]
    return [*lines, *found.paper.index.notes]


def markdown(found: Reproduction) -> str:
    """PAPER.md."""
    index = found.paper.index
    rows = [HEADER, ("---",) * len(HEADER), *cells(found)]
    table = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)
    notes = "\n".join(f"- {line}" for line in remarks(found))
    return (
        f"# {index.title} ({index.source})\n\n{table}\n\n"
        f"Two figures with a slash: theirs here / ours here.\n\n{notes}\n\n"
        f"![{index.measure}]({found.paper.name}.png)\n\n"
        f"Made by `coterie reproduce {found.paper.name}{' --quick' if found.quick else ''}`, Coterie {__version__}, in "
        f"{duration(found.seconds)}.\n"
    )


def plot(found: Reproduction) -> bytes:
    """A line a row: the published figure, theirs and ours with one standard deviation each way. A PNG.

    The axis is log(a / (1 - a)): there 91 and 92 % are told apart also where another result is far below.
    """
    figure = Figure(figsize=(8.0, 1.9 + 0.55 * len(found.rows)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(found.rows))[::-1]
    for shift, colour, label, side in ((0.13, "#b8761e", "theirs here", "theirs"), (-0.13, MEAN, "ours", "ours")):
        measured: list[Measured] = [getattr(row, side) for row in found.rows]
        axes.errorbar(
            [_inside(one.mean) for one in measured],
            places + shift,
            xerr=[one.std or 0.0 for one in measured],
            fmt="o",
            color=colour,
            capsize=3,
            label=f"{label}, ± 1 deviation",
        )
    if not found.quick:
        published = [_inside(row.row.published) for row in found.rows]
        axes.vlines(published, places - 0.32, places + 0.32, color=ATTACKER, linewidth=2.5, label="published")
    axes.set_yticks(places, [row.row.name for row in found.rows])
    axes.set_xscale("logit")
    shown = [side.mean for row in found.rows for side in (row.theirs, row.ours)]
    low, high = _ends(shown if found.quick else shown + [row.row.published for row in found.rows])
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in _TICKS if low <= tick <= high]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(found.paper.index.measure)
    axes.set_title("Quick: not the figures of the paper" if found.quick else found.paper.index.source, fontsize=10)
    figure.suptitle(found.paper.index.title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(y=0.15)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return png(figure)


def _inside(share: float) -> float:
    """A share that the axis can show."""
    return min(max(share, _TICKS[0]), _TICKS[-1])


def _ends(shares: Sequence[float]) -> tuple[float, float]:
    """The next ticks outside all ``shares``."""
    low = max((tick for tick in _TICKS if tick < min(shares)), default=_TICKS[0])
    return low, min((tick for tick in _TICKS if tick > max(shares)), default=_TICKS[-1])


def shortfall(found: Reproduction) -> Mapping[str, str] | None:
    """The error record of rows that were not reached; None where all were."""
    below = [f"{row.row.name} ({row.ours.mean:.4f}; {row.verdict})" for row in found.rows if not row.reached]
    if not below:
        return None
    return {
        "code": "not_reached",
        "what": f"{len(below)} of {len(found.rows)} results were not reached: {'; '.join(below)}",
        "where": found.paper.name,
        "remedy": "Look at the reports of those runs; other versions of PyTorch give other bits.",
    }
