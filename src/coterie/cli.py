"""The commands. Heavy packages are imported inside them, so that ``--help`` answers at once."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coterie import __version__
from coterie._commands import JSON, Commands, exit_status, say, success, table, template
from coterie.errors import OutputError, SpecError

if TYPE_CHECKING:
    from coterie.runtime.results import Result

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
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="K=V", help="Set a key, such as training.lr=0.05. Repeatable.")
    ] = None,
    seed: Annotated[
        str | None, typer.Option("--seed", metavar="N[,N...]", help="The seed; several give mean and deviation.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The run directory; by default runs/NAME, runs/NAME-2 ...")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="Folder to look for data sets in first.")] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=0, help="Worker processes; by default one a core.")
    ] = None,
    as_json: Annotated[bool, typer.Option(JSON, help="Print exactly one JSON object, for a failed run too.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Run a federation in simulation and write its run directory, with a report."""
    seeds = _seeds(seed)
    from coterie.runtime.progress import Quiet, RichProgress
    from coterie.runtime.run import run as run_spec

    silent = as_json or quiet
    with redirect_stdout(sys.stderr) if as_json else nullcontext(), RichProgress() as shown:
        result = run_spec(
            spec,
            sets=sets or (),
            seeds=seeds,
            out=out,
            data_dir=data_dir,
            workers=workers,
            progress=Quiet() if silent else shown,
        )
    if as_json:
        typer.echo(json.dumps(result.to_json(), allow_nan=False))
    elif result.ok:
        typer.echo(_summary(result))
    if not result.ok:
        say(result.error or {}, result.run)
        raise typer.Exit(exit_status(result.error))


@app.command(epilog="Example: coterie report runs/digits")
def report(run: Annotated[Path, typer.Argument(help="A run directory.", metavar="RUN", show_default=False)]) -> None:
    """Make the plots and report.html of a run directory again."""
    from coterie.runtime.report import write_report

    success(f"Wrote {write_report(run)}")


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
    each = result.bytes_sent / max(1, result.peers)
    lines.append(f"sent         {size(each)} a peer")
    lines.append(f"time         {duration(result.seconds)}{' a seed' if result.seeds else ''}")
    if result.run:
        lines.append(f"run          {result.run}")
        report = Path(result.run) / "report.html"
        lines += [f"report       {report}"] if report.exists() else []
    return "\n".join(lines)
