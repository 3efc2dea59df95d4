"""The commands. Heavy packages are imported inside them, so that ``--help`` answers at once."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coterie import __version__
from coterie._commands import JSON, Commands, exit_status, grid, printing, say, stdout, success, table, template
from coterie._nodes import add_to
from coterie.errors import OutputError, SpecError

if TYPE_CHECKING:
    from coterie.runtime.progress import Progress
    from coterie.runtime.results import Result

Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="K=V", help="Set a key, such as training.lr=0.05. Repeatable.")
]
Seed = Annotated[
    str | None, typer.Option("--seed", metavar="N[,N...]", help="The seed; several give mean and deviation.")
]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Folder to look for data sets in first.")]
Workers = Annotated[
    int | None, typer.Option("--workers", min=0, help="Worker processes; by default one a core, or 0 for a small run.")
]
Track = Annotated[
    list[str] | None, typer.Option("--track", metavar="NAME", help="Feed tensorboard or mlflow. Repeatable.")
]
AsJson = Annotated[bool, typer.Option(JSON, help="Print exactly one JSON object, for a failed run too.")]
IsQuiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]

app = typer.Typer(
    name="coterie",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The console entry point."""
    app(prog_name="coterie")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"coterie {__version__}")
        raise typer.Exit


@app.callback(epilog="Example: coterie run --seed 1,2,3")
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="COTERIE_DEBUG", help="Show the traceback of an error.")
    ] = False,
) -> None:
    """Train models together, with no shared data and no server that everybody must trust."""


@app.command(epilog="Example: coterie new trial  (writes trial.toml; then: coterie run trial.toml)")
def new(
    name: Annotated[str, typer.Argument(help="Name of the federation and of its file.", show_default=False)],
) -> None:
    """Write a commented spec to start from; it runs as it is."""
    name = name.removesuffix(".toml")
    text = template(name)
    path = Path(f"{name}.toml")
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise OutputError("it exists already", where=str(path), remedy="Choose another name, or move it.") from None
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror or error}", where=str(path), remedy="Go to a folder of your own."
        ) from error
    success(f"Wrote {path}. Run it: coterie run {path}")


@app.command(epilog="Example: coterie run trial.toml --set federation.peers=20 --seed 1,2,3 --out results/trial")
def run(
    spec: Annotated[
        Path | None, typer.Argument(help="A TOML file; the built-in digits federation without one.")
    ] = None,
    sets: Sets = None,
    seed: Seed = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The run directory; by default runs/NAME, runs/NAME-2 ...")
    ] = None,
    data_dir: DataDir = None,
    on: Annotated[
        str, typer.Option("--on", help="sim: in virtual time. processes: real nodes on this machine, one a peer.")
    ] = "sim",
    workers: Workers = None,
    track: Track = None,
    as_json: AsJson = False,
    quiet: IsQuiet = False,
) -> None:
    """Run a federation and write its run directory, with a report."""
    seeds = _seeds(seed)
    from coterie.runtime.run import run as run_spec

    with _progress(as_json, quiet) as progress:
        result = run_spec(
            spec,
            sets=sets or (),
            seeds=seeds,
            out=out,
            data_dir=data_dir,
            on=on,
            workers=workers,
            track=track or (),
            progress=progress,
        )
    _tell(result, as_json)


@app.command(epilog="Example: coterie resume runs/digits")
def resume(
    run: Annotated[Path, typer.Argument(help="A run directory.", metavar="RUN", show_default=False)],
    workers: Workers = None,
    track: Track = None,
    as_json: AsJson = False,
    quiet: IsQuiet = False,
) -> None:
    """Go on with a run that was interrupted or killed; it ends as if it had not been."""
    from coterie.runtime.run import resume as go_on

    with _progress(as_json, quiet) as progress:
        result = go_on(run, workers=workers, track=track or (), progress=progress)
    _tell(result, as_json)


