"""What newcomer and inviter say to each other at the join port. Both sides hold the other's bytes to be hostile."""

from __future__ import annotations

from typing import Annotated

import msgspec

from coterie.identity import Certificate, PeerId
from coterie.ledger.records import MOST_BYTES
from coterie.network.addresses import MOST_CHARACTERS
from coterie.protocols.membership.book import MOST_LOG
from coterie.protocols.membership.policy import MOST_RECOVERY, Id
from coterie.protocols.membership.records import Der, Hash, Name, Signature

MOST_REQUEST_BYTES = 1 << 14
MOST_ANSWER_BYTES = 1 << 20


_CONTACTS = msgspec.Meta(max_length=8)


class JoinRequest(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """What a newcomer asks. ``start``: how many records it has from earlier answers."""

    federation: Hash
    invitation: Hash
    """The invitation's public key."""
    peer: Id
    certificate: Der
    binding: Signature
    name: Name
    consent: Signature
    nonce: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    proof: Signature
    """By the invitation's key."""
    start: Annotated[int, msgspec.Meta(ge=0, le=MOST_LOG)]
    signature: Signature
    """By the newcomer, over all the rest."""


class RecoveryRequest(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """What one asks who holds recovery keys: the records from ``start`` on, once ``records`` have been taken in."""

    federation: Hash
    invitation: Hash
    nonce: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    records: Annotated[
        tuple[Annotated[bytes, msgspec.Meta(max_length=MOST_REQUEST_BYTES)], ...],
        msgspec.Meta(max_length=1 + MOST_RECOVERY),
    ]
    """A succession, and what countersigns it: signed by recovery keys."""
    start: Annotated[int, msgspec.Meta(ge=0, le=MOST_LOG)]
    proof: Signature
    """By the invitation's key, over all the rest and the inviter."""


class Briefing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a newcomer needs beside the records. They prove none of it: it is checked where it is used."""

    spec: Annotated[str, msgspec.Meta(max_length=MOST_ANSWER_BYTES // 4)] = ""
    """As TOML; empty where the answering peer has not got it."""
    signature: Annotated[bytes, msgspec.Meta(max_length=64)] = b""
    """The founder's, of the spec."""
    contacts: Annotated[tuple[Annotated[str, msgspec.Meta(max_length=MOST_CHARACTERS)], ...], _CONTACTS] = ()
    """Where the answering peer can be dialled as a member."""
    chain: tuple[Annotated[int, msgspec.Meta(ge=0, lt=1 << 48)], Hash] | None = None
    """Epoch and id of the shared chain's checkpoint that the newcomer is to begin with; None where there is none."""


class Refused(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    reason: Annotated[str, msgspec.Meta(max_length=300)]


class Welcome(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """``records`` are numbers ``start`` and following of ``total``, each after those it follows."""

    genesis: Annotated[bytes, msgspec.Meta(max_length=2 * MOST_BYTES)]
    admission: Hash
    missing: Annotated[int, msgspec.Meta(ge=0)]
    """Signatures that the admission still needs."""
    start: Annotated[int, msgspec.Meta(ge=0)]
    total: Annotated[int, msgspec.Meta(ge=0, le=MOST_LOG)]
    records: Annotated[list[bytes], msgspec.Meta(max_length=MOST_LOG)]
    briefing: Briefing = Briefing()


class History(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """``records`` are numbers ``start`` and following of ``total``, each after those it follows."""

    genesis: Annotated[bytes, msgspec.Meta(max_length=2 * MOST_BYTES)]
    start: Annotated[int, msgspec.Meta(ge=0)]
    total: Annotated[int, msgspec.Meta(ge=0, le=MOST_LOG)]
    records: Annotated[list[bytes], msgspec.Meta(max_length=MOST_LOG)]
    briefing: Briefing = Briefing()


def claim_of(request: JoinRequest, inviter: PeerId) -> bytes:
    """What the invitation's key signs."""
    fingerprint = Certificate(request.peer, request.certificate, request.binding).fingerprint
    parts = (request.federation, inviter, request.invitation, request.peer, fingerprint, request.name, request.nonce)
    return encoder.encode(parts)


def signed_part(request: JoinRequest) -> bytes:
    return encoder.encode(msgspec.structs.replace(request, signature=bytes(64)))


def recovery_claim(request: RecoveryRequest, inviter: PeerId) -> bytes:
    """What the invitation's key signs, for the purpose "recovery"."""
    return encoder.encode((inviter, msgspec.structs.replace(request, proof=bytes(64))))


encoder = msgspec.msgpack.Encoder()
requests: msgspec.msgpack.Decoder[JoinRequest | RecoveryRequest] = msgspec.msgpack.Decoder(
    JoinRequest | RecoveryRequest
)
answers: msgspec.msgpack.Decoder[Refused | Welcome | History] = msgspec.msgpack.Decoder(Refused | Welcome | History)
