"""Addresses: ``host:port``, and nothing else that a library might take for one, such as a file or a URL."""

from __future__ import annotations

import ipaddress
import re

from coterie.errors import SpecError

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9._-]{1,253}):([0-9]{1,5})")
_MOST_PORT = 65535


def check_address(address: str, where: str) -> str:
    """The address, if it is a name, an IPv4 address or an IPv6 address in brackets, and a port. Raises SpecError."""
    found = _ADDRESS.fullmatch(address)
    wrong = found is None or int(found[2]) > _MOST_PORT or (found[1][0] == "[" and not is_ip(found[1][1:-1]))
    if wrong:
        raise SpecError(f"{address!r} is not an address", where=where, remedy="Give host:port, as in 10.0.0.7:7400.")
    return address


def split_address(address: str, where: str) -> tuple[str, int]:
    """Host, without brackets, and port. Raises SpecError."""
    host, _, port = check_address(address, where).rpartition(":")
    return host.strip("[]"), int(port)


def is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
