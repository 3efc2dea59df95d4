"""The dialling end of a stream: a TLS client that knows the one peer it wants to meet."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc

from coterie.errors import MessageError, PeerUnreachable
from coterie.identity import PeerId
from coterie.network.compression import encodings
from coterie.network.grpc.options import client_credentials, of_client
from coterie.network.grpc.station import Station
from coterie.network.grpc.stream import BrokenStream, Direct, guarded
from coterie.network.grpc.wire import HELLO, HELLO_KEY, METHOD, Hello, read_hello

if TYPE_CHECKING:
    from coterie.network.grpc.link import Link


class Dialler:
    """Opens streams. ``keeps``: whether it does so for all whose address is known, as nobody can dial this process."""

    def __init__(self, station: Station, keeps: bool) -> None:
        self._station, self.keeps = station, keeps

    async def dial(self, peer: PeerId, address: str, *, alone: bool) -> Direct:
        """A stream to ``peer``, which has proved to hold one of its certificates. Raises PeerUnreachable."""
        station = self._station
        members, expected = station.members, station.members.of_peer(peer)
        if not expected:
            raise PeerUnreachable("not a member", where=peer)
        channel = grpc.aio.secure_channel(
            f"dns:///{address}",
            client_credentials(station.transport_key, expected),
            options=of_client(expected[0].name),
        )
        ours = Hello.make(members.genesis, station.session, alone, [e.name for e in encodings()])
        ends = _Call(channel, ours, station)
        try:
            async with asyncio.timeout(station.limits.connect_seconds):
                answer = await guarded(ends.read())
            hello = read_hello(answer[1:] if answer is not None and answer[:1] == HELLO else b"", members.genesis)
        except BaseException as error:
            ends.cut("no stream")
            if isinstance(error, TimeoutError):
                raise PeerUnreachable("no answer in time", where=address) from None
            if isinstance(error, BrokenStream | MessageError):
                raise PeerUnreachable(str(error), where=address) from None
            raise
        stream = Direct(peer, True, hello, ends, station)
        stream.certificates = frozenset(certificate.fingerprint for certificate in expected)
        return stream

    async def read(self, stream: Direct, link: Link) -> None:
        """Take what comes on a stream, until it ends; then the connection goes too."""
        try:
            await link.read(stream)
        finally:
            stream.end("closed")
            link.lose(stream)


class _Call:
    """gRPC's client side, with a connection of its own."""

    def __init__(self, channel: Any, hello: Hello, station: Station) -> None:
        self._channel, self._station = channel, station
        self._call = channel.stream_stream(METHOD)(metadata=((HELLO_KEY, hello.encode()),), wait_for_ready=False)
        self._cut = False

    async def read(self) -> bytes | None:
        message = await self._call.read()
        return None if message is grpc.aio.EOF else message

    async def write(self, message: bytes) -> None:
        await self._call.write(message)

    async def done_writing(self) -> None:
        await self._call.done_writing()

    def cut(self, reason: str) -> None:
        if not self._cut:
            self._cut = True
            self._call.cancel()
            # A call of grpc.aio in which a write has failed thinks that it is done, and its cancel does nothing; but
            # the call below it waits for what will never be read, with its buffers, for ever.
            core = getattr(self._call, "_cython_call", None)
            if core is not None:
                core.cancel(reason)
            self._station.clean_up(self._channel.close())
