"""Peers, records and whole histories for the tests of membership; hostile ones too: nothing here keeps to the rules."""

from __future__ import annotations

import hashlib
import itertools
from functools import cache

import msgspec

from coterie.identity import Identity, TransportKey
from coterie.ledger.records import Record
from coterie.protocols.membership.genesis import found
from coterie.protocols.membership.policy import Policy
from coterie.protocols.membership.records import (
    KIND_OF,
    Admission,
    Consent,
    Countersignature,
    Expulsion,
    Leave,
    Renewal,
    Succession,
    content_of,
)
from coterie.protocols.membership.replay import Replay

START = 1_700_000_000_000
"""ms since 1970; every record of a history is a second later than the last, unless told otherwise."""
_numbers = itertools.count()


class Person:
    """A key with a transport certificate."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.identity = Identity.from_seed(hashlib.sha256(name.encode()).digest())
        self.transport = TransportKey.new(self.identity)

    @property
    def id(self) -> str:
        return self.identity.id

    @property
    def certificate(self):
        return self.transport.certificate

    def __repr__(self) -> str:
        return self.name


@cache
def person(name: str) -> Person:
    return Person(name)


def people(*names: str) -> list[Person]:
    return [person(name) for name in names]


def policy(**changes) -> Policy:
    if "recovery" in changes:
        changes["recovery"] = tuple(sorted(who.id for who in changes["recovery"]))
    return Policy(**changes)


def genesis(founder: Person, stakes=None, time=START, **rules) -> Record:
    return found(
        founder.identity,
        federation="lab",
        spec=bytes(32),
        name=founder.name,
        certificate=founder.certificate,
        time=time,
        policy=policy(**rules),
        stakes=stakes,
    )


class History:
    """Records of one federation, each signed by whom the test says, on the parents it says."""

    def __init__(self, founder: Person, stakes=None, **rules) -> None:
        self.founder = founder
        self.genesis = genesis(founder, stakes, **rules)
        self.records: list[Record] = []

    def sign(self, author: Person, deed, *parents: Record, time=None) -> Record:
        """A record on ``parents``, by default on all records so far that no other follows."""
        if not parents:
            followed = {parent for record in self.records for parent in record.parents}
            parents = tuple(r for r in self.records if r.id not in followed) or (self.genesis,)
        if time is None:
            time = max(parent.time for parent in parents) + 1000
        kind = KIND_OF[type(deed)]
        record = Record.make(author.identity, kind, content_of(deed), [p.id for p in parents], time)
        self.records.append(record)
        return record

    def admit(self, host: Person, newcomer: Person, *parents: Record, time=None, **changes) -> Record:
        return self.sign(host, self.admission(host, newcomer, **changes), *parents, time=time)

    def succeed(self, host: Person, old: Person, newcomer: Person, *parents: Record, **changes) -> Record:
        return self.sign(host, self.succession(host, old, newcomer, **changes), *parents)

    def expel(self, author: Person, whom: Person, *parents: Record, reason="") -> Record:
        return self.sign(author, Expulsion(peer=whom.id, reason=reason), *parents)

    def leave(self, who: Person, *parents: Record) -> Record:
        return self.sign(who, Leave(), *parents)

    def countersign(self, author: Person, record: Record, *parents: Record) -> Record:
        return self.sign(author, Countersignature(record=record.id), *parents)

    def renew(self, who: Person, *parents: Record, certificate=None, time=None) -> Record:
        certificate = certificate or TransportKey.new(who.identity).certificate
        return self.sign(who, Renewal(certificate=certificate.der, binding=certificate.signature), *parents, time=time)

    def admission(self, host: Person, newcomer: Person, **changes) -> Admission:
        return msgspec.structs.replace(
            Admission(stake=changes.pop("stake", 1), **self._newcomer(host, newcomer)), **changes
        )

    def succession(self, host: Person, old: Person, newcomer: Person, **changes) -> Succession:
        return msgspec.structs.replace(Succession(old=old.id, **self._newcomer(host, newcomer)), **changes)

    def _newcomer(self, host: Person, newcomer: Person) -> dict:
        invitation = hashlib.sha256(str(next(_numbers)).encode()).digest()
        certificate = newcomer.certificate
        consent = Consent(self.genesis.id, host.id, invitation, certificate.fingerprint, newcomer.name)
        return {
            "peer": newcomer.id,
            "certificate": certificate.der,
            "binding": certificate.signature,
            "name": newcomer.name,
            "consent": consent.sign(newcomer.identity),
            "invitation": invitation,
        }

    def replay(self, records=None) -> Replay:
        replay = Replay(self.genesis)
        for record in self.records if records is None else records:
            replay.add(Record.decode(record.encode()))
        return replay

    @property
    def membership(self):
        return self.replay().membership()

    def names(self, membership=None) -> set[str]:
        """Who is in, by the names they joined with."""
        return {member.name for member in (membership or self.membership).members.values()}

    def why(self, record: Record) -> str | None:
        return self.membership.rejected.get(record.id)
