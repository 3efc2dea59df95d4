"""Invitations: a one-time, expiring text that a person pastes, and what the inviter keeps of it.

    coterie1 | base32( length, u16 | version, u8 | expires, u40, seconds since 1970 | genesis, 32 bytes |
                       inviter, 32 | fingerprint, 32 | secret, 16 | contacts, comma-separated | checksum, 4 )

Base32 (RFC 4648, section 6) in lower case without padding; blanks and line breaks that pasting adds are ignored. The
checksum is the first 4 bytes of SHA-256 of the rest: it finds typing mistakes, and proves nothing.

The secret (128 bits) is the seed of an Ed25519 key. The inviter keeps that key's public half only, so its store gives
nobody an invitation; the newcomer proves with a signature that it has the secret, and never sends it. (An HMAC proof
could only be checked by one who keeps something that is as good as the secret.)

Threat model. Whoever has the text can join in the invited one's place until it is used or has ended: send it by a way
you trust, and look at who came. It cannot be used twice. Who sees the text afterwards learns contacts and ids, no more.
Who changes it on the way can send the newcomer to a federation of his own; nothing but the way it came by protects it
from that. The text tells the newcomer whose join port to expect (``fingerprint``), so nobody else can answer.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from coterie.errors import MembershipError, NetworkError
from coterie.identity import Identity, PeerId, is_peer_id
from coterie.network.addresses import Address

if TYPE_CHECKING:
    from random import Random

PREFIX = "coterie1"
MOST_CONTACTS = 8
SECRET_BYTES = 16
_FIXED = struct.Struct(">HB5s32s32s32s16s")
_CHECKSUM = 4
_VERSION = 1
_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"


@dataclass(frozen=True)
class Invitation:
    """What the text says. ``expires``: ms since 1970, whole seconds."""

    genesis: bytes
    inviter: PeerId
    fingerprint: bytes
    """SHA-256 of the certificate that the inviter's join port shows."""
    contacts: tuple[str, ...]
    """``host:port`` of join ports, to be tried in turn; an IPv6 host in brackets."""
    expires: int
    secret: bytes = field(repr=False)

    @property
    def key(self) -> Identity:
        """Whoever has this key has been invited."""
        return Identity.from_seed(hashlib.sha256(b"coterie invitation" + self.secret).digest())

    def text(self) -> str:
        """To be pasted. Raises MembershipError for contacts that are none."""
        for contact in self.contacts:
            _require_contact(contact)
        if not 1 <= len(self.contacts) <= MOST_CONTACTS:
            raise _wrong(f"an invitation names 1 to {MOST_CONTACTS} contacts")
        contacts = ",".join(self.contacts).encode()
        length = _FIXED.size + len(contacts) + _CHECKSUM
        ends = (self.expires // 1000).to_bytes(5, "big")
        inviter = bytes.fromhex(self.inviter)
        fixed = _FIXED.pack(length, _VERSION, ends, self.genesis, inviter, self.fingerprint, self.secret)
        data = fixed + contacts
        data += hashlib.sha256(data).digest()[:_CHECKSUM]
        return PREFIX + base64.b32encode(data).decode().rstrip("=").lower()

    @classmethod
    def parse(cls, text: str) -> Invitation:
        """The invitation of a pasted text. Raises MembershipError, which names the mistake."""
        data = _bytes_of(text)
        if len(data) < _FIXED.size + _CHECKSUM:
            raise _wrong(f"the invitation is cut off after {len(data)} bytes")
        length, version, ends, genesis, inviter, fingerprint, secret = _FIXED.unpack_from(data)
        if len(data) != length:
            cut = len(data) < length
            raise _wrong(
                f"the invitation {'is cut off' if cut else 'goes on too long'}, or begins with a typing mistake: "
                f"it has {len(data)} bytes, and says it has {length}"
            )
        if hashlib.sha256(data[:-_CHECKSUM]).digest()[:_CHECKSUM] != data[-_CHECKSUM:]:
            raise _wrong("the invitation has a typing mistake: its checksum does not fit")
        if version != _VERSION:
            raise MembershipError(
                f"the invitation is of version {version}, and this is {_VERSION}",
                where="invitation",
                remedy="Upgrade coterie.",
            )
        if not is_peer_id(inviter.hex()):
            raise _wrong("the inviter's id in the invitation is no peer id")
        try:
            contacts = tuple(data[_FIXED.size : -_CHECKSUM].decode("ascii").split(","))
        except UnicodeDecodeError:
            raise _wrong("the contacts in the invitation cannot be read") from None
        for contact in contacts:
            _require_contact(contact)
        if len(contacts) > MOST_CONTACTS:
            raise _wrong(f"the invitation names {len(contacts)} contacts, and {MOST_CONTACTS} are too many already")
        return cls(genesis, inviter.hex(), fingerprint, contacts, 1000 * int.from_bytes(ends, "big"), secret)


def invite(
    *,
    genesis: bytes,
    inviter: PeerId,
    fingerprint: bytes,
    contacts: Sequence[str],
    expires: int,
    secrets: Random,
) -> Invitation:
    """A new invitation, with a secret from ``secrets``: the operating system's generator in a real peer."""
    secret = secrets.randbytes(SECRET_BYTES)
    return Invitation(genesis, inviter, fingerprint, tuple(contacts), expires // 1000 * 1000, secret)


def _bytes_of(text: str) -> bytes:
    text = "".join(text.split()).lower()
    if not text.startswith(PREFIX):
        raise _wrong(f"this is no invitation: it does not begin with {PREFIX}")
    body = text.removeprefix(PREFIX)
    for place, letter in enumerate(body, len(PREFIX) + 1):
        if letter not in _LETTERS:
            raise _wrong(f"the invitation has a typing mistake: {letter!r} at place {place}")
    try:
        data = base64.b32decode(body.upper() + "=" * (-len(body) % 8))
    except ValueError:
        raise _wrong(f"the invitation is cut off: {len(body)} letters are no whole number of bytes") from None
    if base64.b32encode(data).decode().rstrip("=").lower() != body:
        raise _wrong("the invitation is cut off, or has a typing mistake in its last letter")
    return data


def _require_contact(contact: str) -> None:
    try:
        Address.parse(contact)
    except NetworkError:
        raise MembershipError(
            f"{contact!r} is no contact",
            where="invitation",
            remedy="Write host:port, such as hospital.example.org:7801, or [2001:db8::1]:7801.",
        ) from None


def _wrong(what: str) -> MembershipError:
    return MembershipError(what, where="invitation", remedy="Copy it again, whole, or ask for a new one.")
