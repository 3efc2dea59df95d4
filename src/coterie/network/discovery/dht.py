"""A node of a Kademlia distributed hash table, for asyncio: who announced under a hash, and signed items.

The table is a hint, never an authority. Whoever runs nodes of it may leave answers out, make up addresses, see who asks
for what, and hand out an old item; it cannot make an item under another's key (BEP 44). Every answer is bounded here.

libtorrent works in threads of its own and reports by alerts. It writes a byte to a pipe when the first alert of a batch
is there; the event loop reads the pipe, so nothing polls and nothing blocks. What may block runs in a thread.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey

from coterie.errors import NetworkError
from coterie.network.addresses import Address
from coterie.network.discovery.table import (
    address_or_none,
    libtorrent,
    load_nodes,
    open_session,
    save_nodes,
    settings_for,
    signing_key,
)

MOST_RECORD_BYTES = 996
"""BEP 44 allows 1000 for the bencoded value: ``996:`` and the record."""
_FIRST, _MOST = 0.2, 60.0
"""Seconds between two rounds of upkeep: at the start, and at most."""
_ENOUGH = 8
"""Nodes in the table (a bucket of Kademlia) from which libtorrent's own upkeep does."""
_AT_ONCE = 32
"""Saved nodes that are asked in one round of upkeep."""
_QUIET = 2.0
"""Seconds without a further answer that end a look-up: libtorrent asks others in a silent node's place after one."""


@dataclass(frozen=True)
class DhtLimits:
    addresses: int = 256
    """Of one look-up, and of those that announced themselves to this node under one hash."""
    hashes: int = 16
    """Under how many hashes announcements to this node are kept; the one looked up longest ago goes."""
    seconds: float = 10.0
    """Of one look-up, put or get."""
    upload_bytes_per_second: int = 8000
    announced_seconds: float = 1800.0
    """How long an announcement to this node is kept."""


