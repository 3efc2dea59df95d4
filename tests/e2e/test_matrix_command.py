"""``coterie matrix`` as its users meet it: killed and interrupted in the middle, and gone on with."""

import json
import os
import signal
from pathlib import Path

import pytest
from processes import COTERIE, alive, run, started, until

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
SPEC = """
[federation]
name = "study"
peers = 5
rounds = 30
seed = 1
[data]
dataset = "digits"
root = 20
[model]
name = "softmax"
[matrix]
rules = ["metropolis", "clip_and_trust"]
attacks = ["none", "label_flip"]
splits = [{ partition = "iid" }, { partition = "dirichlet", alpha = 0.5 }]
references = ["oracle", "root_only"]
"""
RUNS = 12


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "study.toml").write_text(SPEC)
    return tmp_path


def figures(record):
    """All but how long it took."""
    panels = [panel | {"cells": [cell | {"seconds": None} for cell in panel["cells"]]} for panel in record["panels"]]
    return record | {"panels": panels, "seconds": None, "out": None}


def runs_done(path):
    """How many runs the file tells of; its first line says what the matrix is."""
    return path.read_bytes().count(b"\n") - 1 if path.exists() else 0


def test_a_killed_matrix_goes_on_to_the_same_figures(folder):
    whole = run(folder, "matrix", "study.toml", "--out", "whole", "--jobs", "2", "--json")
    assert whole.status == 0, whole.err
    expected = json.loads(whole.out)
    assert expected["runs"] == RUNS
    journal = folder / "out/cells.jsonl"
    with started([*COTERIE, "matrix", "study.toml", "--out", "out", "--jobs", "2"], folder) as running:
        until(lambda: runs_done(journal) >= 2, "runs")
        workers = running.children
        os.kill(running.process.pid, signal.SIGKILL)
        running.end()
        until(lambda: not any(map(alive, workers)), "end of the processes", 30)
    assert 2 <= runs_done(journal) < RUNS
    assert not (folder / "out/matrix.json").exists()
    kept = journal.read_bytes()
    with journal.open("ab") as stream:
        stream.write(b'{"key": "half a li')
    done = run(folder, "matrix", "study.toml", "--out", "out", "--jobs", "1", "--json")
    assert done.status == 0, done.err
    assert journal.read_bytes().startswith(kept)
    assert runs_done(journal) == RUNS
    assert figures(json.loads(done.out)) == figures(expected)
    assert (folder / "out/matrix.md").read_bytes() == (folder / "whole/matrix.md").read_bytes()
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        "cells.jsonl",
        "matrix.json",
        "matrix.md",
        "matrix.png",
    ]


def test_ctrl_c_says_how_to_go_on(folder):
    with started([*COTERIE, "matrix", "study.toml", "--jobs", "2", "--json"], folder) as running:
        until(lambda: runs_done(folder / "runs/study-matrix/cells.jsonl") >= 1, "runs")
        workers = running.children
        running.interrupt()
        done = running.end(30)
    assert done.status == 130
    assert "--out runs/study-matrix" in done.err
    assert "Traceback" not in done.err
    assert json.loads(done.out)["error"]["code"] == "interrupted"
    until(lambda: not any(map(alive, workers)), "end of the processes", 30)
