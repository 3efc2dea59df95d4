"""Who may connect: an immutable picture of the members and their transport certificates, swapped as a whole.

A transport asks it from gRPC's own threads while the event loop puts a newer one in its place; as nothing in it ever
changes, that needs no lock. A peer is found by the exact fingerprint of the certificate that TLS has proved, never by a
name. A peer has several certificates while one takes another's place.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from coterie.errors import IdentityError
from coterie.identity import Certificate, PeerId

GENESIS_BYTES = 32


@dataclass(frozen=True)
class Members:
    """The members of one federation. Make one with ``of``, which checks every certificate."""

    genesis: bytes
    """The federation: the hash of its first record, 32 bytes."""
    certificates: Mapping[PeerId, tuple[Certificate, ...]]
    left: frozenset[PeerId] = frozenset()
    """Those who have left by themselves: it is said so where their streams are cut."""
    _holders: Mapping[bytes, PeerId] = field(init=False, repr=False, compare=False)
    _roots: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        held = [certificate for several in self.certificates.values() for certificate in several]
        holders = {certificate.fingerprint: certificate.peer for certificate in held}
        roots = "".join(ssl.DER_cert_to_PEM_cert(certificate.der) for certificate in held).encode()
        object.__setattr__(self, "_holders", MappingProxyType(holders))
        object.__setattr__(self, "_roots", roots)

    @classmethod
    def of(cls, genesis: bytes, certificates: Iterable[Certificate], left: Iterable[PeerId] = ()) -> Members:
        """The members that hold these certificates. Raises IdentityError for one that its peer has not signed."""
        if len(genesis) != GENESIS_BYTES:
            raise IdentityError(
                f"a federation is named by {GENESIS_BYTES} bytes, not {len(genesis)}",
                where="members",
                remedy="Give the SHA-256 hash of its genesis record.",
            )
        held: dict[PeerId, tuple[Certificate, ...]] = {}
        for certificate in certificates:
            certificate.check()
            held[certificate.peer] = (*held.get(certificate.peer, ()), certificate)
        return cls(bytes(genesis), MappingProxyType(held), frozenset(left))

    def holder(self, fingerprint: bytes) -> PeerId | None:
        """Whose certificate has this SHA-256 fingerprint; None if nobody's."""
        return self._holders.get(fingerprint)

    def of_peer(self, peer: PeerId) -> tuple[Certificate, ...]:
        """The certificates of a peer; none if it is no member."""
        return self.certificates.get(peer, ())

    @property
    def roots(self) -> bytes:
        """All certificates, as PEM: what a TLS server lets in."""
        return self._roots

    def __contains__(self, peer: object) -> bool:
        return peer in self.certificates
