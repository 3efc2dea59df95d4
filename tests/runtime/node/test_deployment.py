"""The unit for systemd leaves a node what it needs."""

from __future__ import annotations

from pathlib import Path

UNIT = Path(__file__).parents[3] / "deploy" / "coterie-node.service"


def test_the_unit_allows_every_kind_of_socket_that_a_node_opens() -> None:
    """libtorrent listens nowhere unless netlink tells it this machine's addresses."""
    (line,) = [line for line in UNIT.read_text().splitlines() if line.startswith("RestrictAddressFamilies=")]
    assert set(line.partition("=")[2].split()) == {"AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK"}