class Dht:
    """One node. Use it in one event loop: ``await start()``, then the rest, at last ``await close()``.

    listen:
        ``host:port``, UDP; port 0 lets the system choose. IPv6 in brackets.
    bootstrap:
        ``host:port`` of nodes of the table, as many as are known: any one that lives is enough, and after the first
        start with ``state_path`` none is needed. Unless nodes of the mainline DHT are named here, the table is the
        federation's own.
    state_path:
        Where the routing table is kept from one start to the next.
    private_networks:
        For tables on loopback or private addresses, or with many nodes behind one address. It drops protections that
        make sense on the internet alone; see ``table.settings_for``.
    read_only:
        For a node that others cannot reach.

    ``heard``, if set, is called with (info-hash, address) as soon as an address is known: an answer to a look-up, or
    somebody who announced itself to this node. Raises NetworkError for bad addresses, and where libtorrent is missing.
    """

    def __init__(
        self,
        listen: str,
        bootstrap: Sequence[str] = (),
        state_path: Path | None = None,
        *,
        private_networks: bool = False,
        read_only: bool = False,
        limits: DhtLimits | None = None,
    ) -> None:
        self.limits = limits or DhtLimits()
        self.heard: Callable[[bytes, Address], None] | None = None
        self.port = 0
        """The UDP port, once started."""
        self._lt = libtorrent()
        self._listen = Address.parse(listen, to_listen=True)
        self._bootstrap = [Address.parse(text) for text in bootstrap]
        self._state_path = state_path
        self._private = private_networks
        upload = 1_000_000 if private_networks else self.limits.upload_bytes_per_second
        self._settings = settings_for(private_networks, read_only, upload)
        self._session: list[Any] = []
        """The session, or nothing. The last reference ends it: no coroutine may keep one across an ``await``."""
        self._pipe: tuple[int, int] | None = None
        self._listening: asyncio.Future[int] | None = None
        self._upkeep: asyncio.Task[None] | None = None
        self._lookups: dict[bytes, list[_Lookup]] = {}
        self._announced: dict[bytes, dict[Address, float]] = {}
        """By info-hash this node asked for: who announced to it, and when by the monotonic clock."""
        self._puts: dict[tuple[bytes, bytes], list[asyncio.Future[int]]] = {}
        self._gets: dict[tuple[bytes, bytes], list[asyncio.Future[bytes | None]]] = {}
        self._counts: list[asyncio.Future[int]] = []

    async def start(self) -> None:
        """Listen, and begin to fill the table. Returns once it listens, not once others are known.

        Raises NetworkError where it cannot listen.
        """
        if self._session:
            raise NetworkError("the table's node is started twice", where=str(self._listen), remedy="Close it first.")
        loop = asyncio.get_running_loop()
        self._listening = loop.create_future()
        self._session.append(await asyncio.to_thread(open_session, self._listen, self._settings))
        reading, writing = self._pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        loop.add_reader(reading, self._read_alerts)
        self._running().set_alert_fd(writing)
        self._read_alerts()  # those that came before there was a pipe
        try:
            async with asyncio.timeout(self.limits.seconds):
                self.port = await self._listening
        except (NetworkError, TimeoutError) as error:
            await self.close()
            raise NetworkError(
                f"the table's node cannot listen: {getattr(error, 'what', 'no answer of the system')}",
                where=str(self._listen),
                remedy="Choose a port that is free for UDP and TCP, at an address of this machine.",
            ) from None
        self._upkeep = asyncio.create_task(self._keep_up())

    async def close(self) -> None:
        """Save the table and stop. What still waits is cancelled."""
        if self._upkeep is not None:
            self._upkeep.cancel()
            with suppress(asyncio.CancelledError):
                await self._upkeep
            self._upkeep = None
        if not self._session:
            return
        with suppress(TimeoutError, asyncio.CancelledError):
            await self._save()
        if self._pipe is not None:
            asyncio.get_running_loop().remove_reader(self._pipe[0])
        waiting: list[list[asyncio.Future[Any]]] = [*self._puts.values(), *self._gets.values(), self._counts]
        for future in [future for futures in waiting for future in futures]:
            future.cancel()
        self._running().set_alert_fd(-1)
        await asyncio.to_thread(self._session.clear)
        if self._pipe is not None:
            for descriptor in self._pipe:
                os.close(descriptor)
            self._pipe = None

    # Under a hash

    def announce(self, info_hash: bytes, port: int) -> None:
        """Tell the table that somebody can be dialled on ``port`` of this machine's IP address (BEP 5).

        The nodes that store it see the address from the packet and forget it after half an hour: announce again, and
        when the table has grown. It is not known whether it arrived; it takes some 15 s where a node that should store
        it has just died, as libtorrent waits for that one first. Raises NetworkError.
        """
        if not 1 <= port <= 65535:
            raise NetworkError(f"{port} is not a port", remedy="Ports go from 1 to 65535.")
        self._running().dht_announce(self._hash(info_hash), port, 0)

    async def find(self, info_hash: bytes, seconds: float | None = None) -> set[Address]:
        """Who has announced itself under the hash; at most ``limits.addresses``.

        It ends when those who know something had time to answer; at the latest, and where nobody knows anything, after
        ``seconds``, or ``limits.seconds`` where None.
        """
        self._running().dht_get_peers(self._hash(info_hash))
        self._watch(info_hash)
        lookup = _Lookup(set(self._fresh(info_hash)), asyncio.Event())
        self._lookups.setdefault(info_hash, []).append(lookup)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.limits.seconds if seconds is None else seconds):
                    await lookup.over()
        finally:
            self._lookups[info_hash].remove(lookup)
            if not self._lookups[info_hash]:
                del self._lookups[info_hash]
        return lookup.found

    # Signed items

    async def put(self, seed: bytes, record: bytes, salt: bytes) -> int:
        """Store a record under an Ed25519 key, given as its 32-byte seed, and a salt (BEP 44, mutable).

        It replaces what was stored there before and is forgotten after two hours. The number of nodes that took it; 0
        where none had in time, though some may later. Raises NetworkError for a record of more than
        ``MOST_RECORD_BYTES``.
        """
        if len(record) > MOST_RECORD_BYTES or len(salt) > 64:
            raise NetworkError(
                f"a record of {len(record)} bytes is too long",
                remedy=f"The table takes {MOST_RECORD_BYTES}, and a salt of 64.",
            )
        public = bytes(SigningKey(seed).verify_key)
        self._running().dht_put_mutable_item(signing_key(seed), public, record, salt)
        return await self._outcome(self._puts, (public, salt)) or 0

    async def get(self, public_key: bytes, salt: bytes) -> bytes | None:
        """The record with the highest sequence number that was found; None where none was. Its author signed it."""
        self._running().dht_get_mutable_item(public_key, salt)
        record: bytes | None = await self._outcome(self._gets, (public_key, salt))
        return record

    async def nodes(self) -> int:
        """How many nodes the routing table holds."""
        future = asyncio.get_running_loop().create_future()
        self._counts.append(future)
        self._running().post_session_stats()
        with suppress(TimeoutError):
            async with asyncio.timeout(self.limits.seconds):
                return int(await future)
        return 0

    # Upkeep

    async def _keep_up(self) -> None:
        """Fill the table, and look after it: contacts again while it is small, and look-ups of random hashes.

        A node that only ever looked towards its contact knows little else; random look-ups make the table a mesh.
        """
        saved = load_nodes(self._state_path) if self._state_path is not None else []
        wait = _FIRST
        while True:
            nodes = await self.nodes()
            if nodes < _ENOUGH:
                for contact in (*self._bootstrap, *random.sample(saved, min(len(saved), _AT_ONCE))):
                    self._running().add_dht_node((contact.host, contact.port))
                self._running().dht_get_peers(self._hash(os.urandom(20)))
            if nodes and wait > 2.0:
                await self._save()
            await asyncio.sleep(wait)
            wait = min(wait * 1.5, _MOST)

    async def _save(self) -> None:
        """Save the table; an empty one never replaces one that was saved."""
        if self._state_path is not None and self._session and await self.nodes():
            await asyncio.to_thread(save_nodes, self._session[0], self._state_path)

    # Alerts

    def _read_alerts(self) -> None:
        if self._pipe is None or not self._session:
            return
        with suppress(BlockingIOError):
            os.read(self._pipe[0], 4096)
        lt = self._lt
        for alert in self._session[0].pop_alerts():
            if isinstance(alert, lt.dht_get_peers_reply_alert):
                self._on_reply(alert.info_hash.to_bytes(), alert.peers())
            elif isinstance(alert, lt.dht_announce_alert):
                self._on_announced(alert.info_hash.to_bytes(), alert.ip, alert.port)
            elif isinstance(alert, lt.dht_mutable_item_alert):
                if alert.authoritative:
                    item = alert.item
                    found = item if isinstance(item, bytes) and 0 < len(item) <= MOST_RECORD_BYTES else None
                    _settle(self._gets.pop((bytes(alert.key), bytes(alert.salt)), []), found)
            elif isinstance(alert, lt.dht_put_alert):
                _settle(self._puts.pop((bytes(alert.public_key), bytes(alert.salt)), []), alert.num_success)
            elif isinstance(alert, lt.session_stats_alert):
                counts, self._counts = self._counts, []
                _settle(counts, alert.values["dht.dht_nodes"])
            else:
                self._on_listen(alert)

    def _on_listen(self, alert: Any) -> None:
        if self._listening is None or self._listening.done():
            return
        if isinstance(alert, self._lt.listen_failed_alert):
            self._listening.set_exception(NetworkError(alert.error.message()))
        elif isinstance(alert, self._lt.listen_succeeded_alert) and alert.socket_type == self._lt.socket_type_t.udp:
            self._listening.set_result(alert.port)

    def _on_reply(self, info_hash: bytes, endpoints: Sequence[tuple[str, int]]) -> None:
        lookups = self._lookups.get(info_hash, [])
        for lookup in lookups:
            lookup.answered.set()
        for endpoint in endpoints[: self.limits.addresses]:
            address = address_or_none(endpoint)
            if address is None or not (self._private or address.public):
                continue
            new = False
            for lookup in lookups:
                if address not in lookup.found and len(lookup.found) < self.limits.addresses:
                    lookup.found.add(address)
                    new = True
            if new and self.heard is not None:
                self.heard(info_hash, address)

    def _on_announced(self, info_hash: bytes, ip: Any, port: int) -> None:
        announced = self._announced.get(info_hash)
        address = address_or_none((str(ip), port))
        if announced is None or address is None or not (self._private or address.public):
            return
        announced.pop(address, None)
        announced[address] = time.monotonic()
        if len(announced) > self.limits.addresses:
            del announced[next(iter(announced))]
        if self.heard is not None:
            self.heard(info_hash, address)

    # Small helpers

    def _running(self) -> Any:
        if not self._session:
            raise NetworkError("the table's node is not running", where=str(self._listen), remedy="Start it first.")
        return self._session[0]

    def _hash(self, info_hash: bytes) -> Any:
        if len(info_hash) != 20:
            raise NetworkError(f"an info-hash of {len(info_hash)} bytes", remedy="It has 20.")
        return self._lt.sha1_hash(info_hash)

    def _watch(self, info_hash: bytes) -> None:
        self._announced[info_hash] = self._announced.pop(info_hash, {})
        if len(self._announced) > self.limits.hashes:
            del self._announced[next(iter(self._announced))]

    def _fresh(self, info_hash: bytes) -> list[Address]:
        """Who announced itself to this node not too long ago: a look-up does not ask the node itself."""
        announced, now = self._announced[info_hash], time.monotonic()
        for address, when in list(announced.items()):
            if now - when > self.limits.announced_seconds:
                del announced[address]
        return list(announced)

    async def _outcome(self, waiting: dict[Any, list[asyncio.Future[Any]]], key: tuple[bytes, bytes]) -> Any:
        """What the alert for ``key`` brings; None where it does not come in time."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        futures = waiting.setdefault(key, [])
        futures.append(future)
        try:
            async with asyncio.timeout(self.limits.seconds):
                return await future
        except TimeoutError:
            return None
        finally:
            futures.remove(future)
            if not futures and waiting.get(key) is futures:
                del waiting[key]


@dataclass
class _Lookup:
    found: set[Address]
    answered: asyncio.Event

    async def over(self) -> None:
        """Wait for the first answer, then until none has come for a while."""
        await self.answered.wait()
        with suppress(TimeoutError):
            while True:
                self.answered.clear()
                async with asyncio.timeout(_QUIET):
                    await self.answered.wait()


def _settle(futures: list[asyncio.Future[Any]], outcome: Any) -> None:
    for future in futures:
        if not future.done():
            future.set_result(outcome)
