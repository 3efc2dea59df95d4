"""The port that newcomers knock at: one question, one answer, over TLS 1.3 in which only the server has a certificate.

    request  = length, u32 | bytes
    response = 0 or 1, u8 | length, u32 | bytes        (1: the port could not answer; no bytes)

Threat model: anybody may call. The caller knows the certificate's SHA-256 fingerprint from its invitation and sends
nothing before it has seen exactly that certificate, so that nobody in between learns what it asks. The port knows
nothing of the caller but its network address: what it says must prove itself. Connections are counted by address (by
/64 for IPv6) and in all before TLS begins, so that a flood costs little; it can still keep others out, for as long as
it lasts, and callers behind one address share what is allowed to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import ipaddress
import logging
import os
import socket
import ssl
import struct
import tempfile
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from coterie.errors import IdentityError, PeerUnreachable, RunError
from coterie.identity import TransportKey
from coterie.network.addresses import Address
from coterie.network.limits import TokenBucket

log = logging.getLogger("coterie.network")

Handler = Callable[[bytes, str], Awaitable[bytes]]
"""Called with the request and the caller's network address; returns the response."""

_LENGTH = struct.Struct(">I")
_NAME = "join.coterie.invalid"
_ADDRESSES = 4096
"""That are remembered at a time."""
_BACKLOG = 64


@dataclass(frozen=True, kw_only=True)
class JoinLimits:
    """Limits of one port."""

    request_bytes: int = 1 << 18
    """Of one request. Raise it if invitations carry more than a quarter of a megabyte."""
    calls: int = 32
    """At a time. Raise it if many newcomers join in the same seconds."""
    calls_a_second: float = 10.0
    """In all, in the long run; twice as many at once."""
    calls_a_minute_of_an_address: float = 30.0
    """In the long run; as many at once. Raise it if many newcomers share one address."""
    seconds: float = 20.0
    """For a call, with its handshake. Raise it for very slow lines."""


RESPONSE_BYTES = 1 << 24
"""The longest response that a caller takes."""


