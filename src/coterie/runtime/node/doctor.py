"""``coterie doctor``: what a node needs, looked at from outside and, where it runs, from inside."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import shlex
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import coterie.runtime.catalog  # noqa: F401 - fills the registries
from coterie.errors import CoterieError, NodeError
from coterie.identity import short_name
from coterie.network.addresses import Address
from coterie.runtime.node.control import call
from coterie.runtime.node.home import Home, NodeTable
from coterie.runtime.node.roster import Roster

_LEAST_BYTES = 1 << 30
_LEAST_DAYS = 14
_SKEW_MS = 30_000
"""Clocks may differ by so much before anybody is warned; records of an hour ahead are not taken."""


@dataclass(frozen=True)
class Check:
    """``verdict``: "good", "bad" or "unknown"; ``mend``: what to do."""

    name: str
    verdict: str
    found: str
    mend: str = ""

    def record(self) -> dict[str, str]:
        return {"name": self.name, "verdict": self.verdict, "found": self.found, "mend": self.mend}


def examine(path: Path) -> list[Check]:
    """All checks of a home. Raises NodeError where there is none."""
    home = Home(path)
    table = home.table
    try:
        status: dict[str, Any] | None = call(home.socket, {"command": "examine"}, seconds=60)
    except NodeError:
        status = None
    checks = [
        _try("key", lambda: f"{home.identity.id[:16]} ({short_name(home.identity.id)})"),
        _try("certificate", lambda: _certificate(home)),
        _try("ledger", lambda: _ledger(home))
        if status is None
        else Check("ledger", "good", "open in the running node"),
        _try("spec", lambda: f"{home.spec.federation.name}, {home.spec.federation.protocol}"),
        _disk(path),
        _packages(table),
    ]
    if status is None:
        checks.append(
            Check("node", "unknown", "not running", f"Start it: coterie node --home {shlex.quote(str(path))}")
        )
        for what, address in (("listen", table.listen), ("join", table.join)):
            if address is not None:
                checks.append(_try(f"{what} port", partial(_free, address)))
        return checks
    return [*checks, *_from_inside(status)]


def _from_inside(status: dict[str, Any]) -> Iterator[Check]:
    state, why = status["state"], status["why"]
    verdict = "bad" if state == "failed" else "good"
    yield Check("node", verdict, f"{state}{': ' + why if why else ''}", "See its log." if verdict == "bad" else "")
    others = [member for member in status["members"] if not member["this"]]
    reached = sum(member["answers"] for member in others)
    refusing = [member["name"] for member in others if member.get("refuses")]
    mend = ""
    if refusing:
        mend = f"{', '.join(refusing)} can be dialled and will not talk: was this peer expelled? Ask them."
    elif reached < len(others):
        silent = ", ".join(member["name"] for member in others if not member["answers"])
        mend = f"Are the nodes of {silent} running? May this machine dial them, or they it?"
    found = f"{reached} of {len(others)} others answer" if others else "no others yet"
    yield Check("members", "bad" if mend else "good", found, mend)
    skews = [member["skew_ms"] for member in others if member["skew_ms"] is not None]
    if skews:
        middle = sorted(skews)[len(skews) // 2]
        good = abs(middle) <= _SKEW_MS
        yield Check(
            "clock",
            "good" if good else "bad",
            f"{middle / 1000:+.1f} s off the others",
            "" if good else "Set it: use NTP.",
        )
    else:
        yield Check("clock", "unknown", "nobody to compare with")
    reach = status["reachable"]
    if reach is None:
        why = "nobody could be asked" if status["listens"] else "it only dials out, which is enough"
        yield Check("reachable", "unknown" if status["listens"] else "good", why)
    else:
        mend = (
            "Open the port in the firewall, or set announce in node.toml to where others reach it; or, where that is a "
            "private address, private_networks = true at all members."
        )
        yield Check(
            "reachable",
            "good" if reach else "bad",
            "from another member" if reach else "not from another member",
            "" if reach else mend,
        )


def _try(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, "good", look())
    except CoterieError as error:
        return Check(name, "bad", f"{error.where}: {error.what}" if error.where else error.what, error.remedy)


def _certificate(home: Home) -> str:
    ends = home.transport.certificate.ends
    days = (ends - datetime.datetime.now(datetime.UTC)).days
    if days < 0:
        raise NodeError(
            f"it has ended on {ends:%Y-%m-%d}, and no member lets it in",
            where="transport.pem",
            remedy="Another member invites a successor of this peer: coterie federation invite --replaces PEER.",
        )
    if days < _LEAST_DAYS:
        raise NodeError(
            f"it ends in {days} days",
            where="transport.pem",
            remedy="Start the node while it is good: it takes a new one, and tells the others.",
        )
    return f"good for {days} days"


def _ledger(home: Home) -> str:
    with Roster(home.path, home.table.federation) as roster:
        roster.require_in(home.identity.id, home.path)
        return f"{len(roster.membership.members)} members"


def _disk(path: Path) -> Check:
    free = shutil.disk_usage(path).free
    mend = "" if free >= _LEAST_BYTES else "Make room: the ledger and the state grow with every round."
    return Check("disk", "good" if free >= _LEAST_BYTES else "bad", f"{free / 1e9:.1f} GB free", mend)


def _free(address: str) -> str:
    where = Address.parse(address, to_listen=True)
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((where.host, where.port))
        except OSError as error:
            raise NodeError(
                f"cannot be had: {error.strerror or error}",
                where=address,
                remedy="End the process that has it, or choose another address of this machine in node.toml.",
            ) from None
    return f"{address} is free"


def _packages(table: NodeTable) -> Check:
    """Versions of what the node runs on, and what its settings need that is not installed."""
    wanted = {
        "grpcio": ("node", True),
        "libtorrent": ("node", table.dht_listen is not None),
        "zstandard": ("node", table.compression == "zstd"),
        "prometheus-client": ("prometheus", table.metrics is not None),
    }
    found, extras = [f"Python {platform.python_version()}"], list[str]()
    for name in ("coterie", *wanted, "torch", "cryptography"):
        extra, needed = wanted.get(name, ("", True))
        try:
            found += [f"{name} {importlib.metadata.version(name)}"] if needed else []
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} is not installed")
            extras.append(extra)
    if not extras:
        return Check("versions", "good", ", ".join(found))
    return Check("versions", "bad", ", ".join(found), f"pip install 'coterie[{','.join(dict.fromkeys(extras))}]'")
