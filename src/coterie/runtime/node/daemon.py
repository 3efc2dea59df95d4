"""A node: one member of a federation, from its start until it is stopped.

It opens its home, meets the other members over TLS, keeps membership records and addresses like theirs, lets newcomers
join where it may admit them, and takes part in the protocol. It goes on answering when that is over: others may still
need what it has published. In a process of its own it is ``run_node``'s; a training script has one in its own process.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import gc
import logging
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from coterie.errors import CoterieError, LedgerError, MessageError
from coterie.identity import PeerId, TransportKey, short_name
from coterie.ledger import PeerLedger
from coterie.network import Frame
from coterie.network.grpc.transport import GrpcTransport
from coterie.network.join import JoinPort
from coterie.network.limits import Limits
from coterie.network.spool import Spool
from coterie.protocols import Peer
from coterie.protocols.membership import Briefing, Host, Issues, Spread
from coterie.runtime.node.chains import Chains
from coterie.runtime.node.changes import tell_of_changes
from coterie.runtime.node.commands import Commands
from coterie.runtime.node.contacts import Contacts
from coterie.runtime.node.control import ControlServer
from coterie.runtime.node.home import Home
from coterie.runtime.node.messages import ReachAsk, Standing
from coterie.runtime.node.metrics import NodeMetrics
from coterie.runtime.node.metrics_port import MetricsPort
from coterie.runtime.node.newcomer import Refusals, new_peer
from coterie.runtime.node.part import Part
from coterie.runtime.node.renewing import require_heard
from coterie.runtime.node.roster import Roster, now_ms
from coterie.runtime.node.shared import NodeChain
from coterie.runtime.node.store import FileStore, clear_leftovers
from coterie.runtime.work.memory import Arena, SharedMemory
from coterie.spec import Spec

_RENEW_BEFORE = datetime.timedelta(days=30)
_RENEW_LOOK = 6 * 3600.0
_HEARD = 5.0
"""Seconds for the news of a certificate to reach those connected; others fetch it when they meet this node's peers."""
_MOST_ELEMENTS = 1 << 31
_log = logging.getLogger("coterie.node")


class TakesPart(Protocol):
    """What a node does in its federation beside keeping records and answering. ``Part`` is one."""

    @property
    def spec(self) -> Spec | None:
        """None while it is not known."""
        ...

    @property
    def state(self) -> str:
        """For the status: see ``Standing``."""
        ...

    @property
    def why(self) -> str:
        """What is waited for, or what has failed; empty otherwise."""
        ...

    @property
    def chain(self) -> NodeChain | None:
        """The federation's shared chain, where the protocol may have one."""
        ...

    @property
    def metrics(self) -> NodeMetrics | None:
        """What it has measured; None before it has begun, and where a script measures."""
        ...

    @property
    def jobs(self) -> Mapping[str, tuple[int, float]]:
        """By kind of job: how many there were here, and seconds in all."""
        ...

    def fail(self, why: str) -> None:
        """A part of the node has ended, and why."""
        ...

    def standing(self) -> Standing:
        """What others are told."""
        ...

    async def run(self) -> None: ...

    def members_changed(self) -> None:
        """Somebody came or went."""
        ...

    def close(self) -> None:
        """After ``run``: give back what is held."""
        ...


PartMaker: TypeAlias = Callable[
    [Home, Roster, Peer, Chains, GrpcTransport, Callable[[Sequence[PeerId]], Awaitable[list[PeerId]]]], TakesPart
]