@app.command(epilog="Example: coterie matrix study.toml --seed 1,2,3 --out runs/study  (again: it goes on)")
def matrix(
    spec: Annotated[Path, typer.Argument(help="A TOML file with a table \\[matrix].", show_default=False)],
    sets: Sets = None,
    seed: Seed = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="A new directory, or one to go on in; by default runs/NAME-matrix.")
    ] = None,
    data_dir: DataDir = None,
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, help="Runs at a time; by default one a core.")] = None,
    as_json: AsJson = False,
    quiet: IsQuiet = False,
) -> None:
    """Run rules against attacks on splits of the data, and print and draw the tables."""
    seeds = _seeds(seed)
    from coterie.runtime.matrix import run_matrix
    from coterie.runtime.matrix.progress import MatrixProgress
    from coterie.runtime.matrix.tables import show

    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        outcome = run_matrix(
            spec,
            sets=sets or (),
            seeds=seeds,
            out=out,
            data_dir=data_dir,
            jobs=jobs,
            progress=MatrixProgress(quiet=as_json or quiet),
        )
    if as_json:
        success(json.dumps(outcome.record, allow_nan=False))
    else:
        with printing():
            show(outcome.record, stdout())
        success(f"\nwritten to {outcome.directory}")
    if outcome.record["status"] != "ok":
        say(outcome.record["error"], str(outcome.directory))
        raise typer.Exit(exit_status(outcome.record["error"]))


@app.command(epilog="Example: coterie report runs/digits")
def report(
    run: Annotated[Path, typer.Argument(help="A run directory, or a matrix's.", metavar="RUN", show_default=False)],
) -> None:
    """Make the plots and report.html of a run directory again; of a matrix, its tables and heat maps."""
    from coterie.runtime.matrix import is_matrix, write_tables
    from coterie.runtime.report import write_report

    success(f"Wrote {write_tables(run) if is_matrix(run) else write_report(run)}")


@app.command(epilog="Example: coterie export runs/digits --to tensorboard  (then: tensorboard --logdir runs)")
def export(
    run: Annotated[Path, typer.Argument(help="A run directory, or a node's home.", metavar="RUN", show_default=False)],
    to: Annotated[
        list[str], typer.Option("--to", metavar="NAME", help="tensorboard or mlflow. Repeatable.", show_default=False)
    ],
) -> None:
    """Give the figures of a run to TensorBoard or MLflow; 'run --track' does so while it goes on."""
    from coterie.runtime.tracking import export as give

    for line in give(run, to):
        success(line)