class JoinPort:
    """``listen``: "host:port", with port 0 for any."""

    def __init__(
        self, transport_key: TransportKey, handler: Handler, listen: str, limits: JoinLimits | None = None
    ) -> None:
        """Raises NetworkError for a wrong address."""
        self._listen = Address.parse(listen, to_listen=True)
        self._handler, self._limits = handler, limits or JoinLimits()
        self._context = _server_context(transport_key)
        rate = self._limits.calls_a_second
        self._rate = TokenBucket(rate, max(1.0, 2 * rate))
        self._rates: OrderedDict[str, TokenBucket] = OrderedDict()
        self._calls: set[asyncio.Task[None]] = set()
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self.port = 0
        self.refused = 0
        """Connections that were closed at once."""

    async def start(self) -> None:
        """Listen. Raises RunError where the address cannot be had."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(
                self._listen.host, self._listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            family, _, _, _, where = found[0]
            self._socket = socket.create_server(where[:2], family=family, backlog=_BACKLOG)
        except OSError as error:
            raise RunError(
                f"the join port cannot be opened: {error.strerror or error}",
                where=str(self._listen),
                remedy="Choose another port, or end the process that has it.",
            ) from None
        self._socket.setblocking(False)
        self.port = self._socket.getsockname()[1]
        self._accepting = loop.create_task(self._accept(self._socket))

    async def close(self) -> None:
        """Close the port and what is under way."""
        tasks = [*self._calls, *([self._accepting] if self._accepting is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._socket is not None:
            self._socket.close()

    def rotate(self, transport_key: TransportKey) -> None:
        """Show another certificate from now on. Invitations that name the old one no longer work."""
        self._context = _server_context(transport_key)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, where = await loop.sock_accept(listening)
            except OSError as error:  # out of file descriptors, or a caller that is gone already
                log.warning("the join port cannot accept: %s", error)
                await asyncio.sleep(0.1)
                continue
            address = str(where[0])
            reason = self._too_much(address)
            if reason:
                self.refused += 1
                if self.refused & (self.refused - 1) == 0:
                    log.warning("join port: refused %s: %s (%d refused so far)", address, reason, self.refused)
                connection.close()
                continue
            task = loop.create_task(self._serve(connection, address))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)

    def _too_much(self, address: str) -> str:
        """The limit that a call from there would exceed."""
        limits = self._limits
        key = _network(address)
        rate = self._rates.pop(key, None)
        if rate is None:
            most = limits.calls_a_minute_of_an_address
            rate = TokenBucket(most / 60, max(1.0, most))
            while len(self._rates) >= _ADDRESSES:
                self._rates.popitem(last=False)
        self._rates[key] = rate
        if len(self._calls) >= limits.calls:
            return "calls"
        if not rate.take():
            return "calls_a_minute_of_an_address"
        return "" if self._rate.take() else "calls_a_second"

    async def _serve(self, connection: socket.socket, address: str) -> None:
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(self._limits.seconds):
                reader, writer = await self._secure(connection)
                (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
                if length > self._limits.request_bytes:
                    log.warning("join port: a request of %d bytes from %s: the limit is request_bytes", length, address)
                    return
                request = await reader.readexactly(length)
                writer.write(await self._respond(request, address))
                await writer.drain()
                writer.close()
                with contextlib.suppress(ConnectionResetError):  # who has the answer is gone
                    await writer.wait_closed()
        except TimeoutError:
            log.warning("join port: %s took too long", address)
        except (OSError, EOFError, ssl.SSLError) as error:
            log.info("join port: %s: %s", address, error)
        finally:
            if writer is not None:
                writer.transport.abort()
            else:
                connection.close()

    async def _secure(self, connection: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=1 << 16)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol, connection, ssl=self._context, ssl_handshake_timeout=self._limits.seconds
        )
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    async def _respond(self, request: bytes, address: str) -> bytes:
        try:
            response = await self._handler(request, address)
        except Exception:
            log.exception("join port: a request from %s could not be answered", address)
            return b"\x01" + _LENGTH.pack(0)
        return b"\x00" + _LENGTH.pack(len(response)) + response


async def call_join(address: str, fingerprint: bytes, request: bytes, timeout: float) -> bytes:
    """Ask the port at ``address`` ("host:port"), whose certificate has this SHA-256 ``fingerprint``.

    ``timeout`` in seconds. Raises IdentityError where another certificate is shown, before anything is sent;
    PeerUnreachable where nobody answers, or the port will not; NetworkError for a wrong address.
    """
    where = Address.parse(address)
    try:
        async with asyncio.timeout(timeout):
            return await _call(where.host, where.port, fingerprint, request)
    except TimeoutError:
        raise PeerUnreachable(f"no answer within {timeout:g} s", where=address, remedy=_REMEDY) from None
    except (OSError, EOFError, ssl.SSLError) as error:
        what = "the connection was closed" if isinstance(error, EOFError) else str(error.strerror or error)
        raise PeerUnreachable(f"no answer: {what}", where=address, remedy=_REMEDY) from None


_REMEDY = "Check the address and the firewall, and try again in a minute: the port answers only so many calls."


async def _call(host: str, port: int, fingerprint: bytes, request: bytes) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # No authority vouches for the certificate: it must be the one that is expected, and the handshake has proved that
    # the other end holds its key.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=_NAME)
    try:
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True) or b""
        if not hmac.compare_digest(hashlib.sha256(shown).digest(), fingerprint):
            raise IdentityError(
                "the port shows another certificate than the invitation names",
                where=f"{host}:{port}",
                remedy="Ask for a new invitation. If it is new, somebody may be in between: compare by telephone.",
            )
        writer.write(_LENGTH.pack(len(request)) + request)
        await writer.drain()
        status = await reader.readexactly(1 + _LENGTH.size)
        (length,) = _LENGTH.unpack(status[1:])
        if status[0] != 0 or length > RESPONSE_BYTES:
            raise PeerUnreachable("the port could not answer", where=f"{host}:{port}", remedy="See its log.")
        return await reader.readexactly(length)
    finally:
        writer.transport.abort()


def _server_context(key: TransportKey) -> ssl.SSLContext:
    """The standard library reads keys from files only: one that nobody else can open, and that is gone at once."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    content = key.key_pem + key.certificate.pem
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("coterie-join"), "wb") as file:
            file.write(content)
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
        return context
    descriptor, path = tempfile.mkstemp(prefix="coterie-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        context.load_cert_chain(path)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)  # noqa: PTH108 - beside os.fdopen
    return context


def _network(address: str) -> str:
    """What is counted as one caller."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 4:
        return address
    mapped = found.ipv4_mapped
    return str(mapped) if mapped is not None else str(ipaddress.ip_network((found, 64), strict=False))
