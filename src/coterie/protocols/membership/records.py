"""What membership records say, by their kind. Everything in them is another peer's word until ``replay`` has judged it.

    genesis       the federation: see ``genesis``
    member        a peer is admitted; the author admits it
    certificate   the author has a new transport certificate
    expel         a peer is expelled, for good: its key is burnt
    leave         the author leaves; it may be admitted again
    successor     a key is lost or stolen: ``old`` is expelled and ``peer``, a new key, has its seat and stake
    countersign   the author signs another's record that needs a quorum

A lost key: its owner makes a new one and asks those who may admit **and** expel, by telephone, say. They issue an
invitation that replaces the old id, and the join writes a ``successor`` record. The thief of the old key cannot undo
it: the old id is expelled by the same record, whatever it signs beside or after that does not count, and an expelled id
is never admitted again. What it signed before, as far as the author of the record had seen it, stays.

``consent`` is the newcomer's own signature over federation, admitting peer, invitation, certificate and name: nobody is
made a member against its will, a second time, under another name, or with a certificate from elsewhere.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec

from coterie.errors import IdentityError, MembershipError
from coterie.identity import Certificate, Identity, PeerId, is_peer_id, verify
from coterie.ledger.records import Record, RecordId
from coterie.protocols.membership.policy import Id, Millis, Stake

MOST_BYTES = 8192
"""Of a whole record, genesis excepted."""
_CONSENT = "membership consent"
Hash = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
Der = Annotated[bytes, msgspec.Meta(min_length=1, max_length=4096)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Reason = Annotated[str, msgspec.Meta(max_length=280)]
_UNSEEN = re.compile(
    "[\0-\x1f\x7f-\xa0\xad\u061c\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff\ufff0-\uffff"
    "\U000e0000-\U000e0fff]"
)
"""Controls, marks of direction, and what has no width. A fixed list: Python versions know different Unicode tables, and
all peers must agree."""


class _Deed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of one kind of record."""


class Admission(_Deed, frozen=True, kw_only=True):
    peer: Id
    certificate: Der
    binding: Signature
    """The peer's signature that binds the certificate to it."""
    name: Name
    stake: Stake
    consent: Signature
    invitation: Hash
    """The invitation's public key, or 32 random bytes: what the newcomer agreed to."""
    expires: Millis | None = None
    """The invitation's end, in ms since 1970."""


class Succession(_Deed, frozen=True, kw_only=True):
    old: Id
    peer: Id
    certificate: Der
    binding: Signature
    name: Name
    consent: Signature
    reason: Reason = ""
    invitation: Hash
    expires: Millis | None = None


class Renewal(_Deed, frozen=True, kw_only=True):
    certificate: Der
    binding: Signature


class Expulsion(_Deed, frozen=True, kw_only=True):
    peer: Id
    reason: Reason = ""


class Leave(_Deed, frozen=True, kw_only=True):
    reason: Reason = ""


class Countersignature(_Deed, frozen=True, kw_only=True):
    record: Hash


Deed: TypeAlias = Admission | Succession | Renewal | Expulsion | Leave | Countersignature
D = TypeVar("D", bound=msgspec.Struct)
KINDS: dict[str, type[Deed]] = {
    "member": Admission,
    "successor": Succession,
    "certificate": Renewal,
    "expel": Expulsion,
    "leave": Leave,
    "countersign": Countersignature,
}
KIND_OF: dict[type[Deed], str] = {deed: kind for kind, deed in KINDS.items()}
_decoders = {kind: msgspec.msgpack.Decoder(deed) for kind, deed in KINDS.items()}


def content_of(deed: msgspec.Struct) -> dict[str, Any]:
    """A deed as a record's content."""
    content: dict[str, Any] = msgspec.to_builtins(deed, builtin_types=(bytes,))
    return content


def read(record: Record, federation: RecordId) -> Deed:
    """What a record says, if it is well formed and could count in some history; else MembershipError with the reason.

    The record's own signature and encoding are checked already: ``Record.decode`` does.
    """
    decoder = _decoders.get(record.kind)
    if decoder is None:
        raise refused(record, "it is of no kind that belongs here")
    if len(record.body) > MOST_BYTES:
        raise refused(record, "it is too long")
    deed = typed(decoder, record)
    if isinstance(deed, Admission | Succession):
        _require_newcomer(record, deed, federation)
    elif isinstance(deed, Renewal):
        require_certificate(record, Certificate(record.author, deed.certificate, deed.binding))
    elif isinstance(deed, Expulsion | Leave):
        require_plain(record, deed.reason)
        if isinstance(deed, Expulsion) and deed.peer == record.author:
            raise refused(record, "nobody expels itself; it leaves")
    return deed


def typed(decoder: msgspec.msgpack.Decoder[D], record: Record) -> D:
    try:
        return decoder.decode(record.body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise refused(record, f"its content is wrong: {str(error)[:200]!a}") from None


def certificate_of(deed: Admission | Succession) -> Certificate:
    return Certificate(deed.peer, deed.certificate, deed.binding)


class Consent(msgspec.Struct, frozen=True, array_like=True):
    """What a newcomer signs: to whom it comes, by whose invitation, and as who."""

    federation: Hash
    host: Id
    """Who admits it: the author of the record."""
    invitation: Hash
    fingerprint: Hash
    name: Name

    def sign(self, identity: Identity) -> bytes:
        return identity.sign(_CONSENT, msgspec.msgpack.encode(self))

    def signed_by(self, peer: PeerId, signature: bytes) -> bool:
        return verify(peer, _CONSENT, msgspec.msgpack.encode(self), signature)


def is_plain(text: str) -> bool:
    """Whether a text shows what it is: no controls, nothing invisible, no marks of direction, no blank ends."""
    return _UNSEEN.search(text) is None and text == text.strip(" ")


def require_plain(record: Record, text: str) -> None:
    if not is_plain(text):
        raise refused(record, "a text in it has invisible characters, or blanks at its ends")


def require_certificate(record: Record, certificate: Certificate) -> None:
    try:
        certificate.check()
    except IdentityError as error:
        raise refused(record, f"its certificate is refused: {error.what}") from None


def refused(record: Record, why: str) -> MembershipError:
    return MembershipError(why, where=record.where)


def _require_newcomer(record: Record, deed: Admission | Succession, federation: RecordId) -> None:
    if not is_peer_id(deed.peer):
        raise refused(record, "the newcomer's id is no peer id")
    if deed.peer == record.author:
        raise refused(record, "nobody admits itself")
    if isinstance(deed, Succession):
        if deed.old in (deed.peer, record.author):
            raise refused(record, "nobody names its own successor")
        require_plain(record, deed.reason)
    require_plain(record, deed.name)
    if deed.expires is not None and record.time > deed.expires:
        raise refused(record, "its invitation had expired")
    certificate = certificate_of(deed)
    require_certificate(record, certificate)
    consent = Consent(federation, record.author, deed.invitation, certificate.fingerprint, deed.name)
    if not consent.signed_by(deed.peer, deed.consent):
        raise refused(record, "the newcomer has not agreed to it")
