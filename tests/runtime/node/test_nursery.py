"""Processes that start nodes, and what they say of those that have ended."""

from __future__ import annotations

import subprocess
import sys

from coterie.runtime.node.nursery import ForkedNode


def test_a_node_that_has_ended_before_it_is_looked_at_has_ended() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    node = ForkedNode(ended.pid)
    assert node.poll() == -1
    assert node.wait(0) == -1
    node.kill()
