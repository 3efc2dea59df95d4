"""Where in a distributed hash table a federation meets, and how its records look to those who store them.

Everything is derived from the federation's genesis hash by HKDF-SHA256 (RFC 5869). Who sees what:

- Whoever knows the genesis hash - every member, everybody with an invitation or a ledger - can look up the members'
  addresses and read their records. It is no secret of one person; treat it as known to all who were ever asked to join.
- A node of the table that stores an announcement, or is asked on the way, sees the info-hash and the IP addresses of
  those who announce and ask, and that they belong together; it can then ask for the same hash itself. It learns neither
  the genesis hash nor the federation's name or any peer id, and cannot open the records.
- Whoever runs nodes near the info-hash can leave answers out or make addresses up. It cannot make a record.
- By default the table is the members' own; on a public one (the mainline DHT) those nodes are anybody.

An outbound-only site announces nothing, but its look-ups show its IP address to the nodes it asks.
"""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from coterie.errors import MessageError, NetworkError

GENESIS_BYTES = 32
SEAL_BYTES = SecretBox.NONCE_SIZE + SecretBox.MACBYTES
"""By how much a sealed record is longer: 40 bytes."""


class Rendezvous:
    """What follows from a genesis hash of 32 bytes. Raises NetworkError for another length."""

    def __init__(self, genesis: bytes) -> None:
        if len(genesis) != GENESIS_BYTES:
            raise NetworkError(f"a genesis hash of {len(genesis)} bytes", remedy=f"It has {GENESIS_BYTES}.")
        self.genesis = genesis
        self.info_hash = self._derive(b"info-hash", 20)
        """20 bytes, under which members announce themselves (BEP 5)."""
        self._box = SecretBox(self._derive(b"record", SecretBox.KEY_SIZE))

    def salt(self, dht_key: bytes) -> bytes:
        """16 bytes: the salt of a peer's record (BEP 44). One for each peer: a common one would link the records."""
        return self._derive(b"salt" + dht_key, 16)

    def seal(self, record: bytes) -> bytes:
        """The record as it is stored: encrypted and authenticated (XSalsa20-Poly1305) under a key of the federation."""
        return bytes(self._box.encrypt(record))

    def open(self, sealed: bytes) -> bytes:
        """The inverse of ``seal``. Raises MessageError for what was not sealed in this federation."""
        try:
            return self._box.decrypt(sealed)
        except (CryptoError, ValueError):
            raise MessageError("a record in the table was not sealed by this federation") from None

    def _derive(self, what: bytes, length: int) -> bytes:
        return HKDF(hashes.SHA256(), length, salt=None, info=b"coterie rendezvous " + what).derive(self.genesis)
