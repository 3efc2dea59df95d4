"""Members that leave a federation while it trains: real nodes, with the node running and without."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hospitals import LISTEN, SPEC, Sites
from real_nodes import wait_until
from typer.testing import CliRunner

from coterie.cli import app
from coterie.ledger import audit
from coterie.runtime.node.nursery import Nursery

MAIN = "from coterie.cli import main; main()"


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Sites]:
    """Hospitals A, B and C at work; there is no seat for a fourth."""
    nursery = Nursery()
    made = Sites(tmp_path, nursery)
    try:
        spec = tmp_path / "study.toml"
        spec.write_text(SPEC)
        made.coterie("init", "a", str(spec), "--name", "Hospital A", "--part", "0", "--seats", "3", *LISTEN)
        made.start("a")
        for number, home in ((1, "b"), (2, "c")):
            made.join("a", home, f"Hospital {home.upper()}", number)
            made.start(home)
        made.training_together("a", "b", "c")
        yield made
    finally:
        for node in made.running.values():
            node.kill()
        nursery.close()


def rounds(sites: Sites, home: str) -> int:
    return len((sites.folder / home / "metrics.jsonl").read_text().splitlines())


def test_members_leave_and_come_back(sites: Sites) -> None:
    folder = sites.folder
    peers = {home: sites.peer(home) for home in "abc"}
    genesis = bytes.fromhex(sites.status("a")["federation"])

    told = sites.coterie("leave", "c", "--yes")
    assert re.search("this peer has left: [12] of 2 members know", told), told  # one may hear it from the other
    gone = sites.running.pop("c")
    assert gone.wait(60) is not None  # its node has stopped by itself
    for home in "ab":
        wait_until(f"{home} knows", lambda home=home: peers["c"] in sites.status(home)["left"])
        assert [member["name"] for member in sites.status(home)["members"]] == ["Hospital A", "Hospital B"]
        assert sites.status(home)["expelled"] == {}
        log = sites.log(home)
        assert "Hospital C (" in log and "has left the federation" in log
        assert "ended: left" in log and "ended: expelled" not in log
    before = {home: rounds(sites, home) for home in "ab"}
    wait_until("the others go on", lambda: all(rounds(sites, home) > before[home] + 3 for home in "ab"))
    refused = CliRunner().invoke(app, ["node", "--home", str(folder / "c")])
    assert refused.exit_code == 2
    assert "this peer has left the federation" in refused.output
    assert audit(folder / "c" / "ledger.sqlite", genesis).fault is None

    # its seat is free, and its key may come back
    invitation = sites.coterie("invite", "a").strip()
    contact = ["--contact", f"127.0.0.1:{sites.status('a')['port']}"]
    again = ["--name", "Hospital C", "--part", "2", "--key", str(folder / "c" / "key.pem"), *contact, *LISTEN]
    sites.coterie("join", "c2", invitation, *again)
    sites.start("c2")
    sites.training_together("a", "b", "c2")
    assert sites.peer("c2") == peers["c"]
    assert sites.status("a")["left"] == []

    sites.kill("b")  # where no node runs, one is started for it
    words = ["federation", "leave", "--yes", "--home", str(folder / "b")]
    done = subprocess.run([sys.executable, "-c", MAIN, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "this peer has left: " in done.stdout
    for home in ("a", "c2"):
        wait_until(f"{home} knows", lambda home=home: peers["b"] in sites.status(home)["left"])

    # the founder too: the last member cannot
    answer = CliRunner().invoke(app, ["federation", "leave", "--home", str(folder / "a")], input="n\n")
    assert answer.exit_code == 1 and "This peer is the founder" in answer.output
    assert sites.status("a")["founder"] == peers["a"]
    sites.coterie("leave", "a", "--yes")
    sites.running.pop("a")
    wait_until("C knows", lambda: sites.status("c2")["founder"] is None)
    assert [member["name"] for member in sites.status("c2")["members"]] == ["Hospital C"]
    last = CliRunner().invoke(app, ["federation", "leave", "--yes", "--home", str(folder / "c2")])
    assert last.exit_code == 2 and "the only member" in last.output
    assert json.loads(sites.coterie("status", "c2", "--json"))["state"] == "training"
