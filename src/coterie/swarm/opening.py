"""Where a script finds its federation: the one place that knows.

In this order: ``SwarmCallback(home=...)``, the environment variable COTERIE_HOME, and the folder the script is started
in, where it is a node's home. With an invitation in the environment variable COTERIE_INVITATION, a text or a file, the
script joins at its first start; its home is made where the first two say, or else in ``coterie-home``.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from coterie.errors import NodeError
from coterie.swarm.embedded import EmbeddedSession
from coterie.swarm.session import Session

if TYPE_CHECKING:
    from coterie.swarm.process import ProcessNode

HOME, INVITATION = "COTERIE_HOME", "COTERIE_INVITATION"
_SIGN = "node.toml"
"""The file by which a node's home is known."""
_MADE = "coterie-home"


@dataclass(frozen=True)
class Federation:
    """How to come to it."""

    home: Path
    """A node's home; where there is an invitation too, it is still to be made."""
    invitation: str | None = None


def find(home: Path | None) -> Federation:
    """The federation a script belongs to. Raises NodeError where there is none, and where a home is none."""
    invitation = os.environ.get(INVITATION)
    for path, where in ((home, "SwarmCallback: home"), (_path(os.environ.get(HOME)), HOME)):
        if path is not None:
            if (path / _SIGN).is_file():
                return Federation(path)
            if invitation:
                return Federation(path, invitation)
            raise NodeError(
                f"{path} is no node's home: there is no {_SIGN} in it",
                where=where,
                remedy="Make one: coterie federation join INVITATION --home DIR.",
            )
    for path in (Path.cwd(), Path.cwd() / _MADE):
        if (path / _SIGN).is_file():
            return Federation(path)
    if invitation:
        return Federation(Path.cwd() / _MADE, invitation)
    raise NodeError(
        "this script belongs to no federation",
        where="SwarmCallback",
        remedy=f"Set {HOME} to a node's home, or {INVITATION}; or train alone, with SWARM_LOOPBACK=True.",
    )


def open_session(home: Path | None) -> Session:
    """A session of the federation that ``find`` finds. Raises NodeError where there is none.

    NetworkError where gRPC is not installed.
    """
    found = find(home)
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # before it is imported; what matters, our transport logs
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # its handlers abort forked workers, such as loaders of data
    from coterie.swarm.federated import FederatedSession

    return EmbeddedSession(FederatedSession(lambda: _node(found)))


async def _node(found: Federation) -> ProcessNode:
    from coterie.swarm.process import node_of

    if found.invitation and not (found.home / _SIGN).is_file():
        await _join(found.home, found.invitation)
    return await node_of(found.home)


async def _join(home: Path, text: str) -> None:
    """Join by an invitation. Whoever has invited is dialled; this site listens nowhere."""
    from coterie.network.addresses import Address
    from coterie.runtime.node.founding import join_federation, read_invitation
    from coterie.runtime.node.home import NodeTable

    invitation = read_invitation(text)
    private = not all(Address.parse(contact).public for contact in invitation.contacts)
    await join_federation(home, invitation, NodeTable(private_networks=private), name=socket.gethostname()[:64])


def _path(value: str | None) -> Path | None:
    return Path(value) if value else None
