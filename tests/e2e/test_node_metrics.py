"""What a real node tells Prometheus, read by Prometheus' own parser and compared with what the node says elsewhere."""

from __future__ import annotations

import http.client
import json
import math
import re
import socket
import urllib.request
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from real_nodes import federation, wait_until

from coterie.identity import short_name
from coterie.ledger import LedgerStore


def scrape(port: int) -> tuple[dict[tuple[str, ...], float], str]:
    """Values by name and labels, and the whole text."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        text = answer.read().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.type != "unknown", family.name
        for sample in family.samples:
            found[sample.name, *sample.labels.values()] = sample.value
    return found, text


def raw(port: int, request: bytes) -> bytes:
    """What comes back until the node hangs up."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(request)
        content = b""
        while piece := connection.recv(1 << 16):
            content += piece
    return content


def test_a_node_tells_how_it_stands(tmp_path: Path) -> None:
    rounds = 3
    keys: dict[str, Any] = {"federation.peers": 2, "federation.rounds": rounds, "training.local_steps": 2}
    with federation(tmp_path, **keys) as made:
        first, second = made.nodes
        first.home.save(first.home.table.model_copy(update={"metrics": "127.0.0.1:0"}))
        made.start()
        port = made.status(first)["metrics_port"]
        assert made.status(second)["metrics_port"] is None
        made.wait_until_done()
        lines = first.home.path / "metrics.jsonl"
        found, text = wait_until(
            "the last round is evaluated",
            lambda: (told := scrape(port))[0].get(("coterie_evaluated_round",)) == rounds - 1 and told,
        )
        status = made.status(first)
        last = json.loads(lines.read_text().splitlines()[-1])
        assert (found["coterie_rounds_done",], found["coterie_rounds",]) == (rounds, rounds)
        assert {key[1]: value for key, value in found.items() if key[0] == "coterie_state"} == {
            state: float(state == "done")
            for state in ("waiting", "ready", "training", "done", "spare", "idle", "failed")
        }
        assert found["coterie_accuracy",] == last["accuracy"]
        assert found["coterie_loss",] == last["loss"]
        assert found["coterie_train_loss",] == last["train_loss"]
        assert 0 < last["bytes_sent"] <= found["coterie_sent_bytes_total",] <= status["bytes_sent"]
        assert 0 < found["coterie_received_bytes_total",] <= status["bytes_received"]
        assert (found["coterie_members",], found["coterie_connected_members",]) == (2, 1)
        assert found["coterie_member_connected", short_name(second.peer)] == 1
        assert ("coterie_member_connected", short_name(first.peer)) not in found
        assert 85 < found["coterie_certificate_days_left",] <= 91
        assert found["coterie_job_seconds_count", "fit"] == rounds
        assert 0 < found["coterie_job_seconds_sum", "fit"] < 600
        assert wait_until("a lag", lambda: scrape(port)[0]["coterie_event_loop_lag_seconds_count",] > 0)
        assert not any(math.isnan(value) for value in found.values())
        assert not re.search("[0-9a-f]{40}", text), "no key and no hash"
        assert "coterie_node_info" in text

        assert raw(port, b"POST /metrics HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 405 ")
        assert raw(port, b"GET /../key.pem HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 404 ")
        assert raw(port, b"GET /metrics HTTP/1.1\r\nX: " + 9000 * b"x" + b"\r\n\r\n") == b""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("HEAD", "/metrics")
        assert (connection.getresponse().status, connection.close()) == (200, None)
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
        wait_until("the idle ones are cut off", lambda: _answers(port))
        for one in idle:
            one.close()
        assert made.done(first)
    blocks = _height(first.home.path / "ledger.sqlite", first.home.table.federation, first.peer)
    assert found["coterie_ledger_blocks",] == blocks > 0


def _answers(port: int) -> bool:
    try:
        return bool(scrape(port)[0])
    except (OSError, http.client.HTTPException):
        return False


def _height(path: Path, genesis: str, peer: str) -> int:
    with LedgerStore(path, bytes.fromhex(genesis)) as store:
        return len(store.blocks(peer, 0))