class Node:
    """One node at work in its home. ``run`` ends when it is stopped."""

    transport: GrpcTransport
    peer: Peer
    contacts: Contacts
    issues: Issues
    metrics_port: MetricsPort | None
    host: Host
    spread: Spread
    join_port: JoinPort | None
    part: TakesPart

    def __init__(self, home: Home, takes_part: PartMaker = Part) -> None:
        self.home, self.table, self.identity = home, home.table, home.identity
        self._takes_part = takes_part
        self._stop = asyncio.Event()
        self.ready = asyncio.Event()
        """It meets others, and answers its owner."""
        self.lines: dict[bytes, Peer] = {}
        """Conversations beside the node's own, by the line of their codec."""
        self.layouts: dict[str, int] = {}
        """Of snapshots that are let in: float32 elements at most, by the layout's hash."""
        self.spools: dict[str, Spool] = {}
        """By layout hash, where snapshots of it go that come in; others stay in memory."""
        self.refusals = Refusals()
        self.dropped = Counter[PeerId]()
        """Frames that the transport refused, by sender."""
        self.reasons = Counter[str]()
        """The same, by kind."""

    async def run(self) -> None:
        """Until stopped, by a signal or a command. Raises a CoterieError for what keeps it from starting."""
        with self.home.locked(), contextlib.ExitStack() as closing:
            self.roster = closing.enter_context(Roster(self.home.path, self.table.federation))
            self._require_in()
            if self.roster.store.damage is not None:
                _log.warning("%s", self.roster.store.damage)
            async with contextlib.AsyncExitStack() as ending:
                chains = await self._meet_others(closing, ending)
                await self._let_in(closing, ending)
                self._say_where()
                await self._work(chains)
            _log.info("stopped")

    def stop(self) -> None:
        """End soon and well."""
        self._stop.set()

    def _require_in(self) -> None:
        """Raise NodeError where this peer has left."""
        self.roster.require_in(self.identity.id, self.home.path)

    async def _meet_others(self, closing: contextlib.ExitStack, ending: contextlib.AsyncExitStack) -> Chains:
        """Open the transport, and make whoever talks over it; the chains that are kept with the others."""
        identity, self.transport_key = self.identity, self.home.transport
        if layout := self.roster.genesis.layout:
            self.layouts[layout.hex()] = _MOST_ELEMENTS
        self.metrics_port = MetricsPort(self, self.table.metrics) if self.table.metrics is not None else None
        limits = Limits(snapshot_elements=self.layouts)
        self.transport = GrpcTransport(
            identity,
            self.transport_key,
            self.roster.members(),
            self._receive,
            limits,
            listen=self.table.listen,
            compression=self.table.compression,
            dropped=self._on_dropped,
            spools=self.spools,
        )
        own = PeerLedger(identity, self.roster.store)
        ledger = _Ledger(own)
        self.peer = new_peer(identity.id, self.transport, ledger, self.refusals)
        self.peer.identity = identity
        ledger.chains = chains = Chains(self.peer, self.roster.store, own, self.roster.ever_members)
        self.part = self._takes_part(
            self.home, self.roster, self.peer, chains, self.transport, lambda peers: self.contacts.at_door(peers)
        )
        closing.callback(self.part.close)
        self.peer.handle(ReachAsk, lambda sender, question: self.contacts.can_dial(sender))
        self.spread = Spread(self.peer, self.roster.book)
        self._known = self.roster.membership
        self.roster.book.watchers.append(self._on_membership)
        ending.push_async_callback(self.transport.close)
        await self.transport.start()
        self.contacts = Contacts(self.home, self.table, identity, self.roster, self.peer, self.transport)
        ending.push_async_callback(self.contacts.close)
        await self.contacts.start()
        return chains

    async def _let_in(self, closing: contextlib.ExitStack, ending: contextlib.AsyncExitStack) -> None:
        """Open the ports for newcomers and for Prometheus, and the owner's socket."""
        memory = SharedMemory()
        closing.callback(memory.close)
        clear_leftovers(self.home.path / "state")
        self.issues = Issues(FileStore(self.home.path / "state", Arena(memory, 1, 1), ""), now_ms)
        self.host = Host(self.identity, self.roster.book, self.issues, now_ms, self._brief)
        self.join_port = await self._open_join_port()
        if self.join_port is not None:
            ending.push_async_callback(self.join_port.close)
        if self.metrics_port is not None:
            ending.push_async_callback(self.metrics_port.close)
            await self.metrics_port.start()
        control = ControlServer(self.home.socket, Commands(self).all)
        ending.push_async_callback(control.close)
        await control.start()

    def _say_where(self) -> None:
        name, own = short_name(self.identity.id), self.identity.id
        where = f"listens at port {self.transport.port}" if self.transport.port else "dials out only"
        _log.info("%s (%s) %s", name, own, where)
        if self.join_port is not None:
            _log.info("newcomers may knock at port %s", self.join_port.port)
        if self.table.listen is None and not self.contacts.knows_anybody:
            _log.warning("it only dials out, and knows no member's address: set contacts in node.toml")

    async def _work(self, chains: Chains) -> None:
        """All parts at once, until the node is stopped."""
        tasks = [
            asyncio.create_task(work, name=title)
            for title, work in (
                ("membership", self.spread.run()),
                ("discovery", self.contacts.run()),
                ("chains", chains.run()),
                ("certificate", self._keep_certificate()),
                ("protocol", self.part.run()),
            )
        ]
        if self.metrics_port is not None:
            tasks.append(asyncio.create_task(self.metrics_port.watch(), name="metrics"))
        for task in tasks:
            task.add_done_callback(self._on_end)
        self.ready.set()
        try:
            await self._stop.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.peer.close()

    def _on_end(self, task: asyncio.Task[None]) -> None:
        """A part of the node has ended: the protocol may, the others may not."""
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        self.part.fail(f"{task.get_name()}: {error}")
        if isinstance(error, CoterieError):
            _log.error("%s failed: %s", task.get_name(), error)
        else:
            _log.error("%s failed", task.get_name(), exc_info=error)

    def _receive(self, sender: PeerId, frame: Frame) -> None:
        try:
            line = self.peer.codec.line_of(frame.header)
        except MessageError as error:
            self.peer.metrics.dropped(sender, error)
            return
        peer = self.lines.get(line) if line else self.peer
        if peer is not None:  # others may talk of what does not go on here
            peer.receive(sender, frame)

    def _on_dropped(self, sender: PeerId, reason: str) -> None:
        self.dropped[sender] += 1
        self.reasons[reason.partition(":")[0]] += 1

    def _brief(self) -> Briefing:
        text, signature = self.home.spec_text or ("", b"")
        pin = self.part.chain.pin if self.part.chain is not None else None
        return Briefing(text, signature, tuple(self.contacts.endpoints()), pin)

    def _on_membership(self) -> None:
        """Somebody came, went, or has a new certificate."""
        before, self._known = self._known, self.roster.membership
        tell_of_changes(before, self._known)
        self.transport.set_members(self.roster.members())
        self.contacts.members_changed()
        self.part.members_changed()

    async def _open_join_port(self) -> JoinPort | None:
        if self.table.join is None:
            return None
        port = JoinPort(self.transport_key, self.host.answer, self.table.join)
        await port.start()
        return port

    async def _keep_certificate(self) -> None:
        """Take a new transport certificate well before the old one ends; the others hear of it first."""
        while True:
            left = self.transport_key.certificate.ends - datetime.datetime.now(datetime.UTC)
            if left < _RENEW_BEFORE and self.identity.id in self.roster.membership.members:
                try:
                    await self.renew_certificate()
                except CoterieError as error:  # also a full disk: there is time to try again
                    _log.error("the certificate ends in %d days and is not renewed: %s", left.days, error)
            await asyncio.sleep(_RENEW_LOOK)

    async def renew_certificate(self) -> None:
        """Announce a new one, wait until members have heard, and use it. Open invitations name the old one, and end.

        Raises NodeError where they would not hear, or not believe it, LedgerError and OutputError where it cannot be
        written down: before it is announced, as the others forget the last one but one.
        """
        await require_heard(self)
        fresh = TransportKey.new(self.identity)
        self.home.prepare_transport(fresh)
        self.roster.book.renew(self.identity, fresh.certificate)
        await asyncio.sleep(_HEARD)
        self.home.take_prepared_transport()
        self.transport_key = fresh
        self.transport.rotate(fresh)
        if self.join_port is not None:
            self.join_port.rotate(fresh)
        _log.info("uses a new transport certificate")


