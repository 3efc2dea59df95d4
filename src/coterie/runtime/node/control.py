"""The node's control socket: one JSON object a line, in and out, over a Unix socket that only its owner may open.

Threat model: who may open the socket may do all that the node may, so it is made with mode 0600 in a folder of mode
0700. Nothing here is reachable from a network.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from coterie.errors import CoterieError, NodeError

SOCKET = "control.sock"
"""In a home, where its path is not too long."""
_LINE = 1 << 20
"""Bytes in a request or an answer."""

Command: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]


class ControlServer:
    """Answers requests ``{"command": NAME, ...}`` with ``{"ok": true, ...}`` or ``{"ok": false, "error": {...}}``."""

    def __init__(self, path: Path, commands: Mapping[str, Command]) -> None:
        self._path, self._commands = path, commands
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen, in a home that this process has locked. Raises NodeError where that cannot be, or where others may
        write beside it."""
        folder, listening = self._path.parent, socket.socket(socket.AF_UNIX)
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o022:
                raise NodeError(
                    "the folder of the control socket belongs to another user, or others may write there",
                    where=str(folder),
                    remedy=f"Take it away from them: chmod 700 {shlex.quote(str(folder))}",
                )
            self._path.unlink(missing_ok=True)  # left behind by a node that was killed: the home is locked
            listening.bind(str(self._path))
            self._path.chmod(0o600)  # nobody can have connected: it does not listen yet
            self._server = await asyncio.start_unix_server(self._serve, sock=listening, limit=_LINE)
        except OSError as error:
            raise NodeError(
                f"the control socket cannot be made: {error.strerror or error}",
                where=str(self._path),
                remedy="Make room, check the permissions, or move the home to a disk of this machine.",
            ) from None
        finally:
            if self._server is None:
                listening.close()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ValueError):  # ValueError: a line that is too long
            while line := await reader.readline():
                writer.write(json.dumps(await self._answer(line)).encode() + b"\n")
                await writer.drain()
        writer.close()

    async def _answer(self, line: bytes) -> Mapping[str, Any]:
        try:
            request = json.loads(line)
            command = self._commands[request["command"]]
        except (ValueError, KeyError, TypeError):
            return _failure(
                NodeError("not a command that this node knows", remedy=f"Known: {', '.join(self._commands)}.")
            )
        try:
            return {"ok": True, **await command(request)}
        except CoterieError as error:
            return _failure(error)


def call(path: Path, request: Mapping[str, Any], seconds: float = 30.0) -> dict[str, Any]:
    """A running node's answer. Raises NodeError where none runs, where it refuses, or where it is not this user's."""
    try:
        _require_ours(path)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(seconds)
            connection.connect(str(path))
            with connection.makefile("rwb") as stream:
                stream.write(json.dumps(request).encode() + b"\n")
                stream.flush()
                answer = json.loads(stream.readline(_LINE))
    except (OSError, ValueError):
        home = str(path.parent)
        raise NodeError(
            "no node answers here", where=home, remedy=f"Start it: coterie node --home {shlex.quote(home)}"
        ) from None
    if not answer.pop("ok", False):
        error = answer.get("error", {})
        raise NodeError(error.get("what", "refused"), where=error.get("where", ""), remedy=error.get("remedy", ""))
    return dict(answer)


def _require_ours(path: Path) -> None:
    """Where a home's path is too long for a socket it lies in a common folder, and anybody might have been there first.

    Raises NodeError, and OSError where there is none.
    """
    owner = path.parent.lstat().st_uid
    of_a_home = path.name == SOCKET  # a user's own, as it was resolved; root looks into those of others
    if owner != os.getuid() and not (of_a_home and os.getuid() == 0):
        raise NodeError(
            "the folder of the control socket belongs to another user, who could answer in the node's place",
            where=str(path.parent),
            remedy="Give the command as the user whose node it is; or have that folder removed.",
        )


def _failure(error: CoterieError) -> Mapping[str, Any]:
    return {"ok": False, "error": error.record()}
