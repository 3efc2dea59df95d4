"""Whose address is this? A TLS handshake that ends once the other end has shown its certificate.

Threat model: whoever is dialled learns this node's network address, and that it speaks this protocol; nothing else is
sent. A certificate alone proves little: the transport dials again, with both sides' certificates, before it believes.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl

from coterie.identity import PeerId
from coterie.network.discovery import Address
from coterie.network.members import Members

_SECONDS = 5.0


async def owner_of(address: Address, members: Members) -> PeerId | None:
    """The member whose certificate is shown at ``address``; None for nobody, or for one that is no member."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(_SECONDS):
            _, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True) or b""
        return members.holder(hashlib.sha256(shown).digest())
    except (OSError, TimeoutError, ssl.SSLError):
        return None
    finally:
        if writer is not None:
            writer.transport.abort()
