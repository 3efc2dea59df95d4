"""What a node's owner may ask of it over the control socket: each command's answer, as JSON goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from coterie.errors import LedgerError, MembershipError, NodeError, near_miss
from coterie.identity import PeerId, short_name
from coterie.ledger import Record
from coterie.protocols.membership import invite
from coterie.protocols.membership.replay import Removal
from coterie.runtime.node.control import Command
from coterie.runtime.node.leaving import leave
from coterie.runtime.node.messages import Reach, ReachAsk, Standing, StandingAsk
from coterie.runtime.node.roster import now_ms

if TYPE_CHECKING:
    from coterie.runtime.node.daemon import Node

_ANSWER = 5.0
"""Seconds that other members have to answer."""
_DAY_MS = 86_400_000


class Commands:
    """The commands of one node. Each raises a CoterieError where it refuses."""

    def __init__(self, node: Node) -> None:
        self._node = node

    @property
    def all(self) -> Mapping[str, Command]:
        """By name."""
        return {
            "status": self.status,
            "examine": self.examine,
            "addresses": self.addresses,
            "invite": self.invite,
            "expel": self.expel,
            "countersign": self.countersign,
            "heads": self.heads,
            "take": self.take,
            "renew": self.renew,
            "leave": self.leave,
            "stop": self.stop,
        }

    async def status(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        node = self._node
        connected = set(node.transport.connected)
        membership, spec = node.roster.membership, node.part.spec
        by_rounds = spec is not None and not spec.is_for_scripts
        return {
            "state": node.part.state,
            "why": node.part.why,
            "peer": node.identity.id,
            "name": short_name(node.identity.id),
            "federation": node.table.federation,
            "federation_name": node.roster.genesis.federation,
            "founder": membership.founder,
            "round": node.part.standing().round,
            "chain": node.part.chain.status if node.part.chain is not None else None,
            "rounds": spec.federation.rounds if spec is not None and by_rounds else None,
            "wanted": spec.federation.peers if spec is not None and by_rounds else None,
            "port": node.transport.port,
            "join_port": node.join_port.port if node.join_port is not None else None,
            "dht_port": node.contacts.dht_port,
            "metrics_port": node.metrics_port.port if node.metrics_port is not None else None,
            "bytes_sent": node.transport.bytes_sent,
            "bytes_received": node.transport.bytes_received,
            "refused": dict(node.dropped + node.refusals.refused),
            "members": [
                {
                    "peer": peer,
                    "name": member.name,
                    "connected": peer in connected,
                    "address": node.contacts.address_of(peer),
                    "this": peer == node.identity.id,
                }
                for peer, member in membership.members.items()
            ],
            "expelled": {peer: _why_out(removal) for peer, removal in membership.expelled.items()},
            "left": list(membership.left),
            "quorum": node.roster.genesis.policy.quorum,
            "pending": {record.hex(): [p.signed, p.needed] for record, p in membership.pending.items()},
        }

    async def examine(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Its status, and what the others answer: whether, by which clock, and whether they can dial this node."""
        node = self._node
        others = node.roster.others(node.identity.id)
        asked = now_ms()
        answers = await node.peer.ask_all(others, StandingAsk(), _ANSWER)
        middle = (asked + now_ms()) // 2
        status = dict(await self.status(request))
        standings = {p: a for p, a in zip(others, answers, strict=True) if isinstance(a, Standing)}
        for member in status["members"]:
            found = standings.get(member["peer"])
            member["answers"] = found is not None
            member["skew_ms"] = None if found is None else middle - found.time
        for peer in await node.contacts.at_door([other for other in others if other not in standings]):
            next(member for member in status["members"] if member["peer"] == peer)["refuses"] = True
        reached: bool | None = None
        if node.table.listen is not None and standings:
            replies = await node.peer.ask_all(list(standings), ReachAsk(), 2 * _ANSWER)
            told = [reply.reached for reply in replies if isinstance(reply, Reach)]
            reached = any(told) if told else None
        return {**status, "reachable": reached, "listens": node.table.listen is not None}

    async def addresses(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        self._node.contacts.configure(request["addresses"])
        return {}

    async def invite(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """An invitation. Refused at once where nobody could use it."""
        node = self._node
        if node.join_port is None:
            raise NodeError(
                "this node takes no newcomers in: it has no join port",
                where=str(node.home.path / "node.toml"),
                remedy='Set  join = "host:port"  there, and start the node again.',
            )
        replaces = self._member_named(request["replaces"]) if request.get("replaces") else ""
        node.host.require_right(replaces)
        contacts = request.get("contacts") or [node.contacts.own_contact(node.join_port.port)]
        invitation = invite(
            genesis=node.roster.store.genesis,
            inviter=node.identity.id,
            fingerprint=node.home.transport.certificate.fingerprint,
            contacts=contacts,
            expires=now_ms() + int(request.get("days", 7) * _DAY_MS),
            secrets=node.peer.secrets,
        )
        text = invitation.text()
        node.issues.add(invitation, replaces)
        recovers = bool(replaces) and replaces == node.roster.membership.founder
        return {"invitation": text, "contacts": contacts, "replaces": replaces, "recovers": recovers}

    async def expel(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        node, peer = self._node, self._member_named(request["peer"])
        record = node.roster.book.expel(node.identity, peer, request.get("reason", ""))
        return {"peer": peer, "expelled": peer in node.roster.membership.expelled, "record": record.id.hex()}

    async def countersign(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        node, record = self._node, record_id(request["record"])
        node.roster.book.countersign(node.identity, record)
        return {}

    async def heads(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """What a record that is signed elsewhere, by a key that is not this node's, is to follow."""
        parents, time = self._node.roster.book.follow()
        return {"parents": [parent.hex() for parent in parents], "time": time}

    async def take(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """A record signed elsewhere; kept, and told to the others, if it counts."""
        try:
            record = Record.decode(bytes.fromhex(request["record"]))
        except (ValueError, LedgerError) as error:
            raise NodeError(f"not a record: {error}") from None
        self._node.roster.book.accept([record])
        return {}

    async def renew(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Twice: the others let in the last certificate but one as well, and that may be the one that has leaked."""
        for _ in range(2):
            await self._node.renew_certificate()
        return {"fingerprint": self._node.home.transport.certificate.fingerprint.hex()}

    async def leave(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        return await leave(self._node)

    async def stop(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        self._node.stop()
        return {}

    def _member_named(self, text: str) -> PeerId:
        """The one member with this name, short name, or beginning of its id. Raises NodeError."""
        members = self._node.roster.membership.members
        if text in members:  # another may call itself by it
            return text
        found = [
            p
            for p, m in members.items()
            if text in (p, m.name, short_name(p)) or (len(text) > 7 and p.startswith(text))
        ]
        if len(found) != 1:
            remedy = "Give the peer id, or its first 16 digits, as 'coterie federation status' shows it."
            if not found:
                raise NodeError(
                    f"no member is called {text!r}",
                    remedy=f"{near_miss(text, {member.name for member in members.values()})} {remedy}",
                )
            raise NodeError(f"{len(found)} members are called {text!r}", remedy=remedy)
        return found[0]


def _why_out(removal: Removal) -> str:
    """Why a member was expelled, or as whom it goes on."""
    if removal.successor is None:
        return removal.reason
    return f"goes on as {short_name(removal.successor)}" + (f" ({removal.reason})" if removal.reason else "")


def record_id(text: str) -> bytes:
    """A record's id as ``status`` shows it. Raises MembershipError."""
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != 32:
        raise MembershipError(
            f"{text[:80]!r} is no record's id", remedy="Give all 64 digits, as 'coterie federation status' shows them."
        )
    return found
