"""Papers run again: the index, the table and its verdicts, and that Papaya's specs are what was published."""

from __future__ import annotations

import json
import os
import statistics
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coterie.cli import app
from coterie.errors import DataError, SpecError
from coterie.runtime import papers, reproduce
from coterie.runtime.reproduce import Measured

NEEDS_MNIST = pytest.mark.skipif(not os.environ.get("COTERIE_DATA"), reason="COTERIE_DATA names no folder with MNIST")
INDEX = """
title = "A | paper"
source = "nowhere"
measure = "accuracy"
[quick]
sets = ["federation.rounds=2"]
theirs = ["federation.peers=2"]
ours = []
margin = 0.01
floor = {floor}
[[row]]
name = "small"
spec = "small"
published = {published}
note = "a note"
[[missing]]
name = "large"
published = 0.5
reason = "It is too large."
"""
THEIRS = """
[federation]
peers = 3
rounds = 4
seed = 4
[training]
local_epochs = 2
[aggregation]
rule = "mean"
[evaluation]
every = 4
"""
OURS = """
[federation]
peers = 3
rounds = 8
seed = [1, 2, 3]
[training]
local_steps = 5
batch_size = 10
[evaluation]
every = 8
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder of papers that holds one of the test's own."""
    monkeypatch.chdir(tmp_path)

    def put(published=0.2, floor=0.2):
        folder = tmp_path / "papers/tiny"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "paper.toml").write_text(INDEX.format(published=published, floor=floor))
        (folder / "small.toml").write_text(THEIRS)
        (folder / "small_ours.toml").write_text(OURS)
        return tmp_path / "papers"

    monkeypatch.setattr(papers, "_PACKAGE", tmp_path)
    put()
    return put


def call(*words):
    return CliRunner().invoke(app, ["reproduce", *words])


def test_the_table_holds_what_the_runs_came_to(home):
    done = call("tiny", "--json")
    assert done.exit_code == 0, done.stderr
    record = json.loads(done.stdout)
    assert json.loads(Path("runs/tiny/tiny.json").read_text()) == record
    (row,) = record["rows"]
    assert (row["verdict"], record["reached"], record["quick"]) == ("reached", True, False)
    runs = [json.loads(Path(f"runs/tiny/small_ours/seed-{seed}/result.json").read_text()) for seed in (1, 2, 3)]
    means = [run["accuracy"]["mean"] for run in runs]
    ours, theirs = row["ours"], row["theirs"]
    assert ours["mean"] == pytest.approx(statistics.fmean(means))
    assert ours["std"] == pytest.approx(statistics.stdev(means))
    assert ours["worst"] == pytest.approx(statistics.fmean(run["accuracy"]["min"] for run in runs))
    assert ours["bytes_sent"] == pytest.approx(statistics.fmean(run["bytes_sent"] for run in runs) / 3)
    assert ours["samples"] == 8 * 5 * 10
    single = json.loads(Path("runs/tiny/small/result.json").read_text())
    assert (theirs["seeds"], theirs["std"], theirs["rule"]) == ([4], None, "mean")
    assert theirs["mean"] == single["accuracy"]["mean"]
    # 1797 digits, of which 359 are for the test; a tenth of each peer's part is held out
    assert theirs["samples"] == pytest.approx(4 * 2 * 0.9 * (1797 - 359) / 3, abs=6)


