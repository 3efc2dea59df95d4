"""Frames between real peers: one long-lived gRPC stream a pair, over mutual TLS.

Who sees what: a stream is encrypted between its two ends; somebody on the wire sees addresses, times and lengths, and
the beginning of the peer id of the end that listens, as the dialling end names it. A relay sees who sends to whom, when
and how much (see ``sealing``).

Who may lie: the sender's id that ``receive`` gets is what TLS has proved, by the exact certificate, never what a
message says. Everything else is the sender's word: bytes are bounded, checked and dropped as ``limits`` and ``reading``
say. Expulsion cuts open streams at once. What is not protected: anybody who reaches the port can begin handshakes and
so keep others from connecting (``Limits.handshakes``); a member can waste its own share of every limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from coterie.errors import IdentityError
from coterie.identity import Identity, PeerId, TransportKey
from coterie.network.addresses import Address
from coterie.network.codec import Frame
from coterie.network.compression import Compression, encoding
from coterie.network.grpc.dialling import Dialler
from coterie.network.grpc.link import Link
from coterie.network.grpc.relay import Relay
from coterie.network.grpc.serving import Listener
from coterie.network.grpc.station import Station, log
from coterie.network.limits import Limits
from coterie.network.members import Members
from coterie.network.spool import Spool
from coterie.network.transport import Receiver

_FLUSH_SECONDS = 2.0


class GrpcTransport:
    """One peer's end of the network; a ``Transport``. All of it belongs to the event loop that ``start`` runs in.

    ``receive(sender, frame)`` and ``dropped(peer, reason)`` are called on that loop. ``listen``: "host:port", with port
    0 for any; None for a site that only dials out, which then keeps a stream to every member whose address it knows.
    ``addresses``: where members can be dialled. ``compression``: how snapshots are sent to those who can decode it.
    ``spools``: by layout hash, where snapshots go as they come in that are not to be in memory.
    """

    def __init__(
        self,
        identity: Identity,
        transport_key: TransportKey,
        members: Members,
        receive: Receiver,
        limits: Limits | None = None,
        *,
        listen: str | None = None,
        addresses: Mapping[PeerId, str] = MappingProxyType({}),
        dropped: Callable[[PeerId, str], None] | None = None,
        compression: Compression = "none",
        spools: Mapping[str, Spool] = MappingProxyType({}),
    ) -> None:
        """Raises IdentityError for a transport key of another peer, NetworkError for a wrong address."""
        _require_own(identity, transport_key)
        self._listen = str(Address.parse(listen, to_listen=True)) if listen is not None else None
        self._addresses = {peer: str(Address.parse(address)) for peer, address in addresses.items()}
        limits = limits or Limits()
        self._station = Station(
            identity, transport_key, members, receive, limits, dropped, encoding(compression), spools
        )
        self._links: dict[PeerId, Link] = {}
        self._listener = Listener(self._station, self._link)
        self._dialler = Dialler(self._station, keeps=listen is None)
        self._relay = Relay(self._station, self._link, lambda: list(self._links.values()))
        self._port: int | None = None

    async def start(self) -> None:
        """Listen, if it is to, and begin to dial. Raises RunError where the address cannot be had."""
        if self._listen is not None:
            self._port = await self._listener.start(self._listen)
        self._reach_all()

    async def close(self) -> None:
        """Send what is queued for those with an open stream, for at most 2 s; then cut everything. Nothing is received
        any more."""
        links = list(self._links.values())
        self._station.closing = True
        try:
            async with asyncio.timeout(_FLUSH_SECONDS):
                await asyncio.gather(*(link.flushed() for link in links))
        except TimeoutError:
            log.info("closed before everything was sent")
        for link in links:
            link.close("closed")
        await self._listener.stop()
        await self._station.close()
        self._links.clear()

    @property
    def port(self) -> int | None:
        """Where it listens; None if it does not."""
        return self._port

    @property
    def bytes_sent(self) -> int:
        """Bytes put on streams so far, without what HTTP/2, TLS and TCP add."""
        return self._station.bytes_sent

    @property
    def bytes_received(self) -> int:
        """Bytes taken from streams so far."""
        return self._station.bytes_received

    @property
    def connected(self) -> tuple[PeerId, ...]:
        """Members with which a stream is open, in order of their ids."""
        return tuple(sorted(peer for peer, link in self._links.items() if link.direct() is not None))

    def post(self, to: PeerId, frame: Frame, failed: Callable[[], None]) -> None:
        """Send a frame; see ``Transport``. It may be lost on the way without notice; it never comes twice.

        ``failed`` is called, later, if it is known not to have gone out: the peer is no member, cannot be reached
        directly nor through a relay within ``Limits.hold_seconds``, too much waits for it (``Limits.queued_bytes``), or
        the stream broke while the end of the frame was on its way.
        """
        link = self._link(to)
        if link is None or self._station.closing:
            asyncio.get_running_loop().call_soon(failed)
        else:
            link.post(frame, failed)

    def since_bytes(self, peer: PeerId) -> float:
        """See ``Transport``."""
        link = self._links.get(peer)
        return float("inf") if link is None else asyncio.get_running_loop().time() - link.account.moved

    def set_members(self, members: Members) -> None:
        """From now on these are the members. Streams of others are cut at once; those of a peer whose certificate is
        gone are replaced by new ones, and cut after ``Limits.drain_seconds``.

        Raises IdentityError for members of another federation.
        """
        if members.genesis != self._station.members.genesis:
            raise IdentityError(
                "these are the members of another federation",
                where=members.genesis.hex()[:12],
                remedy="Make another transport for it.",
            )
        self._station.members = members
        for peer, link in list(self._links.items()):
            if peer not in members:
                del self._links[peer]
                reason = "left" if peer in members.left else "expelled"
                self._relay.forget(peer, reason)
                link.close(reason)
                continue
            held = {certificate.fingerprint for certificate in members.of_peer(peer)}
            for stream in [stream for stream in link.streams if not stream.certificates <= held]:
                link.retire(stream)
                link.reach_if_wanted()
        self._reach_all()

    def rotate(self, transport_key: TransportKey) -> None:
        """Use another certificate of ours from now on. Others must have it in their members before.

        Streams that we have dialled are dialled anew, and the old ones end when nothing is under way on them. Raises
        IdentityError for a transport key of another peer.
        """
        _require_own(self._station.identity, transport_key)
        self._station.transport_key = transport_key
        for link in self._links.values():
            link.renew()

    def set_address(self, peer: PeerId, address: str | None) -> None:
        """Where ``peer`` can be dialled: "host:port", or None for nowhere. Raises NetworkError."""
        address = None if address is None else str(Address.parse(address))
        wanted = peer in self._links or (address is not None and self._dialler.keeps)
        link = self._link(peer) if wanted else None  # before it could have this address already, and not dial
        if address is None:
            self._addresses.pop(peer, None)
        else:
            self._addresses[peer] = address
        if link is not None:
            link.set_address(address)

    def limit_snapshots(self, layout: str, elements: int) -> None:
        """From now on a snapshot of this layout, named by its hash, has so many float32 elements at most."""
        limits = self._station.limits
        known = {**limits.snapshot_elements, layout: elements}
        self._station.limits = replace(limits, snapshot_elements=known)

    def _link(self, peer: PeerId) -> Link | None:
        """The link of a member; None for anybody else."""
        if peer not in self._station.members or peer == self._station.identity.id:
            return None
        link = self._links.get(peer)
        if link is None:
            link = Link(peer, self._station, self._dialler, self._relay, self._addresses.get(peer))
            self._links[peer] = link
        return link

    def _reach_all(self) -> None:
        """Dial those to whom a stream is kept."""
        if self._dialler.keeps:
            for peer in self._addresses:
                link = self._link(peer)
                if link is not None:
                    link.reach_if_wanted()


def _require_own(identity: Identity, transport_key: TransportKey) -> None:
    if transport_key.certificate.peer != identity.id:
        raise IdentityError(
            "the transport key is another peer's", where=identity.id[:12], remedy="Make one with TransportKey.new."
        )
    transport_key.certificate.check()