class _Ledger:
    """Appends to the peer's chain. What cannot be written now, as on a full disk, is kept for the next time, in order:
    the protocol does not wait for an operator."""

    chains: Chains

    def __init__(self, ledger: PeerLedger) -> None:
        self._ledger = ledger
        self._waiting: list[tuple[str, Mapping[str, Any]]] = []

    async def confirms(self, author: PeerId, kind: str, content: Mapping[str, Any]) -> bool:
        return await self.chains.confirms(author, kind, content)

    def append(self, kind: str, content: Mapping[str, Any]) -> None:
        self._waiting.append((kind, content))
        while self._waiting:
            try:
                self._ledger.append(*self._waiting[0])
            except LedgerError as error:
                _log.error("%d records are not on disk yet: %s", len(self._waiting), error)
                return
            del self._waiting[0]


def run_node(path: Path, metrics: str | None = None) -> None:
    """Run the node of a home until it is stopped, on uvloop where there is one.

    ``metrics``: the setting of this name, instead of that in ``node.toml``.
    """
    home = Home(path)
    try:
        import uvloop
    except ImportError:
        asyncio.run(_run(home, metrics))
    else:
        uvloop.run(_run(home, metrics))
    gc.collect()  # gRPC's own thread ends with its last connection; beside an ending interpreter it may crash


async def _run(home: Home, metrics: str | None) -> None:
    node, loop = Node(home), asyncio.get_running_loop()
    if metrics is not None:
        node.table = node.table.model_copy(update={"metrics": metrics})
    ended_by = (signal.SIGTERM, signal.SIGINT)
    numbers = [number for number in ended_by if signal.getsignal(number) != signal.SIG_IGN]  # as behind nohup or &
    for number in numbers:
        loop.add_signal_handler(number, node.stop)
    try:
        await node.run()
    finally:
        for number in numbers:  # a closed loop of uvloop would go on swallowing Ctrl-C
            loop.remove_signal_handler(number)
