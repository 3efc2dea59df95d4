"""A peer's identity: one Ed25519 key (RFC 8032). The peer id is its public key.

Threat model: whoever has the key file is the peer. The key never leaves this machine and never signs bytes as they are:
each signature is over a purpose, its length and the content, so that what was signed for one purpose is worth nothing
for another. Signatures are deterministic; verification is libsodium's, which refuses public keys of small order and
non-canonical signatures. A public key outside the prime-order group is no peer id: one secret has one id.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from nacl.bindings import crypto_core_ed25519_is_valid_point
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from coterie.errors import IdentityError
from coterie.files import sync_folder

PeerId = str
"""An Ed25519 public key, as 64 lower-case hexadecimal digits."""
SIGNATURE_BYTES = 64
_ID = re.compile(r"[0-9a-f]{64}")
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True)
class Identity:
    """A key pair. Its ``repr`` shows no secret."""

    _key: SigningKey

    @classmethod
    def generate(cls) -> Identity:
        """A new one, from the operating system's generator."""
        return cls(SigningKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> Identity:
        """The key of a 32-byte seed (RFC 8032, section 5.1.5): for tests and simulations, where keys must replay."""
        return cls(SigningKey(seed))

    @classmethod
    def load(cls, path: Path) -> Identity:
        """Read a key file: PEM, PKCS #8, Ed25519, not encrypted.

        Raises IdentityError where there is none, where others than its owner may read it, or where it is no such key.
        """
        try:
            with path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                content = file.read(1 << 16)
        except OSError as error:
            raise IdentityError(
                f"the key cannot be read: {error.strerror or error}",
                where=str(path),
                remedy="Name another file, or make a key: 'coterie federation init' and 'join' do.",
            ) from None
        if mode & _OTHERS:
            raise IdentityError(
                f"the key may be read or written by others (mode {mode:04o})",
                where=str(path),
                remedy=f"Take that from them: chmod 600 {shlex.quote(str(path))}. If anybody may have read it, make "
                "a new key.",
            )
        return cls.from_pem(content, str(path))

    @classmethod
    def from_pem(cls, content: bytes, where: str) -> Identity:
        """The key in a PEM file's ``content``. Raises IdentityError, naming ``where``."""
        try:
            key = serialization.load_pem_private_key(content, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise IdentityError(
                "not an Ed25519 private key",
                where=where,
                remedy="Give an unencrypted PEM file, as 'openssl genpkey -algorithm ed25519' makes it.",
            )
        return cls.from_seed(key.private_bytes_raw())

    def save(self, path: Path) -> None:
        """Write the key, readable by its owner alone. Raises IdentityError where a file is already there."""
        key = Ed25519PrivateKey.from_private_bytes(bytes(self._key))
        content = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        try:
            file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")
        except FileExistsError:
            raise IdentityError(
                "there is a file already, and a key is never overwritten",
                where=str(path),
                remedy="Name another file, or move this one away.",
            ) from None
        except OSError as error:
            raise _not_written(path, error) from None
        try:
            with file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            sync_folder(path.parent)
        except OSError as error:
            path.unlink(missing_ok=True)  # half a key is none, and would stand in the way of the next attempt
            raise _not_written(path, error) from None

    @property
    def id(self) -> PeerId:
        return bytes(self._key.verify_key).hex()

    def sign(self, purpose: str, content: bytes) -> bytes:
        """64 bytes: the signature of ``content`` for a ``purpose``, such as "record"."""
        return self._key.sign(_framed(purpose, content)).signature

    def derive(self, purpose: str, context: bytes) -> bytes:
        """32 secret bytes for one ``purpose`` in one ``context``: HKDF-SHA256 (RFC 5869) of the seed.

        For keys that must be used where the identity key must not, such as in formats of others. They tell nothing of
        the identity key, nor of each other.
        """
        expansion = HKDF(hashes.SHA256(), length=32, salt=None, info=_framed(purpose, context))
        return expansion.derive(bytes(self._key))

    def __repr__(self) -> str:
        return f"Identity({self.id})"


def verify(peer: PeerId, purpose: str, content: bytes, signature: bytes) -> bool:
    """Whether ``peer`` signed ``content`` for this ``purpose``. Anything malformed is no signature."""
    if not is_peer_id(peer) or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        VerifyKey(bytes.fromhex(peer)).verify(_framed(purpose, content), signature)
    except (BadSignatureError, ValueError):
        return False
    return True


def is_peer_id(text: object) -> bool:
    """Whether this can be a peer id: 64 lower-case hexadecimal digits of a point of the prime-order group."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None and _is_point(text)


@lru_cache(maxsize=4096)  # as slow as a signature, and asked again for each one of the same peer
def _is_point(digits: str) -> bool:
    return bool(crypto_core_ed25519_is_valid_point(bytes.fromhex(digits)))


def _framed(purpose: str, content: bytes) -> bytes:
    """``coterie``, the purpose and its length, then the content: no two purposes share a message."""
    name = purpose.encode()
    return b"coterie" + struct.pack(">H", len(name)) + name + content


def _not_written(path: Path, error: OSError) -> IdentityError:
    return IdentityError(
        f"the key cannot be written: {error.strerror or error}",
        where=str(path),
        remedy="Name a file in a folder that exists, may be written to, and is not full.",
    )
