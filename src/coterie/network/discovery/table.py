"""A libtorrent session that is nothing but a node of a Kademlia distributed hash table (BEP 5, BEP 44).

No torrents, no peers, no local discovery, no port mappings, no bootstrap nodes but those that are named. libtorrent
opens a TCP port beside the UDP port, of the same number; it drops every connection to it (no other setting is known),
so a node's own TCP port needs another number on the same interface.
"""

from __future__ import annotations

import hashlib
import logging
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from coterie.errors import CoterieError, NetworkError
from coterie.files import write_file
from coterie.network.addresses import Address
from coterie.network.extra import REMEDY

MOST_SAVED = 256
"""Nodes of IPv4, and as many of IPv6."""
_MOST_FILE_BYTES = 1 << 16
_log = logging.getLogger(__name__)


def libtorrent() -> Any:
    """The module. Raises NetworkError where it is not installed."""
    try:
        import libtorrent
    except ImportError:
        raise NetworkError(
            "the distributed hash table needs libtorrent, which is not installed",
            where="dht_listen",
            remedy=f"{REMEDY}, or name contacts instead of a table.",
        ) from None
    return libtorrent


def open_session(listen: Address, settings: dict[str, Any]) -> Any:
    """A session that listens. It takes some milliseconds: call it in a thread."""
    return libtorrent().session({"listen_interfaces": str(listen), **settings})


def settings_for(private_networks: bool, read_only: bool, upload_bytes_per_second: int) -> dict[str, Any]:
    """The settings of a node of the table.

    ``private_networks`` drops what protects a table on the internet from one who has few addresses: one node an IP
    address in a bucket and in a search (``dht_restrict_*``), node ids bound to the address (BEP 42), and the limit of
    queries an address. There, too, a node is dropped after its second silence instead of its twentieth: look-ups wait
    for the dead, and in a small table each of them is asked each time. ``read_only``: the node asks and is not asked
    (BEP 43), for one that cannot be reached.
    """
    category = libtorrent().alert.category_t
    alerts = category.dht_notification | category.dht_operation_notification
    alerts |= category.status_notification | category.error_notification
    guarded = not private_networks
    return {
        "alert_mask": int(alerts),
        "enable_dht": True,
        "dht_bootstrap_nodes": "",
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "enable_incoming_tcp": False,
        "enable_outgoing_tcp": False,
        "enable_incoming_utp": False,
        "enable_outgoing_utp": False,
        "max_retry_port_bind": 0,
        "listen_system_port_fallback": False,
        "dht_read_only": read_only,
        "dht_restrict_routing_ips": guarded,
        "dht_restrict_search_ips": guarded,
        "dht_ignore_dark_internet": guarded,
        "dht_prefer_verified_node_ids": guarded,
        "dht_block_ratelimit": 5 if guarded else 1000,
        "dht_max_fail_count": 20 if guarded else 2,
        "dht_upload_rate_limit": upload_bytes_per_second,
    }


def save_nodes(session: Any, path: Path) -> None:
    """Write the nodes of the routing table, ``host:port`` a line. A failure is logged.

    It waits for the session: call it in a thread. libtorrent's own state is not restored from Python (2.1), and bytes
    of its own form are better not read from a file; its node id is not kept.
    """
    lt = libtorrent()
    flags = lt.save_state_flags_t.save_dht_state
    state = lt.bdecode(lt.write_session_params_buf(session.session_state(flags), flags)).get(b"dht state", {})
    nodes = []
    for key, size in ((b"nodes", 4), (b"nodes6", 16)):
        for node in state.get(key, ())[:MOST_SAVED]:
            address = address_or_none((str(ip_address(node[:size])), int.from_bytes(node[size:], "big")))
            if address is not None:
                nodes.append(address)
    try:
        write_file(path, "".join(f"{node}\n" for node in nodes).encode(), mode=0o600)
    except OSError as error:
        _log.warning("%s: the routing table is not saved: %s", path, error.strerror or error)


def load_nodes(path: Path) -> list[Address]:
    """The nodes that were saved; a warning is logged where they cannot be read."""
    try:
        with path.open("rb") as file:
            lines = file.read(_MOST_FILE_BYTES).decode().splitlines()
        return [Address.parse(line) for line in lines[: 2 * MOST_SAVED]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, CoterieError) as error:
        _log.warning("%s: the routing table cannot be read and is begun anew: %s", path, error)
        return []


def signing_key(seed: bytes) -> bytes:
    """A seed as libtorrent wants it: expanded to 64 bytes (RFC 8032, section 5.1.5, steps 1 and 2)."""
    key = bytearray(hashlib.sha512(seed).digest())
    key[0] &= 248
    key[31] &= 63
    key[31] |= 64
    return bytes(key)


def address_or_none(endpoint: tuple[str, int]) -> Address | None:
    """An endpoint that came from elsewhere; None where nobody can be dialled there."""
    try:
        return Address.of(*endpoint)
    except CoterieError:
        return None
