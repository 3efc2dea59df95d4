"""Peers with real transports on this machine in one process, and a client that keeps to no rule."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import grpc
import pytest
import torch

from coterie.errors import MessageError
from coterie.identity import Certificate, Identity, TransportKey
from coterie.layout import Snapshot
from coterie.network import Codec, Envelope, Frame, MemorySnapshot, Message, message
from coterie.network.grpc import GrpcTransport
from coterie.network.grpc.wire import HELLO_KEY, MESSAGE_BYTES, METHOD, Hello
from coterie.network.limits import Limits
from coterie.network.members import Members
from coterie.network.spool import Spool

GENESIS, OTHER_GENESIS = b"\x01" * 32, b"\x02" * 32
LAYOUT, UNKNOWN_LAYOUT = "ab" * 32, "cd" * 32
ELEMENTS = 1 << 20
QUICK = Limits(snapshot_elements={LAYOUT: ELEMENTS}, hold_seconds=10.0)
DEADLINE = 20.0


def _has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


NEEDS_IPV6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no ::1")


def following(members: Members, certificates: Iterable[Certificate]) -> Members:
    """The same federation with these certificates instead."""
    return Members.of(members.genesis, certificates)


@message
class NetNote(Message, frozen=True):
    text: str


@message
class NetVectors(Message, frozen=True):
    text: str
    vectors: list[Snapshot]


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run a test's coroutine; nothing in it may take longer than a minute."""

    async def main() -> None:
        await asyncio.wait_for(test(), 60)
        await settled()

    asyncio.run(main())


async def settled() -> None:
    """Wait until nothing goes on in this loop: gRPC trips over calls that end after their loop was closed."""
    loop = asyncio.get_running_loop()
    end = loop.time() + 2
    while len(asyncio.all_tasks()) > 1 and loop.time() < end:
        await asyncio.sleep(0.002)
    await asyncio.sleep(0.005)


async def until(condition: Callable[[], object], what: str = "the condition") -> None:
    """Wait for it."""
    loop = asyncio.get_running_loop()
    end = loop.time() + DEADLINE
    while not condition():
        assert loop.time() < end, f"waited in vain for {what}"
        await asyncio.sleep(0.002)


def snapshot(size: int, seed: int = 0, layout: str = LAYOUT) -> MemorySnapshot:
    return MemorySnapshot(layout, torch.randn(size, generator=torch.Generator().manual_seed(seed)))


def note(text: str) -> Frame:
    return Codec().encode(Envelope("send", 0, NetNote(text)))


def vectors(text: str, *snapshots: Snapshot) -> Frame:
    return Codec().encode(Envelope("send", 0, NetVectors(text, list(snapshots))))


def read(frame: Frame) -> Message:
    """The message, by a codec that knows nothing of how it came: it checks the hashes too."""
    snapshots = tuple(MemorySnapshot(s.layout_hash, s.tensor()) for s in frame.snapshots)
    return Codec().decode(frame.header, snapshots).message


@dataclass
class Site:
    """One peer."""

    identity: Identity = field(default_factory=Identity.generate)
    key: TransportKey = field(init=False)
    got: list[tuple[str, Message]] = field(default_factory=list)
    drops: list[tuple[str, str]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    transport: GrpcTransport = field(init=False)
    host: str = "127.0.0.1"

    def __post_init__(self) -> None:
        self.key = TransportKey.new(self.identity)

    @property
    def id(self) -> str:
        return self.identity.id

    @property
    def address(self) -> str:
        return f"{self.host}:{self.transport.port}"

    @property
    def texts(self) -> list[str]:
        return [m.text for _, m in self.got if isinstance(m, NetNote | NetVectors)]

    def receive(self, sender: str, frame: Frame) -> None:
        try:
            self.got.append((sender, read(frame)))
        except MessageError:  # as a peer does
            self.drops.append((sender, "not a message"))

    def send(self, to: Site, what: str | Frame) -> None:
        frame = note(what) if isinstance(what, str) else what
        self.transport.post(to.id, frame, lambda: self.failed.append(str(what)))

    def reasons(self, part: str) -> list[str]:
        """Who was dropped for this reason."""
        return [peer for peer, reason in self.drops if part in reason]


class World:
    """A federation. Use as ``async with``; everything is closed at the end."""

    def __init__(self, count: int, limits: Limits = QUICK, genesis: bytes = GENESIS) -> None:
        # In order of their ids: of two, the first has the say which stream is kept.
        self.sites = sorted((Site() for _ in range(count)), key=lambda site: site.id)
        self.limits = limits
        self.members = Members.of(genesis, [site.key.certificate for site in self.sites])
        self._open: list[GrpcTransport] = []

    async def __aenter__(self) -> World:
        return self

    async def __aexit__(self, *_: object) -> None:
        for transport in self._open:
            await transport.close()

    async def start(
        self,
        number: int,
        *dials: Site,
        listen: str | None = "127.0.0.1:0",
        compression: str = "none",
        spools: Mapping[str, Spool] = MappingProxyType({}),
        **limits: object,
    ) -> Site:
        """Bring a site up; it knows the addresses of ``dials``."""
        site = self.sites[number]
        site.host = (listen or site.host).rpartition(":")[0]
        site.transport = GrpcTransport(
            site.identity,
            site.key,
            self.members,
            site.receive,
            replace(self.limits, **limits),
            listen=listen,
            addresses={other.id: other.address for other in dials},
            dropped=lambda peer, reason: site.drops.append((peer, reason)),
            compression=compression,
            spools=spools,
        )
        await site.transport.start()
        self._open.append(site.transport)
        return site

    async def stop(self, site: Site) -> None:
        self._open.remove(site.transport)
        await site.transport.close()


class Intruder:
    """A gRPC client that sends what it is told to. ``key`` may be None: no certificate."""

    def __init__(self, target: Site, key: TransportKey | None, trusts: bytes | None = None) -> None:
        certificate = target.key.certificate
        pair = (key.key_pem, key.certificate.pem) if key is not None else (None, None)
        self.channel = grpc.aio.secure_channel(
            f"dns:///{target.address}",
            grpc.ssl_channel_credentials(trusts or certificate.pem, *pair),
            options=[
                ("grpc.ssl_target_name_override", certificate.name),
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.max_send_message_length", 64 << 20),
                ("grpc.max_receive_message_length", MESSAGE_BYTES),
                ("grpc.enable_retries", 0),
            ],
        )

    async def __aenter__(self) -> Intruder:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.call.cancel()
        self.call._cython_call.cancel("over")  # see dialling.py
        await self.channel.close()

    async def greet(self, genesis: bytes = GENESIS, hello: bytes | None = None) -> bytes:
        """Say hello; the answer. Raises AioRpcError where it is refused."""
        plain = Hello.make(genesis, b"s" * 16, True, ["none", "fp16", "int8", "zstd"]).encode()
        self.call = self.channel.stream_stream(METHOD)(metadata=((HELLO_KEY, plain if hello is None else hello),))
        return await self.call.read()

    async def say(self, *messages: bytes) -> None:
        for each in messages:
            await self.call.write(each)

    async def refused(self) -> str:
        """Wait until the stream is ended by the other side; why."""
        with contextlib.suppress(Exception):
            while await self.call.read() is not grpc.aio.EOF:
                pass
        return f"{(await self.call.code()).name}: {await self.call.details()}"
