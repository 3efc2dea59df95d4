"""Who is who: a peer's key, its short name, the transport certificate bound to it, and its verifiable randomness."""

from coterie.identity.certificates import Certificate, TransportKey
from coterie.identity.keys import Identity, PeerId, is_peer_id, verify
from coterie.identity.names import short_name
from coterie.identity.vrf import VrfKey, is_vrf_key, vrf_output

__all__ = [
    "Certificate",
    "Identity",
    "PeerId",
    "TransportKey",
    "VrfKey",
    "is_peer_id",
    "is_vrf_key",
    "short_name",
    "verify",
    "vrf_output",
]
