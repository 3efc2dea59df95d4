"""The setting of a node's metrics: off by default, loopback unless another host is named, and its package."""

from __future__ import annotations

import subprocess
import sys

import pytest

from coterie._node_options import metrics_address
from coterie.errors import SpecError
from coterie.runtime.node.home import NodeTable

ABSENT = """
import sys
sys.modules["prometheus_client"] = None
from coterie.errors import NodeError
from coterie.runtime.node import daemon
try:
    daemon.MetricsPort(None, "127.0.0.1:0")
except NodeError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (None, None),
        ("9464", "127.0.0.1:9464"),
        ("10.0.0.5:9464", "10.0.0.5:9464"),
        ("0.0.0.0:9464", "0.0.0.0:9464"),
        ("[::1]:9464", "[::1]:9464"),
    ],
)
def test_it_is_off_or_on_loopback_unless_said(text: str | None, address: str | None) -> None:
    assert NodeTable(metrics=text).metrics == address
    assert metrics_address(text) == address


@pytest.mark.parametrize("text", ["", "here", "70000", "a b:1", "host:"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="metrics"):
        metrics_address(text)


def test_an_absent_package_is_one_sentence() -> None:
    done = subprocess.run([sys.executable, "-c", ABSENT], capture_output=True, text=True, timeout=120)
    wanted = "metrics: prometheus_client is not installed. pip install 'coterie[prometheus]'\n"
    assert done.stdout == wanted, done.stderr
