"""What a node tells Prometheus: text over HTTP, at an address of the operator's choice; without one, nothing.

Threat model: whoever can open a connection may read all of it, as there is no password and no TLS: let it listen on
loopback, or on a network of the operator's own. It shows how the node and its federation stand - names of members,
rounds, losses, traffic - and no key, no model, no sample. Nothing can be changed through it. A client that is slow, or
asks for too much, is cut off; so many may be connected at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
from typing import TYPE_CHECKING, Any

from coterie.errors import NodeError
from coterie.network.addresses import Address

if TYPE_CHECKING:
    from coterie.runtime.node.daemon import Node

_HEAD = 8192
"""Bytes of a request."""
_SECONDS = 5.0
"""For a request to come, and for its answer to be read."""
_MOST = 16
"""Connections at a time."""
_BEAT = 1.0
"""Seconds between two measurements of the event loop's lag."""
_LAGS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_log = logging.getLogger("coterie.node")


class MetricsPort:
    """Answers ``GET /metrics`` on the node's own event loop: what it reads is never in mid-change."""

    def __init__(self, node: Node, address: str) -> None:
        """Raises NodeError where the package is missing."""
        try:
            self._client: Any = importlib.import_module("prometheus_client")
        except ImportError:
            raise NodeError(
                "prometheus_client is not installed", where="metrics", remedy="pip install 'coterie[prometheus]'"
            ) from None
        from coterie.runtime.node.exposition import Exposition

        self._address = Address.parse(address, to_listen=True)
        self._registry = self._client.CollectorRegistry()
        self._lag = self._client.Histogram(
            "coterie_event_loop_lag_seconds", "How late the event loop was.", buckets=_LAGS, registry=self._registry
        )
        self._registry.register(Exposition(node))
        self._server: asyncio.Server | None = None
        self._open = set[asyncio.StreamWriter]()

    @property
    def port(self) -> int | None:
        """Where it listens; None before ``start``."""
        return self._server.sockets[0].getsockname()[1] if self._server is not None and self._server.sockets else None

    async def start(self) -> None:
        """Raises NodeError where the address cannot be had."""
        try:
            self._server = await asyncio.start_server(
                self._serve, self._address.host, self._address.port, limit=_HEAD, backlog=_MOST
            )
        except OSError as error:
            raise NodeError(
                f"cannot listen at {self._address}: {error.strerror or error}",
                where="metrics",
                remedy="Name another port in node.toml, or with --metrics.",
            ) from None
        _log.info(
            "metrics for Prometheus at http://%s/metrics",
            Address.of(self._address.host, self.port or 1, to_listen=True),
        )

    async def watch(self) -> None:
        """Measure the event loop's lag, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _BEAT
            await asyncio.sleep(_BEAT)
            self._lag.observe(max(0.0, loop.time() - due))

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in list(self._open):
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= _MOST:
            writer.close()
            return
        self._open.add(writer)
        try:
            async with asyncio.timeout(_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(head))
                await writer.drain()
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            self._open.discard(writer)
            with contextlib.suppress(ConnectionError):
                writer.close()

    def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        target = rest.partition(b" ")[0].partition(b"?")[0]
        kind, content = "text/plain; charset=utf-8", b""
        if method not in (b"GET", b"HEAD"):
            status = "405 Method Not Allowed"
        elif target != b"/metrics":
            status = "404 Not Found"
        else:
            status, kind = "200 OK", self._client.CONTENT_TYPE_LATEST
            content = self._client.generate_latest(self._registry)
        header = (
            f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        )
        return header.encode() + (b"" if method == b"HEAD" else content)
