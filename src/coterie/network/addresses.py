"""Addresses: ``host:port``, where somebody may be dialled. One spelling each, so that two are equal where they agree.

Most addresses are the word of a stranger. What never is an address to dial is refused here: no port, multicast,
unspecified and reserved IP addresses, an IPv6 zone, names that a resolver would read as numbers. Whether a private
address may be dialled on another's word is the reader's choice; ``public`` tells. A name may still resolve to anything.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from coterie.errors import NetworkError

MOST_CHARACTERS = 259
"""Of an address: a DNS name has at most 253 (RFC 1035, section 2.3.4), then a colon and five digits."""
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PORT = re.compile(r"[0-9]{1,5}")
_REMEDY = "Write host:port, such as hospital-a.example:7000, 192.0.2.7:7000 or [2001:db8::7]:7000."
_Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, order=True)
class Address:
    """Where to dial. Made by ``parse`` or ``of``, which check it. ``str`` gives ``host:port`` back."""

    host: str
    """A DNS name in lower case, or an IP address in its shortest form, without brackets."""
    port: int

    @classmethod
    def parse(cls, text: str, *, to_listen: bool = False) -> Address:
        """The address of ``host:port``; an IPv6 host stands in brackets (RFC 3986, section 3.2.2).

        ``to_listen``: an address of this machine to listen at; the port may be 0 and the host unspecified. Raises
        NetworkError.
        """
        if len(text) > MOST_CHARACTERS:
            raise NetworkError(f"an address of {len(text)} characters is too long", remedy=_REMEDY)
        host, colon, port = text.rpartition(":")
        if not colon or not _PORT.fullmatch(port):
            raise NetworkError(f"{text!r} does not end in a port", remedy=_REMEDY)
        if host.startswith("[") and host.endswith("]") and ":" in host:
            host = host[1:-1]
        elif ":" in host or "[" in host:
            raise NetworkError(f"the IPv6 address in {text!r} is not in brackets", remedy=_REMEDY)
        return cls.of(host, int(port), to_listen=to_listen)

    @classmethod
    def of(cls, host: str, port: int, *, to_listen: bool = False) -> Address:
        """The address of a host and a port from 1 to 65535. Raises NetworkError, as ``parse``."""
        if not (0 if to_listen else 1) <= port <= 65535:
            raise NetworkError(f"{port} is not a port", where=host, remedy="Ports go from 1 to 65535.")
        ip = _ip(host)
        if ip is None:
            name = host.lower()
            labels = name.split(".")
            if len(name) > 253 or not all(map(_LABEL.fullmatch, labels)) or _NUMBER.fullmatch(labels[-1]):
                raise NetworkError(f"{host!r} is neither a DNS name nor an IP address", remedy=_REMEDY)
            return cls(name, port)
        if _never_dialled(ip) and not (to_listen and ip.is_unspecified):
            raise NetworkError(f"nobody can be dialled at {ip}", remedy="Give an address of one machine.")
        return cls(str(ip), port)

    @property
    def unspecified(self) -> bool:
        """Whether it stands for all of a machine's addresses: one to listen at, and not to dial."""
        ip = _ip(self.host)
        return ip is not None and ip.is_unspecified

    @property
    def public(self) -> bool:
        """Whether it may lie on the internet at large: no loopback, private, link-local or other special range."""
        ip = _ip(self.host)
        if ip is None:
            return self.host != "localhost" and not self.host.endswith((".localhost", ".local"))
        return ip.is_global

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def is_address(text: str) -> bool:
    """Whether ``Address.parse`` takes it."""
    try:
        Address.parse(text)
    except NetworkError:
        return False
    return True


def _ip(host: str) -> _Ip | None:
    """The IP address that ``host`` spells, an IPv4 one where it is mapped into IPv6; None where it spells none."""
    if "%" in host:
        return None
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return mapped or ip


def _never_dialled(ip: _Ip) -> bool:
    reserved = isinstance(ip, ipaddress.IPv4Address) and ip.is_reserved  # in IPv6 that would take in ::1
    return ip.is_unspecified or ip.is_multicast or reserved
