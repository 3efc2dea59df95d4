"""What the commands share: how errors end them, tables of components, and the spec that ``new`` writes."""

from __future__ import annotations

import json
import os
import tempfile
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from typer.core import TyperGroup

from coterie.errors import CoterieError, OutputError, SpecError
from coterie.registry import Component

if TYPE_CHECKING:
    from coterie.runtime.results import Result

JSON = "--json"
_JSON_KEY, _INTERRUPTED = "coterie.json", 130
# typer keeps its click to itself: the class above BadParameter is its usage error
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


class Commands(TyperGroup):
    """A group whose commands end with one clear message, and with JSON where that was asked for."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        before = args[: args.index("--")] if "--" in args else args
        ctx.meta[_JSON_KEY] = JSON in before
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        debug = bool(ctx.params.get("debug"))
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except _UsageError as error:
            _json(
                ctx,
                SpecError(
                    getattr(error, "format_message", error.__str__)(), where="command line", remedy="See --help."
                ),
            )
            raise
        except KeyboardInterrupt as error:
            _interrupted(ctx, error)
        except CoterieError as error:
            if debug:
                _stderr().print(Text(traceback.format_exc()))
            say(error.record(), _result(error).run)
            _json(ctx, error)
            raise typer.Exit(error.exit_status) from None
        except Exception as error:
            _internal(ctx, error, debug)


def _interrupted(ctx: typer.Context, error: KeyboardInterrupt) -> NoReturn:
    result = _result(error)
    say(result.error or {}, result.run)
    _json(ctx, error)
    raise typer.Exit(_INTERRUPTED) from None


def _internal(ctx: typer.Context, error: Exception, debug: bool) -> NoReturn:
    what = f"internal error: {type(error).__name__}: {error}".replace("\n", " ")
    text = traceback.format_exc()
    if debug:
        _stderr().print(Text(text))
        kept = "the traceback is above"
    else:
        kept = _kept(text)
    _stderr().print(Text(f"{what} - please report this; {kept}."), soft_wrap=True)
    _json(ctx, error)
    raise typer.Exit(1) from None


def _kept(text: str) -> str:
    try:
        descriptor, path = tempfile.mkstemp(prefix="coterie-traceback-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
    except OSError:
        return "run it again with --debug for the traceback"
    return f"the traceback is in {path}"


def _json(ctx: typer.Context, error: BaseException) -> None:
    """The one JSON object of a run that ended with ``error``."""
    if ctx.meta.get(_JSON_KEY):
        with suppress(OutputError):  # the error itself is told on the other stream
            success(json.dumps(_result(error).to_json(), allow_nan=False))


def _result(error: BaseException) -> Result:
    """The failed result that the runtime hung on the error as ``error.result``, or one that knows the error only."""
    from coterie.runtime.results import Result

    known = getattr(error, "result", None)
    return known if isinstance(known, Result) else Result.failure(error)


def _stderr() -> Console:
    return Console(stderr=True, highlight=False)


def say(error: Mapping[str, str], run: str = "") -> None:
    """An error record on standard error: what, where, and what to do."""
    text = Text.assemble(("error: ", "bold red"), error.get("what") or "the run failed")
    rows = (("where", error.get("where")), ("what to do", error.get("remedy")), ("run", run))
    for label, value in rows:
        if value:
            text.append(f"\n  {label}: ", style="bold")
            text.append(value)
    _stderr().print(text, soft_wrap=True)


def success(line: str) -> None:
    """A plain line on standard output."""
    with printing():
        typer.echo(line)


@contextmanager
def printing() -> Iterator[None]:
    """Raise OutputError where standard output takes no more; a reader that has gone is no error."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror or error}",
            where="standard output",
            remedy="Check what it is sent to, and the free space there.",
        ) from error


def exit_status(error: Mapping[str, str] | None) -> int:
    """The exit status that belongs to an error record: that of the class with its code, otherwise 1."""
    code = (error or {}).get("code")
    if code == "interrupted":
        return _INTERRUPTED
    return next((kind.exit_status for kind in _kinds(CoterieError) if kind.code == code), 1)


def _kinds(kind: type[CoterieError]) -> Iterator[type[CoterieError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)


def table(components: Iterable[Component], key: str) -> None:
    """Print components: name, summary, settings with defaults. ``key`` is what names one in a spec."""
    rows = sorted(components, key=lambda component: component.name)
    settings = [list(_settings(component)) for component in rows]
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("name", no_wrap=True)
    shown.add_column("what it is", overflow="fold")
    if any(settings):
        shown.add_column("settings", overflow="fold")
    for component, lines in zip(rows, settings, strict=True):
        name = component.name + (":PATH" if component.traits.get("takes_path") else "")
        cells = [Text(name), Text(component.summary)]
        shown.add_row(*cells, *([Text("\n".join(lines))] if any(settings) else []))
    console = stdout()
    with printing():
        console.print(shown)
        console.print(Text(f'Name one with {key} = "...", or your own as "file.py:function".'), soft_wrap=True)


def grid(header: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Print rows of text under a header; in a narrow terminal long words go on in the next line, whole."""
    shown = Table(*(Column(each, overflow="fold") for each in header), box=None, pad_edge=False, header_style="bold")
    for row in rows:
        shown.add_row(*map(Text, row))
    with printing():
        stdout().print(shown)


def stdout() -> Console:
    """Standard output for tables: wide where it is no terminal."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 160)
    return console


def _settings(component: Component) -> Iterator[str]:
    for name, field in component.options().model_fields.items():
        if field.is_required():
            yield f"{name} (required)"
        else:
            default = field.get_default(call_default_factory=True)
            yield f"{name} = {_toml(default)}"


def _toml(value: Any) -> str:
    """A default as a spec would write it."""
    if value is None:
        return "none"
    try:
        return json.dumps(list(value) if isinstance(value, tuple) else value)
    except (TypeError, ValueError):
        return str(value)


def template(name: str) -> str:
    """The spec that ``new`` writes, for a federation of this name. Raises SpecError if it cannot be one."""
    from pydantic import ValidationError

    from coterie.spec import FederationTable

    try:
        FederationTable(name=name)
    except ValidationError:
        raise SpecError(
            f"{name!r} cannot be a name",
            where="NAME",
            remedy="Use up to 64 letters, digits, '.', '_' and '-', a letter or digit first.",
        ) from None
    return (Path(__file__).parent / "template.toml").read_text(encoding="utf-8").replace("@NAME@", name)
