"""The commands of real peers: ``coterie node``, ``doctor`` and ``audit``, beside ``coterie federation``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from coterie._commands import grid, success
from coterie._federation import federation
from coterie._node_options import AsJson, Home
from coterie.errors import LedgerError


def add_to(app: typer.Typer) -> None:
    """Add all commands of this module."""
    app.add_typer(federation, name="federation")
    for command, epilog in (
        (node, "Example: coterie node --home hospital-a"),
        (doctor, "Example: coterie doctor --home hospital-a"),
        (audit, "Example: coterie audit hospital-a/ledger.sqlite --genesis 3f0c..."),
    ):
        app.command(epilog=epilog)(command)


def node(
    home: Home,
    as_json: Annotated[bool, typer.Option("--log-json", help="Log one JSON object a line.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Do nothing; say what would leave this site, and to whom.")
    ] = False,
) -> None:
    """Run a node until it is stopped with Ctrl-C or SIGTERM. It goes on from where it was, after a crash too."""
    import torch

    import coterie.runtime.catalog  # noqa: F401 - fills the registries
    from coterie.runtime.node import logs
    from coterie.runtime.node.daemon import run_node
    from coterie.runtime.node.disclosure import disclosure

    torch.set_num_threads(1)
    if dry_run:
        for line in disclosure(home):
            success(line)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    logs.begin(as_json=as_json)
    run_node(home)


def doctor(home: Home, as_json: AsJson = False) -> None:
    """Check what a node needs - key, certificate, clock, ports, reachability, disk - and say what to mend.

    Ends with status 1 where something must be mended.
    """
    from coterie.runtime.node.doctor import examine

    found = examine(home)
    if as_json:
        success(json.dumps({"checks": [check.record() for check in found]}))
    else:
        grid(("check", "", "found", "what to do"), [(c.name, c.verdict, c.found, c.mend) for c in found])
    if any(check.verdict == "bad" for check in found):
        raise typer.Exit(1)


def audit(
    ledger: Annotated[Path, typer.Argument(help="A ledger file, or a folder that holds some.", show_default=False)],
    genesis: Annotated[str, typer.Option("--genesis", help="The federation's id: 64 hexadecimal digits.")],
    as_json: AsJson = False,
) -> None:
    """Verify a ledger offline: every signature, hash and chain, with nothing but the genesis hash.

    Ends with status 1 where something is wrong, and names the first bad record.
    """
    from coterie.ledger import audit as verify
    from coterie.ledger import describe

    try:
        wanted = bytes.fromhex(genesis)
    except ValueError:
        wanted = b""
    if len(wanted) != 32:
        raise LedgerError(
            "not a genesis hash", where="--genesis", remedy="Give 64 hexadecimal digits, as 'federation status' shows."
        )
    files = sorted(ledger.rglob("ledger.sqlite")) if ledger.is_dir() else [ledger]
    if not files:
        raise LedgerError("there is no ledger.sqlite in it", where=str(ledger), remedy="Name a ledger file.")
    found = [(path, verify(path, wanted)) for path in files]
    if as_json:
        rows = [{"path": str(path), "ok": one.fault is None, "report": describe(one)} for path, one in found]
        success(json.dumps({"ledgers": rows}))
    else:
        for path, one in found:
            success(f"{path}\n{describe(one)}")
    if any(one.fault is not None for _, one in found):
        raise typer.Exit(1)
