"""Where a script finds its federation: the one place that knows.

In this order: ``SwarmCallback(home=...)``, the environment variable COTERIE_HOME, and the folder the script is started
in, where it is a node's home. Without one the environment variable COTERIE_INVITATION may hold an invitation.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from coterie.errors import NodeError
from coterie.swarm.session import Session

HOME, INVITATION = "COTERIE_HOME", "COTERIE_INVITATION"
_SIGN = "node.toml"
"""The file by which a node's home is known."""


@dataclass(frozen=True)
class Federation:
    """How to come to it: one of the two is set."""

    home: Path | None = None
    invitation: str | None = None


def find(home: Path | None) -> Federation:
    """The federation a script belongs to. Raises NodeError where there is none, and where a home is none."""
    named = [(home, "SwarmCallback: home"), (_path(os.environ.get(HOME)), HOME)]
    for path, where in named:
        if path is not None:
            if not (path / _SIGN).is_file():
                raise NodeError(
                    f"{path} is no node's home: there is no {_SIGN} in it",
                    where=where,
                    remedy="Make one: coterie federation join INVITATION --home DIR.",
                )
            return Federation(home=path)
    if (Path.cwd() / _SIGN).is_file():
        return Federation(home=Path.cwd())
    if invitation := os.environ.get(INVITATION):
        return Federation(invitation=invitation)
    raise NodeError(
        "this script belongs to no federation",
        where="SwarmCallback",
        remedy=f"Set {HOME} to a node's home, or {INVITATION}; or train alone, with SWARM_LOOPBACK=True.",
    )


def open_session(home: Path | None) -> Session:
    """A session of the federation that ``find`` finds. Raises NodeError where there is none."""
    found = find(home)
    raise NodeError(
        f"this version has no peer to embed, so {found.home or 'the invitation'} cannot be used yet",
        where="SwarmCallback",
        remedy="Give it session=..., or set SWARM_LOOPBACK=True.",
    )


def _path(value: str | None) -> Path | None:
    return Path(value) if value else None
