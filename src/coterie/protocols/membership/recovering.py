"""A founder's key is lost or stolen: who holds recovery keys names a new key that is founder from then on.

    holder -> member   RecoveryRequest: proof of the invitation
    member -> holder   History: genesis and the records, in pieces
    holder -> member   RecoveryRequest: proof, and a ``successor`` record that the recovery keys have signed

Any member that has a join port can be the other side; it issues an invitation that replaces the founder. The recovery
keys sign here and go nowhere: the member sees signatures only. Where fewer keys are here than must sign, the record
waits, and other holders sign it at a member's node (``sign_beside``).

Threat model. *The member* may refuse; ask another one. It may withhold records: the succession then does not follow
them, and whom the old key had admitted in them is out. So the holder is shown the members before anything is signed
(``agree``), and looks whether one is missing. It cannot make the keys sign for anybody but the holder's new key, nor
against anybody but the founder whom its records, complete from genesis, show. *A thief of the invitation* reads the
membership records, and can do nothing without the keys. *A thief of enough recovery keys* is the founder whenever it
likes: keep them offline and apart.

Whom a thief of the founder's key has admitted before the recovery was signed stays a member, until the new founder
expels it: no record tells such an admission from a rightful one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from coterie.errors import MembershipError
from coterie.identity import Certificate, Identity, PeerId
from coterie.ledger.records import Record, RecordId
from coterie.protocols.membership.book import Book
from coterie.protocols.membership.invitation import Invitation
from coterie.protocols.membership.join_messages import Briefing, History, RecoveryRequest, encoder, recovery_claim
from coterie.protocols.membership.joining import Joined, lie, read_answer, replayed, what_follows
from coterie.protocols.membership.policy import Policy
from coterie.protocols.membership.records import KIND_OF, Consent, Countersignature, Succession, content_of
from coterie.protocols.membership.replay import Membership, Replay

if TYPE_CHECKING:
    from random import Random

Ask = Callable[[bytes], Awaitable[bytes]]


async def recover(
    invitation: Invitation,
    identity: Identity,
    certificate: Certificate,
    name: str,
    keys: Sequence[Identity],
    *,
    agree: Callable[[Membership], bool],
    ask: Ask,
    secrets: Random,
    now: Callable[[], int],
) -> Joined:
    """Make ``identity``, a new key, the founder's successor. ``keys``: recovery keys, one at least.

    May be repeated with the same identity and certificate, where the answer was lost: nothing is signed twice.

    ``agree`` sees the membership that the succession is to follow, and may stop it: what is signed cannot be taken
    back. ``Joined.missing`` more keys must sign before it counts. Raises MembershipError when refused, lied to or
    stopped, or where a key is no recovery key of this federation.
    """
    if invitation.expires < now():
        raise MembershipError("the invitation has ended", where="recover", remedy="Ask for a new one.")
    replay, records, briefing = await _history(invitation, (), ask, secrets, now)
    _require_keys(keys, replay.genesis.policy)
    if (done := _done_before(replay, identity.id, certificate)) is not None:
        return Joined(replay.graph.genesis, tuple(records), *done, replay.membership(), briefing)
    founder = replay.membership().founder
    if founder is None:
        raise MembershipError("the federation has no founder any more", where="recover")
    if not agree(replay.membership()):
        raise MembershipError("stopped: nothing was signed", where="recover")
    book = Book(replay.graph.genesis, now, lambda record: None, records)
    nonce = secrets.randbytes(32)
    consent = Consent(book.federation, keys[0].id, nonce, certificate.fingerprint, name)
    succession = book.draft(
        keys[0],
        Succession(
            old=founder,
            peer=identity.id,
            certificate=certificate.der,
            binding=certificate.signature,
            name=name,
            consent=consent.sign(identity),
            reason="recovery keys",
            invitation=nonce,
        ),
    )
    book.add(succession)
    signed = [succession, *(book.countersign(key, succession.id) for key in keys[1:])]
    replay, records, briefing = await _history(invitation, signed, ask, secrets, now)
    membership = replay.membership()
    pending = membership.pending.get(succession.id)
    if pending is None and membership.founder != identity.id:
        raise lie("its records do not show the succession")
    missing = pending.needed - pending.signed if pending else 0
    return Joined(replay.graph.genesis, tuple(records), succession.id, missing, membership, briefing)


def _done_before(replay: Replay, own: PeerId, certificate: Certificate) -> tuple[RecordId, int] | None:
    """The succession that names this peer and certificate already, and how many keys must still sign it."""
    membership = replay.membership()
    for node in replay.graph.nodes:
        deed = node.deed
        if isinstance(deed, Succession) and (deed.peer, deed.certificate) == (own, certificate.der):
            pending = membership.pending.get(node.id)
            if pending is not None:
                return node.id, pending.needed - pending.signed
            if membership.is_member(own):
                return node.id, 0
    return None


def sign_beside(key: Identity, record: RecordId, parents: Sequence[RecordId], time: int) -> Record:
    """A recovery key's countersignature of a waiting record. It follows ``parents``, ``record`` among their past."""
    return Record.make(key, KIND_OF[Countersignature], content_of(Countersignature(record=record)), parents, time)


def _require_keys(keys: Sequence[Identity], policy: Policy) -> None:
    if not policy.recovery:
        raise MembershipError(
            "the federation was founded without recovery keys",
            where="recover",
            remedy="The members stay as they are; to admit others, found a new federation.",
        )
    for key in keys:
        if key.id not in policy.recovery:
            raise MembershipError(
                f"{key.id[:16]} is no recovery key of this federation",
                where="recover",
                remedy=f"Its recovery keys are {', '.join(one[:16] for one in policy.recovery)}.",
            )
    if len({key.id for key in keys}) < len(keys):
        raise MembershipError("a recovery key is named twice", where="recover", remedy="Name each once.")


async def _history(
    invitation: Invitation, records: Sequence[Record], ask: Ask, secrets: Random, now: Callable[[], int]
) -> tuple[Replay, list[Record], Briefing]:
    """All records that the member has, once it has taken in ``records``."""
    found: list[bytes] = []
    brought = tuple(record.encode() for record in records)
    while True:
        request = RecoveryRequest(
            federation=invitation.genesis,
            invitation=bytes.fromhex(invitation.key.id),
            nonce=secrets.randbytes(16),
            records=brought,
            start=len(found),
            proof=bytes(64),
        )
        proof = invitation.key.sign("recovery", recovery_claim(request, invitation.inviter))
        answer = read_answer(await ask(encoder.encode(msgspec.structs.replace(request, proof=proof))), History)
        found += what_follows(answer, len(found))
        if len(found) >= answer.total:
            return *replayed(invitation, answer.genesis, found, now()), answer.briefing
        brought = ()
