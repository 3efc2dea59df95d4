"""A node: one member of a federation, from its start until it is stopped.

It opens its home, meets the other members over TLS, keeps membership records and addresses like theirs, lets newcomers
join where it may admit them, waits until everybody the spec wants is there, and then lives the protocol. It goes on
answering when that is over: others may still need what it has published.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import signal
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from coterie import data
from coterie.adversary import attackers as attackers_of
from coterie.errors import CoterieError, LedgerError, NodeError
from coterie.files import write_file
from coterie.identity import PeerId, TransportKey, short_name, verify
from coterie.ledger import PeerLedger
from coterie.network import Frame
from coterie.network.grpc.transport import GrpcTransport
from coterie.network.join import JoinPort
from coterie.network.limits import Limits
from coterie.protocols import Peer, Topology
from coterie.protocols.membership import Host, Issues, Spread, invite
from coterie.runtime.node.chains import Chains
from coterie.runtime.node.charter import Charter, now_ms
from coterie.runtime.node.contacts import Contacts
from coterie.runtime.node.control import ControlServer
from coterie.runtime.node.home import Home
from coterie.runtime.node.life import Life
from coterie.runtime.node.messages import Reach, ReachAsk, SpecAsk, SpecText, Standing, StandingAsk, signed_spec
from coterie.runtime.node.newcomer import new_peer
from coterie.runtime.node.site import Site, part_of
from coterie.runtime.node.store import FileStore
from coterie.runtime.results import Result, RunDirectory
from coterie.runtime.work.memory import Arena, SharedMemory
from coterie.runtime.work.placement import place
from coterie.spec import Spec

_LOOK = 1.0
"""Seconds between two looks at whether the others are ready."""
_ANSWER = 5.0
_DAY_MS = 86_400_000
_RENEW_BEFORE = datetime.timedelta(days=30)
_RENEW_LOOK = 6 * 3600.0
_HEARD = 5.0
"""Seconds for the news of a certificate to reach those connected; others fetch it when they meet this node's peers."""
_AT_WORK = ("ready", "training", "done")
_log = logging.getLogger("coterie.node")