@app.command(epilog="Example: coterie reproduce papaya --quick")
def reproduce(
    paper: Annotated[str | None, typer.Argument(help="A paper by its name; without one, list them.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few images and rounds: a check that all of it works, in seconds.")
    ] = False,
    seed: Annotated[
        str | None, typer.Option("--seed", metavar="N[,N...]", help="Seeds of every run, instead of the specs' own.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="A new directory; by default runs/PAPER, runs/PAPER-2 ...")
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Run a paper's results again, and compare: published, their method here, ours here.

    Ends with status 1 where ours is below a published figure.
    """
    seeds = _seeds(seed)
    from coterie.runtime import papers

    if paper is None:
        known = papers.known().values()
        if as_json:
            listed = [{"name": one.name, **one.index.model_dump(include={"title", "source"})} for one in known]
            success(json.dumps({"papers": listed}))
        else:
            grid(("paper", "title", "source"), [(one.name, one.index.title, one.index.source) for one in known])
        return
    chosen = papers.find(paper)
    from coterie.runtime import reproduce as again

    with _progress(as_json) as progress:
        found = again.reproduce(chosen, quick=quick, seeds=seeds, out=out, data_dir=data_dir, progress=progress)
    if as_json:
        success(json.dumps(found.to_json(), allow_nan=False))
    else:
        success(f"{chosen.index.title} ({chosen.index.source})")
        grid(again.HEADER, again.cells(found))
        for line in again.remarks(found):
            success(f"- {line}")
        success(f"Wrote {found.directory / paper}.json, .md and .png")
    short = again.shortfall(found)
    if short is not None:
        say(short, str(found.directory))
        raise typer.Exit(exit_status(short))


@app.command(epilog="Example: coterie committee --peers 100 --corrupt 0.2  (or: --biscotti --colluding 0.3 --p 0.001)")
def committee(
    peers: Annotated[
        int | None, typer.Option("--peers", min=1, max=100_000, help="So many peers, with equal stakes.")
    ] = None,
    stakes: Annotated[
        str | None, typer.Option("--stakes", metavar="FILE|N,N,...", help="The peers' stakes, whole numbers.")
    ] = None,
    corrupt: Annotated[
        str | None, typer.Option("--corrupt", metavar="SHARE", help="The share of stake to withstand, such as 0.2.")
    ] = None,
    seats: Annotated[int | None, typer.Option("--seats", help="So many seats; by default as few as will do.")] = None,
    offline: Annotated[
        str | None,
        typer.Option("--offline", metavar="SHARE", help="The share of seats that may be missing; by default 0.05."),
    ] = None,
    biscotti: Annotated[
        bool, typer.Option("--biscotti", help="Biscotti's calculator; its whole table without --colluding and --p.")
    ] = False,
    colluding: Annotated[
        str | None, typer.Option("--colluding", metavar="SHARE", help="With --biscotti: the colluding stake.")
    ] = None,
    p: Annotated[
        str | None, typer.Option("--p", metavar="CHANCE", help="With --biscotti: P(majority colludes), below this.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compute how many seats a committee needs, and what they withstand.

    For secure aggregation: seats, pack, privacy, liars, offline. With --biscotti: its rule for verifiers and noisers.
    """
    from coterie.runtime import committees

    given = {"--peers": peers, "--stakes": stakes, "--corrupt": corrupt, "--seats": seats, "--offline": offline}
    other = {"--colluding": colluding, "--p": p}
    committees.refuse_mixed(given if biscotti else other, biscotti)
    found = committees.biscotti(colluding, p) if biscotti else committees.seats(peers, stakes, corrupt, seats, offline)
    if as_json:
        success(json.dumps(found.record, allow_nan=False))
        return
    success(found.title)
    grid(found.header, found.rows)


@app.command(epilog="Example: coterie datasets")
def datasets() -> None:
    """List the data sets that a spec can name."""
    _list("datasets", "data.dataset")


@app.command(epilog="Example: coterie protocols")
def protocols() -> None:
    """List the protocols, each with the settings of its own table."""
    _list("protocols", "federation.protocol")


@app.command(epilog="Example: coterie rules")
def rules() -> None:
    """List the aggregation rules, with the settings that each takes."""
    _list("rules", "aggregation.rule")


@app.command(epilog="Example: coterie attacks")
def attacks() -> None:
    """List the attacks on data and on models, with the settings that each takes."""
    _list("attacks", "attack.kind")


add_to(app)  # after the commands above, as --help shows them in this order


@contextmanager
def _progress(as_json: bool, quiet: bool = False) -> Iterator[Progress]:
    """Who is told of progress; what a library prints meanwhile does not get among the JSON."""
    from coterie.runtime.progress import Quiet, RichProgress

    with redirect_stdout(sys.stderr) if as_json else nullcontext(), RichProgress() as shown:
        yield Quiet() if as_json or quiet else shown


def _tell(result: Result, as_json: bool) -> None:
    """Print the result of a run that ended well, as one JSON object or for people."""
    success(json.dumps(result.to_json(), allow_nan=False) if as_json else _summary(result))


def _list(kind: str, key: str) -> None:
    import coterie.runtime.catalog  # noqa: F401 - fills the registries
    from coterie import registry

    table(getattr(registry, kind), key)


def _seeds(text: str | None) -> list[int] | None:
    """``"1,2,3"`` as numbers."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    wrong = [part for part in parts if not (part.isascii() and part.isdecimal())]
    if wrong or len(set(map(int, parts))) < len(parts):
        what = f"{wrong[0]!r} is not a whole number from 0" if wrong else "a seed is there twice"
        raise SpecError(what, where="--seed", remedy="Write --seed 7, or --seed 1,2,3.")
    return [int(part) for part in parts]


def _summary(result: Result) -> str:
    """A few lines for people."""
    from coterie.runtime.progress import duration, size

    spread = result.deviation or {}

    def percent(key: str) -> str:
        deviation = spread.get("accuracy", {}).get(key)
        around = f" ± {100 * deviation:.1f}" if deviation is not None else ""
        return f"{100 * result.accuracy[key]:.1f}{around} %"

    lines = [f"accuracy     mean {percent('mean')}, worst peer {percent('min')}, best peer {percent('max')}"]
    if result.seeds:
        lines.append(f"seeds        {', '.join(map(str, result.seeds))} (mean ± standard deviation)")
    if result.attack_rate is not None:
        lines.append(f"attack rate  {100 * result.attack_rate:.1f} %")
    lines += [f"{name:<13}{value:.3f}" for name, value in result.metrics.items()]
    each = result.bytes_sent / max(1, result.peers)
    lines.append(f"sent         {size(each)} a peer")
    lines.append(f"time         {duration(result.seconds)}{' a seed' if result.seeds else ''}")
    if result.run:
        lines.append(f"run          {result.run}")
        report = Path(result.run) / "report.html"
        lines += [f"report       {report}"] if report.exists() else []
    return "\n".join(lines)
