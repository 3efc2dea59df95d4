"""The commands of real peers: ``coterie node``, ``doctor`` and ``audit``, beside ``coterie federation``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from coterie._commands import grid, success
from coterie._federation import federation
from coterie._node_options import AsJson, Home, metrics_address
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
    metrics: Annotated[
        str | None,
        typer.Option("--metrics", metavar="[HOST:]PORT", help="Figures for Prometheus, here; on loopback by default."),
    ] = None,
) -> None:
    """Run a node until it is stopped with Ctrl-C or SIGTERM. It goes on from where it was, after a crash too."""
    import torch

    import coterie.runtime.catalog  # noqa: F401 - fills the registries
    from coterie.runtime.node import logs

    logs.begin(as_json=as_json)  # before what imports gRPC
    from coterie.runtime.node.daemon import run_node
    from coterie.runtime.node.disclosure import disclosure

    torch.set_num_threads(1)
    if dry_run:
        for line in disclosure(home):
            success(line)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    run_node(home, metrics_address(metrics))


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
    start: Annotated[
        str | None,
        typer.Option("--start", help="What a shared chain must begin with: the id of its charter or a checkpoint."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify a ledger offline: every signature, hash, certificate and proof, with nothing but the genesis hash.

    Ends with status 1 where something is wrong, and names the first bad record or block.
    """
    wanted = _hash(genesis, "--genesis", "a genesis hash", "as 'federation status' shows")
    pinned = None if start is None else _hash(start, "--start", "the id of a start", "as the invitation names them")
    files = [ledger]
    if ledger.is_dir():
        names = ("ledger.sqlite", "shared.sqlite", "chain.sqlite")  # the last one is a training's
        files = sorted(path for name in names for path in ledger.rglob(name))
    if not files:
        raise LedgerError(
            "there is no ledger.sqlite in it",
            where=str(ledger),
            remedy="Name a ledger file, or a node's home. Simulations keep no ledger.",
        )
    starts = {}
    if pinned is not None:
        starts = {path: pinned for path in files if _has_start(path, beside=ledger.is_dir())}
    if pinned is not None and not starts:
        raise LedgerError(
            "there is no shared chain that could begin with what --start names",
            where=str(ledger),
            remedy="Name the chain's file, or leave --start out.",
        )
    found = [(path, *_audited(path, wanted, starts.get(path))) for path in files]
    if as_json:
        rows = [{"path": str(path), "ok": ok, "report": report} for path, ok, report in found]
        success(json.dumps({"ledgers": rows}))
    else:
        for path, _, report in found:
            success(f"{path}\n{report}")
    if not all(ok for _, ok, _ in found):
        raise typer.Exit(1)


def _has_start(path: Path, *, beside: bool) -> bool:
    """Whether --start is about this ledger. ``beside``: there are others, and a training's has a start of its own."""
    from coterie.ledger.shared import is_shared
    from coterie.protocols.swarm.audit import CHAIN

    return is_shared(path) and not (beside and path.name == CHAIN)


def _audited(path: Path, genesis: bytes, start: bytes | None) -> tuple[bool, str]:
    """Whether a ledger of any kind is sound, and a report."""
    from coterie.ledger import audit as verify
    from coterie.ledger import describe
    from coterie.ledger.shared import audit_shared, describe_shared, is_shared
    from coterie.protocols.committees.recorded import committee_fault
    from coterie.protocols.swarm.audit import CHAIN, audit_training

    if path.name == CHAIN:
        return audit_training(path, genesis, start)
    if is_shared(path):
        chain = audit_shared(path, genesis, start, committee_fault)
        return chain.fault is None, describe_shared(chain)
    one = verify(path, genesis)
    return one.fault is None, describe(one)


def _hash(text: str, option: str, what: str, source: str) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != 32:
        raise LedgerError(f"not {what}", where=option, remedy=f"Give 64 hexadecimal digits, {source}.")
    return found