class Node:
    """One node at work in its home. ``run`` ends when it is stopped."""

    def __init__(self, home: Home) -> None:
        self.home, self.table, self.identity = home, home.table, home.identity
        self.state, self.why = "starting", ""
        self.spec: Spec | None = None
        self._stop = asyncio.Event()
        self._site: Site | None = None
        self._life: Life | None = None
        self._version = 0

    async def run(self) -> None:
        """Until stopped, by a signal or a command. Raises a CoterieError for what keeps it from starting."""
        with self.home.locked(), contextlib.ExitStack() as closing:
            self.charter = Charter(self.home.path, self.table.federation)
            closing.callback(self.charter.close)
            if self.charter.store.damage is not None:
                _log.warning("%s", self.charter.store.damage)
            if self.home.spec_text is not None:
                self.spec = self._checked_spec()
            await self._serve(closing)

    def stop(self) -> None:
        """End soon and well."""
        self._stop.set()

    async def _serve(self, closing: contextlib.ExitStack) -> None:
        identity, transport_key = self.identity, self.home.transport
        limits = Limits(snapshot_elements=self._layouts())
        self.transport = GrpcTransport(
            identity,
            transport_key,
            self.charter.members(self._version),
            self._receive,
            limits,
            listen=self.table.listen,
            compression=self.table.compression,
            dropped=lambda peer, reason: _log.warning("dropped of %s: %s", short_name(peer), reason),
        )
        own = PeerLedger(identity, self.charter.store)
        ledger = _Ledger(own)
        self.peer: Peer = new_peer(identity.id, self.transport, ledger)
        self.peer.identity = identity
        ledger.chains = self.chains = Chains(self.peer, self.charter.store, own, self._ever_members)
        self.peer.handle(StandingAsk, lambda sender, question: self._standing())
        self.peer.handle(SpecAsk, self._on_spec_ask)
        self.peer.handle(ReachAsk, lambda sender, question: self.contacts.can_dial(sender))
        spread = Spread(self.peer, self.charter.book)
        self.charter.book.watchers.append(self._on_membership)
        await self.transport.start()
        self.contacts = Contacts(self.home, self.table, identity, self.charter, self.peer, self.transport)
        memory = SharedMemory()
        closing.callback(memory.close)
        self.issues = Issues(FileStore(self.home.path / "state", Arena(memory, 1, 1), ""), now_ms)
        self.join_port = await self._open_join_port(transport_key)
        control = ControlServer(
            self.home.socket,
            {
                "status": self._on_status,
                "examine": self._on_examine,
                "addresses": self._on_addresses,
                "invite": self._on_invite,
                "expel": self._on_expel,
                "countersign": self._on_countersign,
                "renew": self._on_renew,
                "stop": self._on_stop,
            },
        )
        await control.start()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        name = short_name(identity.id)
        _log.info("%s (%s) listens at port %s", name, identity.id, self.transport.port or "none: it dials out only")
        self.state = "waiting"
        tasks = [
            asyncio.create_task(work, name=title)
            for title, work in (
                ("membership", spread.run()),
                ("discovery", self.contacts.run()),
                ("chains", self.chains.run()),
                ("certificate", self._keep_certificate()),
                ("protocol", self._take_part()),
            )
        ]
        for task in tasks:
            task.add_done_callback(self._on_end)
        try:
            await self._stop.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.peer.close()
            await control.close()
            if self.join_port is not None:
                await self.join_port.close()
            await self.transport.close()
            if self._site is not None:
                self._site.close()
            _log.info("stopped")

    def _on_end(self, task: asyncio.Task[None]) -> None:
        """A part of the node has ended: the protocol may, the others may not."""
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        self.state, self.why = "failed", f"{task.get_name()}: {error}"
        if isinstance(error, CoterieError):
            _log.error("%s failed: %s", task.get_name(), error)
        else:
            _log.error("%s failed", task.get_name(), exc_info=error)

    def _receive(self, sender: PeerId, frame: Frame) -> None:
        self.peer.receive(sender, frame)

    # Membership

    def _checked_spec(self) -> Spec:
        spec = self.home.spec
        if bytes.fromhex(spec.hash) != self.charter.genesis.spec:
            raise NodeError(
                "the spec is not the one that the federation was founded with",
                where=str(self.home.path / "spec.toml"),
                remedy="Bring back the spec, and the files that it names, as they were.",
            )
        return spec

    async def _spec_of_others(self) -> Spec:
        """Ask members for the spec until one has it, with the founder's signature."""
        federation, founder = self.charter.store.genesis, self.charter.founder
        while True:
            for answer in await self.peer.ask_all(self._others(), SpecAsk(), _ANSWER):
                if isinstance(answer, SpecText):
                    if verify(founder, "spec", signed_spec(federation, answer.toml), answer.signature):
                        self.home.save_spec(answer.toml, answer.signature)
                        return self._checked_spec()
                    _log.warning("a member sent a spec that the founder has not signed")
            await asyncio.sleep(_LOOK)

    def _ever_members(self) -> set[PeerId]:
        """Those whose chains are kept: an auditor wants those of former members too."""
        membership = self.charter.membership
        return {*membership.members, *membership.expelled, *membership.left}

    def _others(self) -> list[PeerId]:
        return [peer for peer in self.charter.peers if peer != self.identity.id]

    def _on_spec_ask(self, sender: PeerId, question: SpecAsk) -> SpecText | None:
        found = self.home.spec_text
        return None if found is None else SpecText(*found)

    def _layouts(self) -> dict[str, int]:
        layout = self.charter.genesis.layout
        return {layout.hex(): 1 << 31} if layout else {}

    def _on_membership(self) -> None:
        """Somebody came, went, or has a new certificate."""
        self._version += 1
        self.transport.set_members(self.charter.members(self._version))
        self.contacts.members_changed()

    async def _open_join_port(self, transport_key: Any) -> JoinPort | None:
        if self.table.join is None:
            return None
        host = Host(self.identity, self.charter.book, self.issues, now_ms)
        port = JoinPort(transport_key, host.answer, self.table.join)
        await port.start()
        return port

    async def _keep_certificate(self) -> None:
        """Take a new transport certificate well before the old one ends; the others hear of it first."""
        while True:
            left = self.home.transport.certificate.ends - datetime.datetime.now(datetime.UTC)
            if left < _RENEW_BEFORE and self.identity.id in self.charter.membership.members:
                await self.renew_certificate()
            await asyncio.sleep(_RENEW_LOOK)

    async def renew_certificate(self) -> None:
        """Announce a new one, wait until members have heard, and use it. Open invitations name the old one, and end."""
        fresh = TransportKey.new(self.identity)
        self.charter.book.renew(self.identity, fresh.certificate)
        await asyncio.sleep(_HEARD)
        self.home.save_transport(fresh)
        self.transport.rotate(fresh)
        if self.join_port is not None:
            self.join_port.rotate(fresh)
        _log.info("uses a new transport certificate")

    # The protocol

    async def _take_part(self) -> None:
        """Wait for the others, then live the protocol to its end."""
        spec = self.spec = self.spec or await self._spec_of_others()
        wanted = spec.federation.peers
        while len(self.charter.peers) < wanted or self.identity.id not in self.charter.peers:
            await asyncio.sleep(_LOOK)
        ids = self.charter.peers[:wanted]
        if self.identity.id not in ids:
            _log.info("the federation is complete without this peer; it keeps records and answers")
            self.state = "spare"
            return
        number = ids.index(self.identity.id)
        await self.chains.recover(self._others())
        site, topology, attackers = await asyncio.to_thread(self._open_site, spec, ids, number)
        self._site, self.state = site, "ready"
        returned = site.store.get(spec.federation.protocol) is not None
        late = await self._until_all_are_ready(ids)
        directory = RunDirectory(self.home.path)
        life = Life(spec, site, ids, number, topology, attackers, directory.metrics)
        life.enter(self.peer, returned=returned or late)
        self._life, self.state = life, "training"
        _log.info("begins%s", ", where it had stopped" if returned else ", late" if late else "")
        began = time.monotonic()
        await life.run()
        await self._write_result(spec, site, directory, time.monotonic() - began)
        self.state = "done"
        _log.info("done: accuracy on the test set %.3f", directory.result.accuracy["mean"])

    def _open_site(self, spec: Spec, ids: tuple[PeerId, ...], number: int) -> tuple[Site, Topology, frozenset[PeerId]]:
        if self.table.dataset is not None:
            own = spec.with_values({"data.dataset": self.table.dataset, "federation.peers": 1, "data.partition": "iid"})
            part = replace(place(own, data.load(own.dataset, None)), numbers=(number,))
        else:
            parts = place(spec, data.load(spec.dataset, None))
            part = part_of(parts, self.table.part if self.table.part is not None else number)
        site = Site.open(spec, part, self.identity.id, ids, self.home.path / "state")
        layout = self.charter.genesis.layout
        if layout and site.layout.hash != layout.hex():
            site.close()
            raise NodeError(
                f"with the data here, samples of shape {part.dataset.shape} and {part.dataset.classes} classes, the "
                "spec's model is another one than the federation's",
                where="node.toml, dataset",
                remedy="All sites must have the same features, in the same order, and the same classes.",
            )
        malicious = frozenset(ids[index] for index in attackers_of(spec) if index < len(ids))
        return site, Topology.of(spec, len(ids)), malicious

    async def _until_all_are_ready(self, ids: tuple[PeerId, ...]) -> bool:
        """Wait for the others. Whether they have begun already: most of those who answer say so."""
        others = [peer for peer in ids if peer != self.identity.id]
        told = 0.0
        while True:
            answers = await self.peer.ask_all(others, StandingAsk(), _ANSWER)
            standings = [answer for answer in answers if isinstance(answer, Standing)]
            begun = [one for one in standings if one.state in ("training", "done") and one.round >= 0]
            if standings and 2 * len(begun) > len(others):
                return statistics.median_low([one.round for one in begun]) >= 0
            if sum(one.state in _AT_WORK for one in standings) == len(others):
                return False
            if time.monotonic() - told > 30:
                told = time.monotonic()
                _log.info("waits for %s", _not_ready(others, answers))
            await asyncio.sleep(_LOOK if len(standings) < len(others) else 0.05)

    def _standing(self) -> Standing:
        round = self._life.metrics.round if self._life is not None else -1
        return Standing(self.state, round, now_ms())

    async def _write_result(self, spec: Spec, site: Site, directory: RunDirectory, seconds: float) -> None:
        evaluation, digest, state = await site.final()
        result = Result(
            status="ok",
            run=str(self.home.path),
            spec_hash=spec.hash,
            seed=spec.seed,
            protocol=spec.federation.protocol,
            peers=spec.federation.peers,
            rounds=spec.federation.rounds,
            accuracy={"mean": evaluation.accuracy, "min": evaluation.accuracy, "max": evaluation.accuracy},
            loss={"mean": evaluation.loss, "min": evaluation.loss, "max": evaluation.loss},
            metrics={} if evaluation.auc is None else {"auc": evaluation.auc},
            attack_rate=evaluation.attack_rate,
            bytes_sent=self.transport.bytes_sent,
            model_hash=digest,
            seconds=seconds,
        )
        shape, classes = ",".join(map(str, site.dataset.shape)), str(site.dataset.classes)
        directory.write_model("final", state, {"shape": shape, "classes": classes})
        write_file(self.home.path / "final.f32", site.vector.numpy().astype("<f4", copy=False).tobytes())
        directory.write_result(result)

    # Commands

    async def _on_status(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        connected = set(self.transport.connected)
        members = self.charter.membership.members
        return {
            "state": self.state,
            "why": self.why,
            "peer": self.identity.id,
            "name": short_name(self.identity.id),
            "federation": self.table.federation,
            "federation_name": self.charter.genesis.federation,
            "round": self._standing().round,
            "rounds": self.spec.federation.rounds if self.spec is not None else None,
            "wanted": self.spec.federation.peers if self.spec is not None else None,
            "port": self.transport.port,
            "join_port": self.join_port.port if self.join_port is not None else None,
            "bytes_sent": self.transport.bytes_sent,
            "bytes_received": self.transport.bytes_received,
            "refused": dict(getattr(self.peer.metrics, "refused", {})),
            "members": [
                {
                    "peer": peer,
                    "name": member.name,
                    "connected": peer in connected,
                    "address": self.contacts.address_of(peer),
                    "this": peer == self.identity.id,
                }
                for peer, member in members.items()
            ],
            "expelled": {peer: removal.reason for peer, removal in self.charter.membership.expelled.items()},
            "pending": {record.hex(): [p.signed, p.needed] for record, p in self.charter.membership.pending.items()},
        }

    async def _on_examine(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Its status, and what the others answer: whether, by which clock, and whether they can dial this node."""
        others = self._others()
        asked = now_ms()
        answers = await self.peer.ask_all(others, StandingAsk(), _ANSWER)
        middle = (asked + now_ms()) // 2
        status = dict(await self._on_status(request))
        standings = {p: a for p, a in zip(others, answers, strict=True) if isinstance(a, Standing)}
        for member in status["members"]:
            found = standings.get(member["peer"])
            member["answers"] = found is not None
            member["skew_ms"] = None if found is None else middle - found.time
        reached: bool | None = None
        if self.table.listen is not None and standings:
            replies = await self.peer.ask_all(list(standings), ReachAsk(), 2 * _ANSWER)
            told = [reply.reached for reply in replies if isinstance(reply, Reach)]
            reached = any(told) if told else None
        return {**status, "reachable": reached}

    async def _on_addresses(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        self.contacts.configure(request["addresses"])
        return {}

    async def _on_invite(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.join_port is None:
            raise NodeError(
                "this node takes no newcomers in: it has no join port",
                where=str(self.home.path / "node.toml"),
                remedy='Set  join = "host:port"  there, and start the node again.',
            )
        contacts = request.get("contacts") or [self.contacts.own_contact(self.join_port.port)]
        invitation = invite(
            genesis=self.charter.store.genesis,
            inviter=self.identity.id,
            fingerprint=self.home.transport.certificate.fingerprint,
            contacts=contacts,
            expires=now_ms() + int(request.get("days", 7) * _DAY_MS),
            secrets=self.peer.secrets,
        )
        self.issues.add(invitation, replaces=request.get("replaces", ""))
        return {"invitation": invitation.text(), "contacts": contacts}

    async def _on_expel(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        peer = self._member_named(request["peer"])
        self.charter.book.expel(self.identity, peer, request.get("reason", ""))
        return {"peer": peer, "expelled": peer in self.charter.membership.expelled}

    async def _on_countersign(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        self.charter.book.countersign(self.identity, bytes.fromhex(request["record"]))
        return {}

    async def _on_renew(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        await self.renew_certificate()
        return {"fingerprint": self.home.transport.certificate.fingerprint.hex()}

    async def _on_stop(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        self.stop()
        return {}

    def _member_named(self, text: str) -> PeerId:
        """The one member with this name, short name, or beginning of its id. Raises NodeError."""
        members = self.charter.membership.members
        found = [
            p
            for p, m in members.items()
            if text in (p, m.name, short_name(p)) or (len(text) > 7 and p.startswith(text))
        ]
        if len(found) != 1:
            raise NodeError(
                f"{text!r} names {len(found)} members",
                remedy="Give the peer id, as 'coterie federation status' shows it.",
            )
        return found[0]


def _not_ready(others: Sequence[PeerId], answers: Sequence[Any]) -> str:
    states = [answer.state if isinstance(answer, Standing) else "no answer" for answer in answers]
    named = [f"{short_name(p)} ({s})" for p, s in zip(others, states, strict=True) if s not in _AT_WORK]
    return ", ".join(named) or "the others"


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


def run_node(path: Path) -> None:
    """Run the node of a home until it is stopped, on uvloop where there is one."""
    home = Home(path)
    try:
        import uvloop
    except ImportError:
        asyncio.run(_run(home))
    else:
        uvloop.run(_run(home))


async def _run(home: Home) -> None:
    await Node(home).run()
