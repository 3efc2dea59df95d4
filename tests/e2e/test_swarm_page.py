"""The page on swarm learning, as it is written: scripts run in processes of their own, commands in this one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from real_nodes import wait_until
from test_three_hospitals import coterie, free_port
from typer.testing import CliRunner

from coterie.cli import app
from fenced_blocks import CHECKOUT, blocks

PAGE = CHECKOUT / "docs" / "swarm.md"
PORT = re.compile(r"\b7[45]0[01]\b")


@pytest.fixture
def scripts() -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    running: dict[str, subprocess.Popen[bytes]] = {}
    yield running
    for process in running.values():
        if process.poll() is None:
            process.kill()
        process.wait()


def members(home: str) -> int:
    done = CliRunner().invoke(app, ["federation", "status", "--home", home, "--json"])
    return len(json.loads(done.stdout)["members"]) if done.exit_code == 0 else 0


def test_the_page_runs_as_it_is_written(tmp_path, monkeypatch, scripts):
    monkeypatch.chdir(tmp_path)
    ports: dict[str, int] = {}
    printed: dict[str, str] = {}
    for block in blocks(PAGE):
        if block.file:
            Path(block.file).write_text(block.text)
            continue
        for written in block.commands:
            words = [PORT.sub(lambda m: str(ports.setdefault(m[0], free_port())), word) for word in written]
            settings = dict(word.split("=", 1) for word in words if re.fullmatch(r"[A-Z_]+=.*", word))
            words = words[len(settings) :]
            if words[0] == "python":
                home = settings["COTERIE_HOME"]
                with Path(f"{home}.log").open("wb") as log:
                    scripts[home] = subprocess.Popen(
                        [sys.executable, *words[1:]], stdout=log, stderr=log, env=os.environ | settings
                    )
                wait_until(f"{home} answers", lambda home=home: members(home) or scripts[home].poll() is not None)
            elif ">" in words:
                at = words.index(">")
                Path(words[at + 1]).write_text(coterie(words[1:at]))
            else:
                printed[words[1] if words[1] != "federation" else words[2]] = coterie(words[1:])
    for home, process in scripts.items():
        assert process.wait(120) == 0, Path(f"{home}.log").read_text()
    assert "waits for sites: 1 of at least 3 (minPeers)" in Path("a.log").read_text()
    assert "Hospital B" in printed["status"]
    assert "never sent" in printed["node"]
    models = [torch.load(f"model-{number}.pt") for number in range(3)]
    assert all(torch.equal(models[0][name], model[name]) for model in models for name in models[0])
    for home in "abc":
        found = re.search(r"accuracy (0\.\d+)", Path(f"{home}.log").read_text())
        assert found is not None
        assert float(found[1]) > 0.85
        assert Path(home, "key.pem").stat().st_mode & 0o077 == 0
