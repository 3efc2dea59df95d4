"""The newcomer's side of joining: ask by an invitation, and believe nothing that does not agree with it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import msgspec

from coterie.errors import LedgerError, MembershipError
from coterie.identity import Certificate, Identity, PeerId
from coterie.ledger.records import Record, RecordId
from coterie.protocols.membership.book import SKEW_MS
from coterie.protocols.membership.invitation import Invitation
from coterie.protocols.membership.join_messages import (
    MOST_ANSWER_BYTES,
    Briefing,
    History,
    JoinRequest,
    Refused,
    Welcome,
    answers,
    claim_of,
    encoder,
    signed_part,
)
from coterie.protocols.membership.records import Admission, Consent, Succession
from coterie.protocols.membership.replay import Membership, Replay

if TYPE_CHECKING:
    from random import Random

A = TypeVar("A", Welcome, History)


@dataclass(frozen=True)
class Joined:
    """What a newcomer has learnt and checked. ``missing``: signatures without which it is no member yet."""

    genesis: Record
    records: tuple[Record, ...]
    """All but genesis, each after those it follows."""
    admission: RecordId
    missing: int
    membership: Membership
    briefing: Briefing
    """The other side's word; see there."""


async def join(
    invitation: Invitation,
    identity: Identity,
    certificate: Certificate,
    name: str,
    *,
    ask: Callable[[bytes], Awaitable[bytes]],
    secrets: Random,
    now: Callable[[], int],
) -> Joined:
    """Join by an invitation; ``ask`` puts a request to the inviter's join port, whose certificate it pins.

    May be repeated with the same identity and certificate: after a failure, or while signatures are missing. Nothing of
    an answer is believed before it agrees with the invitation. Raises MembershipError when refused or lied to.
    """
    if invitation.expires < now():
        raise MembershipError("the invitation has ended", where="join", remedy="Ask for a new one, or check the clock.")
    found: list[bytes] = []
    while True:
        request = _request(invitation, identity, certificate, name, len(found), secrets)
        answer = read_answer(await ask(encoder.encode(request)), Welcome)
        found += what_follows(answer, len(found))
        if len(found) >= answer.total:
            return _checked(answer, found, invitation, identity.id, certificate, now())


def _request(
    invitation: Invitation, identity: Identity, certificate: Certificate, name: str, start: int, secrets: Random
) -> JoinRequest:
    key = invitation.key
    public = bytes.fromhex(key.id)
    consent = Consent(invitation.genesis, invitation.inviter, public, certificate.fingerprint, name)
    request = JoinRequest(
        federation=invitation.genesis,
        invitation=public,
        peer=identity.id,
        certificate=certificate.der,
        binding=certificate.signature,
        name=name,
        consent=consent.sign(identity),
        nonce=secrets.randbytes(16),
        proof=bytes(64),
        start=start,
        signature=bytes(64),
    )
    proof = key.sign("invitation", claim_of(request, invitation.inviter))
    request = msgspec.structs.replace(request, proof=proof)
    return msgspec.structs.replace(request, signature=identity.sign("join request", signed_part(request)))


def read_answer(data: bytes, wanted: type[A]) -> A:
    """The member's answer. Raises MembershipError where it refuses, or answers something else."""
    if len(data) > MOST_ANSWER_BYTES:
        raise lie("its answer is too long")
    try:
        answer = answers.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise lie(f"its answer cannot be read: {str(error)[:200]!a}") from None
    if isinstance(answer, Refused):
        raise MembershipError(
            f"the inviter refuses: {answer.reason!r}", where="join", remedy="Ask who invited you for a new invitation."
        )
    if not isinstance(answer, wanted):
        raise lie("its answer is not what was asked for")
    return answer


def what_follows(answer: Welcome | History, count: int) -> list[bytes]:
    """The records of an answer, if they go on after the ``count`` that came before."""
    if answer.start != count or answer.total < count or (not answer.records and answer.total > count):
        raise lie("its answer does not go on where the last one ended")
    return answer.records


def replayed(invitation: Invitation, genesis: bytes, found: Sequence[bytes], now: int) -> tuple[Replay, list[Record]]:
    """The records of an answer, each checked, from the genesis that the invitation names."""
    try:
        begin, records = Record.decode(genesis), [Record.decode(data) for data in found]
        if begin.id != invitation.genesis:
            raise lie("it speaks for another federation than the invitation")
        replay = Replay(begin)
    except (LedgerError, MembershipError) as error:
        raise lie(error.what) from None
    for record in records:
        if record.time > now + SKEW_MS:
            raise MembershipError("a record is from the future", where=record.where, remedy="Check this clock.")
        if replay.add(record) != "kept":
            raise lie("its records are not whole, or one of them is refused")
    return replay, records


def _checked(
    answer: Welcome, found: list[bytes], invitation: Invitation, me: PeerId, certificate: Certificate, now: int
) -> Joined:
    """What the answers say, if it all agrees with the invitation."""
    replay, records = replayed(invitation, answer.genesis, found, now)
    node, membership = replay.graph.by_id.get(answer.admission), replay.membership()
    deed = node.deed if node is not None else None
    if node is None or not isinstance(deed, Admission | Succession) or node.author != invitation.inviter:
        raise lie("it shows no admission that the inviter has signed")
    if (deed.peer, deed.certificate) != (me, certificate.der):
        raise lie("it has admitted another key or certificate")
    pending = membership.pending.get(node.id)
    if pending is None and not membership.is_member(me):
        raise lie("its records do not make this peer a member")
    missing = pending.needed - pending.signed if pending else 0
    return Joined(replay.graph.genesis, tuple(records), node.id, missing, membership, answer.briefing)


def lie(what: str) -> MembershipError:
    return MembershipError(
        f"the inviter's answer is not believed: {what}", where="join", remedy="Ask who invited you what is wrong."
    )
