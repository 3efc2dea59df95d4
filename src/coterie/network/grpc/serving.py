"""The listening end: a TLS server that lets members in, and nobody else.

TLS asks for a client certificate and accepts only those of members, by the picture of them that is in force when the
handshake begins. As a connection outlives changes of the members, each stream is checked again, by the exact
fingerprint of the certificate that its connection has shown.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections import Counter
from collections.abc import Callable
from typing import Any

import grpc

from coterie.errors import MessageError, RunError
from coterie.identity import PeerId, TransportKey, short_name
from coterie.network.compression import encodings
from coterie.network.grpc.link import Link
from coterie.network.grpc.options import of_server
from coterie.network.grpc.station import Station, log
from coterie.network.grpc.stream import BrokenStream, Direct, guarded
from coterie.network.grpc.wire import HELLO, HELLO_KEY, METHOD, Hello, read_hello
from coterie.network.members import Members

_DENIED, _FULL = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.RESOURCE_EXHAUSTED
_MISMATCH, _ENDED = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ABORTED
_ABORT_SECONDS = 1.0


class Listener:
    """Accepts streams and gives them to links. ``link_to`` gives the link of a member."""

    def __init__(self, station: Station, link_to: Callable[[PeerId], Link | None]) -> None:
        self._station, self._link_to = station, link_to
        self._shown: tuple[Members, TransportKey] | None = None
        self._server: Any = None
        self.streams = 0
        """That are open."""
        self._refused = Counter[str]()

    async def start(self, address: str) -> int:
        """Listen; the port. Raises RunError where the address cannot be had."""
        credentials = grpc.dynamic_ssl_server_credentials(self._newest(), self._fetch, True)
        self._server = grpc.aio.server(options=of_server(self._station.limits))
        service, method = METHOD.strip("/").split("/")
        handler = grpc.stream_stream_rpc_method_handler(self._accept)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        try:
            port = self._server.add_secure_port(address, credentials)
        except RuntimeError:
            port = 0
        if not port:
            self._server = None
            raise RunError(
                "the address cannot be listened on",
                where=address,
                remedy="Choose another port, or end the process that has it.",
            )
        await self._server.start()
        return int(port)

    async def stop(self) -> None:
        """Close the port and every connection."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    def _fetch(self) -> Any:
        """For gRPC's threads, at each handshake: the newest settings; None while nothing has changed."""
        if self._shown == (self._station.members, self._station.transport_key):
            return None
        return self._newest()

    def _newest(self) -> Any:
        members, key = self._station.members, self._station.transport_key
        configuration = grpc.ssl_server_certificate_configuration(
            [(key.key_pem, key.certificate.pem)],
            # No roots would mean the system's: anybody with a web site's certificate.
            root_certificates=members.roots or key.certificate.pem,
        )
        self._shown = members, key
        return configuration

    async def _accept(self, _: Any, context: Any) -> None:
        """One stream, from its first message to its end."""
        self.streams += 1
        link: Link | None = None
        try:
            fingerprint = _fingerprint(context)
            peer = self._station.members.holder(fingerprint)
            link = self._link_to(peer) if peer is not None else None
            if peer is None or link is None:
                await self._refuse(context, _DENIED, "not a member", "a stream of a certificate that no member holds")
                return
            link.incoming += 1
            await self._serve(context, link, fingerprint)
        finally:
            self.streams -= 1
            if link is not None:
                link.incoming -= 1

    async def _serve(self, context: Any, link: Link, fingerprint: bytes) -> None:
        station, peer = self._station, link.peer
        limits, often = station.limits, not link.account.streams.take()
        for exceeded, name in (
            (link.incoming > limits.streams_of_a_peer, "streams_of_a_peer"),
            (self.streams > limits.streams, "streams"),
            (often, "streams_a_minute_of_a_peer"),
        ):
            if exceeded:
                station.drop(peer, "too many streams", f"the limit is {name}")
                await self._refuse(context, _FULL, f"too many streams: the limit is {name}")
                return
        ends = _Context(context)
        try:
            hello = read_hello(_hello(context), station.members.genesis)
            ours = Hello.make(station.members.genesis, station.session, False, [e.name for e in encodings()])
            async with asyncio.timeout(station.limits.connect_seconds):
                await guarded(ends.write(HELLO + ours.encode()))
        except TimeoutError:
            await self._refuse(context, _ENDED, "the other end does not read", f"a stream of {short_name(peer)}")
            return
        except MessageError as error:
            station.drop(peer, "wrong hello", str(error))
            await self._refuse(context, _MISMATCH, error.what, f"a stream of {short_name(peer)}")
            return
        except BrokenStream:
            return
        if station.members.holder(fingerprint) != peer:  # it has changed meanwhile
            await self._refuse(context, _DENIED, "not a member", f"a stream of {short_name(peer)}")
            return
        stream = Direct(peer, False, hello, ends, station)
        stream.certificates = frozenset((fingerprint,))
        try:
            link.add(stream)
            await link.read(stream)
        except asyncio.CancelledError:
            if not ends.reason:
                raise
            _uncancel()
        finally:
            stream.end("closed")
            link.lose(stream)
        if ends.reason not in ("", "closed"):
            await self._refuse(context, _DENIED if ends.reason in ("expelled", "left") else _ENDED, ends.reason)

    async def _refuse(self, context: Any, code: Any, reason: str, whose: str = "") -> None:
        """End a stream with a status that the other end can log."""
        if whose:
            self._refused[whose] = count = self._refused[whose] + 1
            if count & (count - 1) == 0:  # whoever is refused may come again at once
                log.warning("refused %s from %s: %s (%d so far)", whose, context.peer(), reason, count)
        _uncancel()
        try:
            async with asyncio.timeout(_ABORT_SECONDS):
                await context.abort(code, reason)
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            # The other end does not read, or is gone: gRPC resets the stream when this task ends.
            log.debug("no status could be sent: %s", error)


class _Context:
    """gRPC's server side. It is read by the task that handles the call, which ends when it is cut."""

    def __init__(self, context: Any) -> None:
        self._context, self._task = context, asyncio.current_task()
        self.reason = ""

    async def read(self) -> bytes | None:
        message = await self._context.read()
        return None if message is grpc.aio.EOF else message

    async def write(self, message: bytes) -> None:
        await self._context.write(message)

    async def done_writing(self) -> None:
        """The call ends when its task does."""

    def cut(self, reason: str) -> None:
        if not self.reason:
            self.reason = reason
            # A task that cuts its own stream sees that it has ended; a cancellation would come at a later await.
            if self._task is not None and self._task is not asyncio.current_task():
                self._task.cancel()


def _uncancel() -> None:
    """What cancelled this task has been dealt with."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()


def _hello(context: Any) -> bytes:
    """What the call's metadata say."""
    found = [value for key, value in context.invocation_metadata() if key == HELLO_KEY]
    return found[0] if len(found) == 1 and isinstance(found[0], bytes) else b""


def _fingerprint(context: Any) -> bytes:
    """SHA-256 of the certificate that TLS has proved; nothing without one."""
    shown = context.auth_context().get("x509_pem_cert")
    if not shown:
        return b""
    try:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(shown[0].decode())).digest()
    except ValueError:
        return b""
