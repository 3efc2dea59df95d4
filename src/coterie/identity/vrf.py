"""A verifiable random function: ECVRF-EDWARDS25519-SHA512-TAI (RFC 9381, suite 0x03).

A key turns an input, ``alpha``, into 64 bytes that nobody else can foretell, and a proof by which everybody can check
that they are those of this key and input. There is one output for a key and an input, so the holder cannot choose
among several; it can only keep its proof back. Beacons and self-picked roles are made of this.

The key is derived from the peer's identity and the genesis hash of the chain it is for: HKDF-SHA256 (RFC 5869), see
``Identity.derive``. It is not the identity key: RFC 9381 and Ed25519 would use the same secret scalar with nonces of
different make. Nor is it the same in two federations: inputs are made of a beacon and a height, so whoever founded a
second federation from a checkpoint of the first would there be shown, early, what its members' keys give in the first.

Threat model: public keys, inputs and proofs come from peers who may lie. Checked are lengths, canonical encodings, that
the key and the proof's point (Gamma) are in the prime-order group, not only of no small order, and s < L. This refuses
more than the RFC asks (there points with a part of small order may pass), and nothing that ``prove`` makes, except with
a chance of 2^-128. So a key is good in one encoding only. What is *not* unique is the proof: whoever has the key can
make several of one output. An output must be named by its bytes, never by a hash of the proof.

Timing: what touches the secret is libsodium's constant-time arithmetic. Not constant in time is the hashing of
``alpha`` to the curve (it tries until a point is found), which tells about how many tries an input takes. Inputs are
public in this framework: do not use this VRF on secret ones. Checking is not constant in time, and needs no secret.
Secrets are Python bytes and are not wiped from memory.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from nacl.bindings import (
    crypto_core_ed25519_add,
    crypto_core_ed25519_is_valid_point,
    crypto_core_ed25519_scalar_add,
    crypto_core_ed25519_scalar_mul,
    crypto_core_ed25519_scalar_reduce,
    crypto_core_ed25519_sub,
    crypto_scalarmult_ed25519_base_noclamp,
    crypto_scalarmult_ed25519_noclamp,
)
from nacl.exceptions import RuntimeError as SodiumError

from coterie.errors import IdentityError
from coterie.identity.keys import Identity

VRF_KEY_BYTES = 32
VRF_PROOF_BYTES = 80
_POINT, _CHALLENGE = 32, 16
_SUITE, _TO_CURVE, _TO_CHALLENGE, _TO_OUTPUT, _END = b"\x03", b"\x01", b"\x02", b"\x03", b"\x00"
_FIELD = 2**255 - 19
_ORDER = 2**252 + 27742317777372353535851937790883648493
_IDENTITY_POINT = (1).to_bytes(_POINT, "little")


@dataclass(frozen=True)
class VrfKey:
    """A secret key of the function. Its ``repr`` shows no secret."""

    public: bytes
    """32 bytes: the point Y."""
    _scalar: bytes = field(repr=False)
    _prefix: bytes = field(repr=False)

    @classmethod
    def of(cls, identity: Identity, genesis: bytes) -> VrfKey:
        """The key of a peer on the chain with this genesis hash, 32 bytes.

        Neither the identity nor the peer's key on another chain can be learned from it.
        """
        if len(genesis) != 32:
            raise IdentityError(
                f"a genesis hash of {len(genesis)} bytes", where="VRF key", remedy="Give the 32 bytes of the chain's."
            )
        return cls.from_seed(identity.derive("vrf", genesis))

    @classmethod
    def from_seed(cls, seed: bytes) -> VrfKey:
        """The key of 32 secret bytes (the RFC's SK), expanded as in RFC 8032, section 5.1.5."""
        if len(seed) != 32:
            raise IdentityError(
                f"a seed of {len(seed)} bytes", where="VRF key", remedy="Give 32 bytes, such as Identity.derive makes."
            )
        expanded = bytearray(hashlib.sha512(seed).digest())
        expanded[0] &= 248
        expanded[31] = expanded[31] & 127 | 64
        scalar = bytes(expanded[:32])
        return cls(crypto_scalarmult_ed25519_base_noclamp(scalar), scalar, bytes(expanded[32:]))

    def prove(self, alpha: bytes) -> bytes:
        """80 bytes: the proof for ``alpha`` (RFC 9381, section 5.1). It always is the same one."""
        point = _to_curve(self.public, alpha)
        if point is None:  # a chance of 2^-256
            raise IdentityError("the input hashes to no point of the curve", where="VRF", remedy="Use another input.")
        gamma = crypto_scalarmult_ed25519_noclamp(self._scalar, point)
        nonce = crypto_core_ed25519_scalar_reduce(hashlib.sha512(self._prefix + point).digest())
        challenge = _challenge(
            self.public,
            point,
            gamma,
            crypto_scalarmult_ed25519_base_noclamp(nonce),
            crypto_scalarmult_ed25519_noclamp(nonce, point),
        )
        product = crypto_core_ed25519_scalar_mul(_as_scalar(challenge), self._scalar)
        return gamma + challenge + crypto_core_ed25519_scalar_add(nonce, product)


def is_vrf_key(public: bytes) -> bool:
    """Whether this can be a public key: 32 bytes, the one encoding of a point of the prime-order group."""
    return len(public) == VRF_KEY_BYTES and crypto_core_ed25519_is_valid_point(public)


def vrf_output(public: bytes, alpha: bytes, proof: bytes) -> bytes | None:
    """The 64 bytes that ``public`` has for ``alpha``, or None where key or proof is no good (RFC 9381, section 5.3)."""
    if not is_vrf_key(public) or len(proof) != VRF_PROOF_BYTES:
        return None
    gamma, challenge, s = proof[:_POINT], proof[_POINT : _POINT + _CHALLENGE], proof[_POINT + _CHALLENGE :]
    if int.from_bytes(s, "little") >= _ORDER or not crypto_core_ed25519_is_valid_point(gamma):
        return None
    point = _to_curve(public, alpha)
    if point is None or not any(s) or not any(challenge):  # libsodium multiplies by no zero; nobody can aim at one
        return None
    c = _as_scalar(challenge)
    u = crypto_core_ed25519_sub(crypto_scalarmult_ed25519_base_noclamp(s), crypto_scalarmult_ed25519_noclamp(c, public))
    v = crypto_core_ed25519_sub(
        crypto_scalarmult_ed25519_noclamp(s, point), crypto_scalarmult_ed25519_noclamp(c, gamma)
    )
    if _challenge(public, point, gamma, u, v) != challenge:
        return None
    return hashlib.sha512(_SUITE + _TO_OUTPUT + _eightfold(gamma) + _END).digest()


def _to_curve(public: bytes, alpha: bytes) -> bytes | None:
    """Try and increment (RFC 9381, section 5.4.1.1): H, a point of the prime-order group that depends on key and input.

    Of what RFC 8032 refuses, libsodium's addition refuses what is not on the curve. A coordinate that is not reduced is
    refused here; "minus zero" is a point of order 1 or 2, and eight times that is the identity, which is refused too.
    """
    begin = hashlib.sha512(_SUITE + _TO_CURVE + public + alpha)
    for counter in range(256):
        attempt = begin.copy()
        attempt.update(bytes([counter]) + _END)
        candidate = attempt.digest()[:_POINT]
        if int.from_bytes(candidate, "little") & (2**255 - 1) >= _FIELD:
            continue
        try:
            point = _eightfold(candidate)
        except SodiumError:
            continue
        if point != _IDENTITY_POINT:
            return point
    return None


def _eightfold(point: bytes) -> bytes:
    """8 times a point: what is of small order in it is gone. Raises SodiumError where it is not on the curve."""
    for _ in range(3):
        point = crypto_core_ed25519_add(point, point)
    return point


def _challenge(*points: bytes) -> bytes:
    """16 bytes of a hash of Y, H, Gamma, U, V (RFC 9381, section 5.4.3)."""
    return hashlib.sha512(_SUITE + _TO_CHALLENGE + b"".join(points) + _END).digest()[:_CHALLENGE]


def _as_scalar(challenge: bytes) -> bytes:
    return challenge + bytes(_POINT - _CHALLENGE)
