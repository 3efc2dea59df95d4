"""Messages sealed for one member, so that the member who passes them on learns who, when and how many bytes, no more.

    open    = encodings, u8 | e, 32 bytes | signature of the sender over (genesis, receiver, encodings, e)
    accept  = encodings, u8 | f, 32 bytes | signature of the receiver over (genesis, sender, encodings, f, e)
    data    = counter, u64 | ChaCha20-Poly1305 (RFC 8439) of a message, nonce = counter
    ack     = counter, u64 | the same of nothing, under another key

e and f are X25519 (RFC 7748) keys made for this session alone, signed with the two Ed25519 identities; the keys are
HKDF-SHA256 (RFC 5869) of X25519(e, f), with both ids, both public keys and the genesis hash in its info. A session
carries messages one way: who answers opens one too.

Threat model: the relay may drop, delay, repeat, change, invent and mix up messages. A changed or invented one is
refused, as is one whose counter is not above all before it, so that none is taken twice; an ``open`` that is repeated
leads to an ``accept`` that nobody can use. Forward secrecy: once both ends have forgotten the session, no key that can
be stolen later opens what the relay has recorded. Whoever holds an end's identity key while a session is made can take
part in its place. What the relay sees is not hidden: both ids, times and lengths.
"""

from __future__ import annotations

import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from coterie.errors import MessageError
from coterie.identity import Identity, PeerId, verify

_OPEN, _ACCEPT = "relayed session opened", "relayed session accepted"
_COUNTER = struct.Struct(">Q")
_KEY = 32
GREETING_BYTES = 1 + _KEY + 64


class Opening:
    """The sender's side, until the receiver has accepted."""

    def __init__(self, identity: Identity, genesis: bytes, receiver: PeerId, encodings: int) -> None:
        self._genesis, self._sender, self._receiver = genesis, identity.id, receiver
        self._secret = X25519PrivateKey.generate()
        self._public = self._secret.public_key().public_bytes_raw()
        signed = genesis + bytes.fromhex(receiver) + bytes([encodings]) + self._public
        self.content = bytes([encodings]) + self._public + identity.sign(_OPEN, signed)
        """The ``open`` message."""

    def accepted(self, content: bytes) -> Sealer:
        """The session, now that ``accept`` has come. Raises MessageError."""
        encodings, public, signature = _greeting(content)
        signed = self._genesis + bytes.fromhex(self._sender) + bytes([encodings]) + public + self._public
        if not verify(self._receiver, _ACCEPT, signed, signature):
            raise MessageError("a relayed session is not accepted by who it is for", where=self._receiver)
        keys = _keys(self._secret, public, self._genesis, (self._sender, self._receiver), (self._public, public))
        return Sealer(keys, encodings)


def accept(
    identity: Identity, genesis: bytes, sender: PeerId, content: bytes, encodings: int
) -> tuple[Unsealer, bytes]:
    """The receiver's side of a session, and the ``accept`` message. Raises MessageError."""
    theirs, public, signature = _greeting(content)
    if not verify(sender, _OPEN, genesis + bytes.fromhex(identity.id) + bytes([theirs]) + public, signature):
        raise MessageError("a relayed session is not opened by who it is said to come from", where=sender)
    secret = X25519PrivateKey.generate()
    ours = secret.public_key().public_bytes_raw()
    keys = _keys(secret, public, genesis, (sender, identity.id), (public, ours))
    signed = genesis + bytes.fromhex(sender) + bytes([encodings]) + ours + public
    return Unsealer(keys), bytes([encodings]) + ours + identity.sign(_ACCEPT, signed)


class Sealer:
    """Seals messages, and reads what the receiver says has come."""

    def __init__(self, keys: tuple[bytes, bytes], encodings: int) -> None:
        self._data, self._ack = (ChaCha20Poly1305(key) for key in keys)
        self.encodings = encodings
        """What the receiver can decode, as bits."""
        self.sent = self.received = 0

    def seal(self, message: bytes) -> bytes:
        """The ``data`` message."""
        self.sent += 1
        counter = _COUNTER.pack(self.sent)
        return counter + self._data.encrypt(_nonce(counter), message, None)

    def acknowledged(self, content: bytes) -> None:
        """An ``ack`` has come. Raises MessageError for one that is forged or old."""
        counter, rest = content[: _COUNTER.size], content[_COUNTER.size :]
        _open(self._ack, counter, rest)
        number = _COUNTER.unpack(counter)[0]
        if not self.received < number <= self.sent:
            raise MessageError("an acknowledgement came twice")
        self.received = number


class Unsealer:
    """Opens messages, each at most once and in order, and says that they have come."""

    def __init__(self, keys: tuple[bytes, bytes]) -> None:
        self._data, self._ack = (ChaCha20Poly1305(key) for key in keys)
        self.last = 0

    def unseal(self, content: bytes) -> tuple[int, bytes]:
        """The message and how many are missing before it. Raises MessageError."""
        counter, rest = content[: _COUNTER.size], content[_COUNTER.size :]
        message = _open(self._data, counter, rest)
        number = _COUNTER.unpack(counter)[0]
        if number <= self.last:
            raise MessageError("a relayed message came twice")
        missing, self.last = number - self.last - 1, number
        return missing, message

    def acknowledge(self) -> bytes:
        """The ``ack`` of all up to the last one."""
        counter = _COUNTER.pack(self.last)
        return counter + self._ack.encrypt(_nonce(counter), b"", None)


def _greeting(content: bytes) -> tuple[int, bytes, bytes]:
    if len(content) != GREETING_BYTES:
        raise MessageError("a relayed session begins with a message of the wrong length")
    return content[0], content[1 : 1 + _KEY], content[1 + _KEY :]


def _keys(
    secret: X25519PrivateKey, public: bytes, genesis: bytes, ids: tuple[PeerId, PeerId], publics: tuple[bytes, bytes]
) -> tuple[bytes, bytes]:
    """The keys for data and for acks."""
    try:
        shared = secret.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:  # a point of small order
        raise MessageError("a relayed session's key is not one") from None
    info = b"coterie relay" + b"".join(bytes.fromhex(peer) for peer in ids) + b"".join(publics)
    both = HKDF(SHA256(), 2 * _KEY, salt=genesis, info=info).derive(shared)
    return both[:_KEY], both[_KEY:]


def _nonce(counter: bytes) -> bytes:
    return bytes(4) + counter


def _open(key: ChaCha20Poly1305, counter: bytes, rest: bytes) -> bytes:
    try:
        return key.decrypt(_nonce(counter), rest, None)
    except (InvalidTag, ValueError):
        raise MessageError("a relayed message was changed on its way") from None
