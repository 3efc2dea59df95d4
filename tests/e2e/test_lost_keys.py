"""Keys that are lost while a federation trains: real nodes, and the commands that bring their owners back."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hospitals import LISTEN, SPEC, Sites
from real_nodes import wait_until

from coterie.ledger import audit
from coterie.runtime.node.nursery import Nursery


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Sites]:
    """Hospitals A, B and C at work; two of three recovery keys can replace A, the founder."""
    nursery = Nursery()
    made = Sites(tmp_path, nursery)
    try:
        (tmp_path / "study.toml").write_text(SPEC)
        safes = [word for number in range(3) for word in ("--recovery", str(tmp_path / f"safe-{number}.pem"))]
        made.coterie("init", "a", str(tmp_path / "study.toml"), "--name", "Hospital A", "--part", "0", *safes, *LISTEN)
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


def test_recovery_keys_bring_the_founder_back(sites: Sites) -> None:
    folder = sites.folder
    old = sites.peer("a")
    for safe in folder.glob("safe-*.pem"):
        assert safe.stat().st_mode & 0o077 == 0
    sites.kill("a")
    shutil.rmtree(folder / "a")
    sites.coterie("expel", "b", "Hospital C", status=2)  # nobody else may

    (folder / "recover").write_text(sites.coterie("invite", "b", "--replaces", "Hospital A"))
    contact = f"127.0.0.1:{sites.status('b')['port']}"
    common = ["--name", "Hospital A", "--part", "0", "--contact", contact, "--yes", *LISTEN]
    sites.coterie("join", "wrong", str(folder / "recover"), *common[:6], status=2)
    told = sites.coterie("recover", "a2", str(folder / "recover"), "--recovery", str(folder / "safe-2.pem"), *common)
    (record,) = re.findall(r"countersign ([0-9a-f]{64})", told)
    wait_until("C has heard", lambda: record in sites.status("c")["pending"])
    assert sites.status("c")["founder"] == old
    sites.coterie("countersign", "c", record, status=2)  # C's own key is none of them
    sites.coterie("countersign", "c", record, "--recovery", str(folder / "safe-0.pem"))

    sites.start("a2")
    new = sites.peer("a2")
    for home in ("a2", "b", "c"):
        wait_until(f"{home} knows the founder", lambda home=home: sites.status(home)["founder"] == new)
    sites.training_together("a2", "b", "c")
    assert [member["name"] for member in sites.status("b")["members"]] == ["Hospital A", "Hospital B", "Hospital C"]

    sites.coterie("expel", "a2", "Hospital C", "--reason", "left")
    wait_until("B has heard", lambda: len(sites.status("b")["members"]) == 2)
    sites.kill("a2")  # started again, it goes on without C
    sites.start("a2")
    wait_until("A goes on", lambda: sites.status("a2")["state"] == "training")
    sites.kill("b")
    genesis = bytes.fromhex(sites.status("a2")["federation"])
    assert audit(folder / "b" / "ledger.sqlite", genesis).fault is None


def test_a_member_that_lost_its_key_goes_on_under_another(sites: Sites) -> None:
    folder, old = sites.folder, sites.peer("b")
    sites.kill("b")
    (folder / "b").rename(folder / "stolen")
    sites.join("a", "b2", "Hospital B", 1, "--replaces", "Hospital B")
    sites.start("b2")
    sites.training_together("a", "b2", "c")
    assert [member["name"] for member in sites.status("c")["members"]] == ["Hospital A", "Hospital B", "Hospital C"]
    assert sites.status("c")["expelled"][old].startswith("goes on as ")

    sites.start("stolen")  # whoever has the old key is refused everywhere
    wait_until("its owner is told", lambda: "may have been expelled or replaced" in sites.status("stolen")["why"])
    assert all(member["peer"] != old for member in sites.status("a")["members"])
    connected = [member for member in sites.status("stolen")["members"] if member["connected"]]
    assert not connected

    sites.kill("a")  # and everything is found again after a restart
    sites.start("a")
    wait_until("A goes on", lambda: sites.status("a")["state"] == "training")
    sites.training_together("a", "b2", "c")
