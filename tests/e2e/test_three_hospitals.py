"""The page for hospitals, as it is written: nodes run in processes of their own, commands in this one."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from real_nodes import wait_until
from typer.testing import CliRunner

from coterie.cli import app
from coterie.runtime.run import load
from fenced_blocks import CHECKOUT, blocks

PAGE = CHECKOUT / "docs" / "three-hospitals.md"
PORT = re.compile(r"\b7[45]0[01]\b")


@pytest.fixture
def nodes() -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    running: dict[str, subprocess.Popen[bytes]] = {}
    yield running
    for process in running.values():
        process.send_signal(signal.SIGTERM)
    for process in running.values():
        process.wait(30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def coterie(words: list[str], status: int = 0) -> str:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == status, f"{words}: {done.output}"
    return done.stdout


def status(home: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["federation", "status", "--home", home, "--json"])
    found = json.loads(done.stdout) if done.exit_code == 0 else {"state": "", "expelled": {}}
    assert found["state"] != "failed", found["why"]
    return found


def state(home: str) -> str:
    return str(status(home)["state"])


def test_the_page_runs_as_it_is_written(tmp_path, monkeypatch, nodes):
    monkeypatch.chdir(tmp_path)
    ports: dict[str, int] = {}
    printed: dict[str, str] = {}
    for block in blocks(PAGE):
        if block.language == "text":
            continue  # what to do about lost keys: test_lost_keys runs that
        if block.file:
            Path(block.file).write_text(block.text)
            continue
        for written in block.commands:
            words = [PORT.sub(lambda m: str(ports.setdefault(m[0], free_port())), word) for word in written]
            if words[0] == "python":
                subprocess.run([sys.executable, *words[1:]], check=True)
            elif words[:2] == ["coterie", "node"] and "--dry-run" not in words:
                home = words[3]
                with Path(f"{home}.log").open("wb") as log:
                    code = "from coterie.cli import main; main()"
                    nodes[home] = subprocess.Popen([sys.executable, "-c", code, *words[1:]], stdout=log, stderr=log)
                wait_until(f"{home} answers: {Path(f'{home}.log').read_text()}", lambda home=home: state(home))
            elif ">" in words:
                at = words.index(">")
                Path(words[at + 1]).write_text(coterie(words[1:at]))
            else:
                if words[2] == "status":
                    for home in nodes:
                        wait_until(f"{home} is done", lambda home=home: state(home) == "done")
                if words[2] == "leave":
                    wait_until("B knows that C is expelled", lambda: status("b")["expelled"])
                if words[1] == "audit":
                    wait_until(
                        "C is cut off", lambda: "expelled" in Path("a.log").read_text() + Path("c.log").read_text()
                    )
                    nodes.pop("a").send_signal(signal.SIGTERM)
                    wait_until("A has stopped", lambda: "stopped" in Path("a.log").read_text())
                genesis = (
                    re.search(r'federation = "(\w+)"', Path("a/node.toml").read_text()) if words[-1][0] == "$" else None
                )
                words = [genesis[1] if genesis and word[0] == "$" else word for word in words]
                printed[words[1] if words[1] != "federation" else words[2]] = coterie(words[1:])
    assert "never sent" in printed["node"]
    assert Path("safe.pem").stat().st_mode & 0o077 == 0
    assert "Hospital A" in printed["status"]
    assert "is expelled" in printed["expel"]
    assert "this peer has left: 1 of 1 members know" in printed["leave"]
    assert nodes["b"].wait(30) == 0
    assert "is sound" in printed["audit"]
    for home in "abc":
        assert json.loads(Path(home, "result.json").read_text())["accuracy"]["mean"] > 0.85
        assert sum(parameter.numel() for parameter in load(home).parameters()) == 30 * 16 + 16 + 16 * 2 + 2
        assert Path(home, "key.pem").stat().st_mode & 0o077 == 0