def test_the_files_for_people(home):
    assert call("tiny", "--seed", "5", "--out", "there").exit_code == 0
    text = Path("there/tiny.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1
    assert "| small | 0.2000 |" in rows[2]
    assert "Not run: large, published 0.5000. It is too large." in text
    assert "small: a note" in text
    assert Path("there/tiny.png").read_bytes().startswith(b"\x89PNG")
    assert Path("there/small_ours/report.html").is_file()
    again = call("tiny", "--out", "there")
    assert again.exit_code == 2
    assert "never overwrites" in again.stderr


@pytest.mark.parametrize("means", [(0.0, 1.0), (0.5, 0.5), (0.91, 0.97)])
@pytest.mark.parametrize("quick", [False, True])
def test_the_plot_takes_any_share(home, means, quick):
    paper = papers.find("tiny")
    sides = (Measured(mean, 0.1, mean, "mean", (1, 2), 1, 1.0, 1.0, "") for mean in means)
    row = reproduce._compare(paper, paper.index.row[0], *sides, quick=quick)
    found = reproduce.Reproduction(paper, quick, (row,), 1.0, Path())
    assert reproduce.plot(found).startswith(b"\x89PNG")


def test_a_figure_not_reached_ends_with_status_1(home):
    home(published=0.9999)
    done = call("tiny", "--seed", "1")
    assert done.exit_code == 1
    assert "below the published figure" in done.stdout
    assert "1 of 1 results were not reached: small" in done.stderr
    quick = call("tiny", "--quick", "--json")
    record = json.loads(quick.stdout)
    assert record["quick"]
    assert record["rows"][0]["ours"]["seeds"] == [1], "the first of three"
    assert record["rows"][0]["verdict"].startswith(("quick", "did not learn"))
    assert quick.exit_code == (0 if record["reached"] else 1)


@pytest.mark.parametrize(
    ("theirs", "ours", "reached", "verdict"),
    [
        (0.5, 0.6, True, "quick: no worse than theirs"),
        (0.5, 0.4901, True, "quick: no worse than theirs"),
        (0.5, 0.48, False, "quick: worse than theirs"),
        (0.1, 0.19, False, "did not learn (below 0.2)"),
        (0.1, 0.2, True, "quick: no worse than theirs"),
    ],
)
def test_what_quick_holds_against_what(home, theirs, ours, reached, verdict):
    paper = papers.find("tiny")
    sides = (Measured(mean, None, mean, "mean", (1,), 1, 1.0, 1.0, "") for mean in (theirs, ours))
    found = reproduce._compare(paper, paper.index.row[0], *sides, quick=True)
    assert (found.reached, found.verdict) == (reached, verdict)


@pytest.mark.parametrize(("ours", "reached"), [(0.9149, False), (0.915, True), (0.9151, True)])
def test_at_or_above_the_published_figure_is_reached(home, ours, reached):
    home(published=0.915)
    paper = papers.find("tiny")
    sides = (Measured(mean, 0.1, mean, "mean", (1, 2), 1, 1.0, 1.0, "") for mean in (0.99, ours))
    assert reproduce._compare(paper, paper.index.row[0], *sides, quick=False).reached is reached


def test_a_damaged_index_and_an_unknown_paper(home):
    index = home() / "tiny/paper.toml"
    with pytest.raises(SpecError, match="Did you mean 'tiny'"):
        papers.find("tinny")
    index.write_text(index.read_text().replace("published = 0.2", "published = 91"))
    with pytest.raises(SpecError, match=r"row\.0\.published"):
        papers.find("tiny")
    index.write_text("[[")
    with pytest.raises(DataError):
        papers.find("tiny")


def test_without_a_paper_they_are_listed():
    done = call("--json")
    assert {"name": "papaya", "title": papers.find("papaya").index.title, "source": "arXiv 2303.06189"} in json.loads(
        done.stdout
    )["papers"]
    assert "papaya" in call().stdout


def test_without_mnist_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COTERIE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys.modules["coterie.data.mnist"], "MIRRORS", ("http://127.0.0.1:9/",))
    done = call("papaya", "--quick")
    assert done.exit_code == 2
    assert "--data-dir" in done.stderr
    assert not Path("runs").exists()


PAPAYA = papers.find("papaya")
ROWS = pytest.mark.parametrize("row", PAPAYA.index.row, ids=lambda row: row.spec)


@ROWS
def test_papaya_is_what_was_published(row):
    spec = PAPAYA.load(row, ours=False, quick=False)
    federation, training = spec.federation, spec.training
    assert (federation.peers, federation.rounds, spec.aggregation.rule) == (6, 20, "papaya")
    assert (training.optimizer, training.lr, training.momentum, training.schedule) == ("sgd", 0.01, 0.0, "constant")
    assert (training.batch_size, training.local_epochs, training.clip) == (500, 5, 0.0)
    assert (training.quasi_global_momentum, training.weight_decay, training.proximal) == (0.0, 0.0, 0.0)
    settings = spec.protocol.settings
    swaps = [round + 1 for round in range(20) if settings["warmup"] <= round < 20 - settings["cooldown"]]
    assert swaps == list(range(2, 19))
    assert (settings["fanout"], settings["swap_every"]) == (3, 1)
    rule = spec.choices["aggregation"].settings
    assert (rule["passes"], rule["trust_lr"]) == (4, 1e-4)


@ROWS
def test_ours_has_the_same_data_model_and_partners_and_costs_less(row):
    theirs, ours = (PAPAYA.load(row, ours=mine, quick=False) for mine in (False, True))
    mine, yours = ours.resolved(), theirs.resolved()
    assert (mine["data"], mine["model"]) == (yours["data"], yours["model"])
    assert mine["gossip"]["fanout"] == yours["gossip"]["fanout"]
    assert ours.seeds == (1, 2, 3)
    assert ours.federation.rounds * ours.local_steps * ours.training.batch_size <= 100 * 10_000 / 10
    assert mine["aggregation"]["rule"] == "clip_and_trust"


@NEEDS_MNIST
@pytest.mark.filterwarnings("ignore::coterie.data.sources.CoterieDataWarning")
def test_papaya_quick(tmp_path):
    done = call("papaya", "--quick", "--out", str(tmp_path / "out"), "--json")
    assert done.exit_code == 0, done.stderr
    assert len(json.loads(done.stdout)["rows"]) == 5
