"""Transport certificates: a self-signed ECDSA P-256 certificate, bound to a peer's Ed25519 identity by its signature.

TLS needs a key type that every TLS library takes; the identity key itself never touches a handshake. The certificate is
CA:FALSE, with no right to sign others: a member could otherwise mint one in another's name. What counts is its exact
SHA-256 fingerprint, which the identity has signed; names in it mean nothing. A new one may be made at any time.

Threat model: certificates come from peers who may be hostile, and all of them end up in one list of trust roots. So
exactly one form is taken: but for key, serial number and dates, the bytes are those that ``TransportKey.new`` writes.
Nothing is left that one parser reads otherwise than the next, such as an odd encoding that ends a TLS library's reading
of the list and shuts out everybody behind it. Dates are not compared with a clock here; each TLS handshake does that.
"""

from __future__ import annotations

import datetime
import hashlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from coterie.errors import IdentityError
from coterie.identity.keys import Identity, PeerId, verify

VALID_DAYS = 90
"""How long a certificate is good; a node makes a new one well before."""
_SKEW = datetime.timedelta(hours=1)
"""Clocks may differ by so much."""
_PURPOSE = "transport certificate"
_MOST_BYTES = 4096


@dataclass(frozen=True)
class Certificate:
    """A certificate as others know it: its DER bytes, and the ``peer``'s signature over its fingerprint and end."""

    peer: PeerId
    der: bytes
    signature: bytes

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the DER bytes."""
        return hashlib.sha256(self.der).digest()

    @property
    def pem(self) -> bytes:
        return x509.load_der_x509_certificate(self.der).public_bytes(serialization.Encoding.PEM)

    @property
    def name(self) -> str:
        """The DNS name in it, which a TLS client checks: the beginning of the peer id."""
        return tls_name(self.peer)

    @property
    def ends(self) -> datetime.datetime:
        return x509.load_der_x509_certificate(self.der).not_valid_after_utc

    def check(self) -> None:
        """Raise IdentityError unless the peer has signed it, it names the peer, and it is CA:FALSE and of P-256."""
        fault = self._fault()
        if fault:
            raise IdentityError(fault, where=f"certificate of {self.peer[:12]}", remedy="Ask the peer for a new one.")

    def _fault(self) -> str:
        if len(self.der) > _MOST_BYTES or not verify(self.peer, _PURPOSE, self.fingerprint, self.signature):
            return "the peer's key has not signed it"
        try:
            found = x509.load_der_x509_certificate(self.der)
            key = found.public_key()
            if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
                return "its key is not of P-256"
            dates = found.not_valid_before_utc, found.not_valid_after_utc
            if _form(self.peer, key, found.serial_number, *dates) != found.tbs_certificate_bytes:
                return "it could sign other certificates, is made out to another name, or has some other form"
            if not self.der.endswith(b"\0" + found.signature):  # X.690, 8.6.2: no unused bits at the end
                return "its signature has some other form"
            found.verify_directly_issued_by(found)
        except InvalidSignature:
            return "another key than its own has signed it"
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
            return "it is not a certificate of the right form"
        return ""


@dataclass(frozen=True)
class TransportKey:
    """A certificate with its private key, as a TLS end needs them. The key lives in memory only."""

    certificate: Certificate
    key_pem: bytes

    @classmethod
    def new(cls, identity: Identity, days: float = VALID_DAYS) -> TransportKey:
        """A fresh key pair and a certificate for it, good for ``days`` from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, tls_name(identity.id))])
        der = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_signs_handshakes_only(), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(tls_name(identity.id))]), critical=False)
            .sign(key, hashes.SHA256())
            .public_bytes(serialization.Encoding.DER)
        )
        signature = identity.sign(_PURPOSE, hashlib.sha256(der).digest())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return cls(Certificate(identity.id, der, signature), pem)

    def __repr__(self) -> str:
        return f"TransportKey({self.certificate.peer[:12]})"


def tls_name(peer: PeerId) -> str:
    """The name a peer's certificates bear; a DNS label may have 63 characters."""
    return f"{peer[:40]}.coterie.invalid"


def _form(
    peer: PeerId, key: ec.EllipticCurvePublicKey, serial: int, starts: datetime.datetime, ends: datetime.datetime
) -> bytes:
    """What a transport certificate's own key must have signed, in DER (RFC 5280, section 4.1): the one form taken."""
    if not 0 < serial < 1 << 159:
        raise ValueError("no serial number")
    tls = tls_name(peer).encode()
    name = _der(0x30, _der(0x31, _der(0x30, _COMMON_NAME, _der(0x0C, tls))))
    point = key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    alternative = _der(0x30, _SUBJECT_ALTERNATIVE, _der(0x04, _der(0x30, _der(0x82, tls))))
    return _der(
        0x30,
        _VERSION_3,
        _der(0x02, serial.to_bytes(serial.bit_length() // 8 + 1, "big")),
        _ECDSA_WITH_SHA256,
        name,
        _der(0x30, _time(starts), _time(ends)),
        name,
        _der(0x30, _P256, _der(0x03, b"\0", point)),
        _der(0xA3, _der(0x30, _CA_FALSE, _SIGNS_HANDSHAKES, _SERVER_AND_CLIENT, alternative)),
    )


def _der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    if len(content) < 0x80:
        return bytes((tag, len(content))) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def _time(when: datetime.datetime) -> bytes:
    if 1950 <= when.year < 2050:
        return _der(0x17, when.strftime("%y%m%d%H%M%SZ").encode())
    return _der(0x18, f"{when.year:04d}{when:%m%d%H%M%S}Z".encode())


_VERSION_3 = bytes.fromhex("a003020102")
_ECDSA_WITH_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
_P256 = bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107")
_COMMON_NAME = bytes.fromhex("0603550403")
_SUBJECT_ALTERNATIVE = bytes.fromhex("0603551d11")
_CA_FALSE = bytes.fromhex("300c0603551d130101ff04023000")
_SIGNS_HANDSHAKES = bytes.fromhex("300e0603551d0f0101ff040403020780")
_SERVER_AND_CLIENT = bytes.fromhex("301d0603551d250416301406082b0601050507030106082b06010505070302")


def _signs_handshakes_only() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
