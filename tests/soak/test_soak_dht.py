"""Whole nodes that find each other through the Kademlia table, knowing one contact of it and no member's address."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path

import pytest
from grown import LOOPBACK, grown, status
from real_nodes import kill, wait_until

from coterie.runtime.node.processes import NodeProcess

pytestmark = pytest.mark.soak

PORTS = {"listen": "port", "dht_listen": "dht_port"}
"""What the table of a node calls where it listens, and what its status does."""


def finds(node: NodeProcess, others: Collection[NodeProcess]) -> bool:
    """Whether it has a stream with each of the others, and knows where each of them can be dialled."""
    members = {member["peer"]: member for member in status(node).get("members", ())}
    found = [members.get(other.peer, {}) for other in others if other is not node]
    return all(member.get("connected") and member.get("address") for member in found)


def seconds_until(nodes: Collection[NodeProcess], others: Collection[NodeProcess], began: float, what: str) -> float:
    wait_until(what, lambda: all(finds(node, others) for node in nodes))
    return time.monotonic() - began


def in_table(node: NodeProcess) -> str:
    """Its address in the Kademlia table, which it opens after it answers its owner."""
    return f"127.0.0.1:{wait_until('it is in the table', lambda: status(node).get('dht_port'))}"


def test_find_each_other_and_a_newcomer(tmp_path: Path, row: Callable[[str, object], None]) -> None:
    """The times begin when processes are started, with their imports done."""
    row("what", "six nodes meet through the DHT; its contact dies; a newcomer")
    with grown(tmp_path, peers=7, rounds=10, dht_listen=LOOPBACK) as made:
        contact = made.nodes[0]
        made.start(contact)
        bootstrap = in_table(contact)
        ports = {key: f"127.0.0.1:{status(contact)[port]}" for key, port in PORTS.items()}
        contact.home.save(contact.home.table.model_copy(update=ports))  # for the day it comes back
        for _ in range(5):
            made.admit(contact, join=LOOPBACK, dht_listen=LOOPBACK, dht=[bootstrap])
        began = time.monotonic()
        made.start(*made.nodes[1:])
        met = seconds_until(made.nodes, made.nodes, began, "all find all")

        kill(contact)
        living = made.nodes[1:]
        newcomer = made.admit(living[0], dht_listen=LOOPBACK, dht=[bootstrap, in_table(living[1])])
        began = time.monotonic()
        made.start(newcomer)
        found = seconds_until(living, [newcomer], began, "all find the newcomer")
        finding = seconds_until([newcomer], living, began, "the newcomer finds all")
        row("notes", f"all find all {met:.1f} s; found by all {found:.1f} s, finds all {finding:.1f} s")

        made.start(contact)
        wait_until("all are done", lambda: all(status(node).get("state") == "done" for node in made.nodes))
    assert met < 10
