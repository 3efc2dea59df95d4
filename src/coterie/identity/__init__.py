"""Who is who: a peer's key, its short name, and the transport certificate that is bound to it."""

from coterie.identity.certificates import Certificate, TransportKey
from coterie.identity.keys import Identity, PeerId, is_peer_id, verify
from coterie.identity.names import short_name

__all__ = ["Certificate", "Identity", "PeerId", "TransportKey", "is_peer_id", "short_name", "verify"]
