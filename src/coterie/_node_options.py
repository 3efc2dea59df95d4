"""Options that several commands of real federations share, and what becomes of them."""

from __future__ import annotations

import datetime
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from coterie._commands import JSON
from coterie.errors import MembershipError, NodeError

Home = Annotated[Path, typer.Option("--home", help="The node's folder: its key, settings, ledger and state.")]
AsJson = Annotated[bool, typer.Option(JSON, help="Print one JSON object.")]
Listen = Annotated[
    str | None,
    typer.Option("--listen", metavar="HOST:PORT", help="Accept members here; without it the node only dials out."),
]
Announce = Annotated[
    str | None, typer.Option("--announce", metavar="HOST:PORT", help="Where others reach it, if not at --listen.")
]
JoinPort = Annotated[str | None, typer.Option("--join", metavar="HOST:PORT", help="Accept newcomers here.")]
Contact = Annotated[
    list[str] | None, typer.Option("--contact", metavar="HOST:PORT", help="A member to try first. Repeatable.")
]
DhtListen = Annotated[
    str | None, typer.Option("--dht-listen", metavar="HOST:PORT", help="Take part in the Kademlia table, on UDP.")
]
Dht = Annotated[
    list[str] | None, typer.Option("--dht", metavar="HOST:PORT", help="A node of that table to begin with. Repeatable.")
]
Private = Annotated[bool, typer.Option("--private", help="Members are on loopback or private addresses.")]
Dataset = Annotated[
    str | None, typer.Option("--data", metavar="DATASET", help="This site's own data, such as csv:/data/ward.csv.")
]
Part = Annotated[
    int | None, typer.Option("--part", min=0, help="For trials: this part of the spec's data set, from 0.")
]
Name = Annotated[str, typer.Option("--name", help="How this site is shown to the others.")]
Key = Annotated[Path | None, typer.Option("--key", help="An Ed25519 key to use, in PEM; by default a new one is made.")]

Recovery = Annotated[
    list[Path],
    typer.Option(
        "--recovery", metavar="FILE", help="A file that holds a recovery key. Repeatable.", show_default=False
    ),
]


def ask(home: Path, command: str, *, seconds: float = 30.0, **content: Any) -> dict[str, Any]:
    """A running node's answer. Raises NodeError where there is no home, where none runs, or where it refuses."""
    from coterie.runtime.node.control import call
    from coterie.runtime.node.home import Home as Folder

    if not (home / "node.toml").exists():
        raise NodeError("this is no node's home", where=str(home), remedy="Make one: coterie federation init, or join.")
    return call(Folder(home).socket, {"command": command, **content}, seconds)


def settings(
    listen: Listen = None,
    announce: Announce = None,
    join: JoinPort = None,
    contact: Contact = None,
    dht_listen: DhtListen = None,
    dht: Dht = None,
    private: Private = False,
    data: Dataset = None,
    part: Part = None,
) -> Any:
    """A new node's table of settings."""
    from pydantic import ValidationError

    from coterie.registry import explain
    from coterie.runtime.node.home import NodeTable

    try:
        return NodeTable(
            listen=listen,
            announce=announce,
            join=join,
            contacts=contact or [],
            dht_listen=dht_listen,
            dht=dht or [],
            private_networks=private,
            dataset=_anchored(data),
            part=part,
        )
    except ValidationError as error:
        raise explain(error, "command line", NodeTable.model_fields) from None


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the options of ``settings`` in place of its parameter ``table``, which is what they come to."""
    own, options = (inspect.signature(function, eval_str=True) for function in (command, settings))

    @functools.wraps(command)
    def run(**given: Any) -> None:
        table = settings(**{name: given.pop(name) for name in options.parameters})
        command(**given, table=table)

    kept = [parameter for name, parameter in own.parameters.items() if name != "table"]
    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in (*kept, *options.parameters.values())]
    run.__dict__["__signature__"] = own.replace(parameters=parameters)  # from it the command line takes its options
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def metrics_address(text: str | None) -> str | None:
    """``--metrics`` as ``host:port``."""
    from pydantic import ValidationError

    from coterie.registry import explain
    from coterie.runtime.node.home import NodeTable

    try:
        return NodeTable(metrics=text).metrics
    except ValidationError as error:
        raise explain(error, "command line", NodeTable.model_fields) from None


def _anchored(dataset: str | None) -> str | None:
    """A data set with its path made absolute: the node may be started from another folder."""
    kind, colon, path = (dataset or "").partition(":")
    return f"{kind}:{Path(path).absolute()}" if colon and kind in ("csv", "npz") else dataset


def own_key(key: Path | None) -> Any:
    from coterie.identity import Identity

    return None if key is None else Identity.load(key)


def end_of_day(day: str | None) -> int | None:
    """The end of a day in UTC, in ms since 1970."""
    if day is None:
        return None
    try:
        end = datetime.datetime.combine(datetime.date.fromisoformat(day), datetime.time.max, datetime.UTC)
    except ValueError:
        raise MembershipError(f"{day!r} is no day", where="--until", remedy="Write it as 2027-12-31.") from None
    return int(end.timestamp() * 1000)
