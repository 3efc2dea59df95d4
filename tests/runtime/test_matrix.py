"""The matrix: its runs are those that ``coterie run`` does, its figures are means, bad specs are refused at once."""

from __future__ import annotations

import copy
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import tomli_w
from rich.console import Console
from typer.testing import CliRunner

import coterie
from coterie import spec as specs
from coterie.cli import app
from coterie.errors import DataError, OutputError, SpecError, WorkerLost
from coterie.runtime.matrix import run_matrix
from coterie.runtime.matrix.journal import Journal
from coterie.runtime.matrix.plan import plan
from coterie.runtime.matrix.plot import heat_maps
from coterie.runtime.matrix.progress import MatrixProgress
from coterie.runtime.matrix.tables import markdown, show
from coterie.runtime.results import Result, RunDirectory, summary

BASE: dict[str, Any] = {
    "federation": {"name": "study", "peers": 5, "rounds": 3, "seed": [1, 2]},
    "data": {"dataset": "digits", "root": 20},
    "model": {"name": "softmax"},
    "training": {"local_steps": 3},
    "gossip": {"fanout": 4},
}
SMALL: dict[str, Any] = BASE | {
    "matrix": {
        "rules": ["metropolis", {"rule": "clip_and_trust", "gate": 2.0, "label": "trust"}],
        "attacks": ["none", {"kind": "label_flip", "map": {"0": 1, "1": 0}}],
        "splits": [{"partition": "iid"}, {"partition": "dirichlet", "alpha": 0.5}],
        "fractions": [0.4],
        "references": ["oracle", "root_only"],
    }
}
FLIP = 'label_flip (map = {"0": 1, "1": 0})'
MIXED = "dirichlet (alpha = 0.5)"


def with_matrix(**changes: Any) -> dict[str, Any]:
    return SMALL | {"matrix": {k: v for k, v in (SMALL["matrix"] | changes).items() if v is not None}}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("matrix") / "out"
    run_matrix(SMALL, out=out, jobs=2)
    return out


@pytest.fixture(scope="module")
def record(done: Path) -> dict[str, Any]:
    return json.loads((done / "matrix.json").read_text())  # type: ignore[no-any-return]


def cell(record: dict[str, Any], split: str, row: str, attack: str) -> dict[str, Any]:
    (found,) = [
        each
        for panel in record["panels"]
        for each in panel["cells"]
        if (panel["split"], each["row"], each["attack"]) == (split, row, attack)
    ]
    return found  # type: ignore[no-any-return]


ATTACK = {"kind": "label_flip", "map": {"0": 1, "1": 0}, "fraction": 0.4}
BY_HAND: list[tuple[str, str, str, dict[str, Any]]] = [
    ("iid", "metropolis", "none", {"aggregation": {"rule": "metropolis"}}),
    ("iid", "trust", FLIP, {"aggregation": {"rule": "clip_and_trust", "gate": 2.0}, "attack": ATTACK}),
    (MIXED, "metropolis", FLIP, {"aggregation": {"rule": "metropolis"}, "attack": ATTACK}),
    (MIXED, "oracle", "none", {"aggregation": {"rule": "metropolis"}}),
    (MIXED, "oracle", FLIP, {"aggregation": {"rule": "metropolis"}, "attack": ATTACK, "run": {"oracle": True}}),
    ("iid", "root_only", FLIP, {"federation": {**BASE["federation"], "protocol": "root_only"}}),
]


@pytest.mark.parametrize(("split", "row", "attack", "tables"), BY_HAND)
def test_a_cell_is_the_run_that_one_would_write_by_hand(
    split: str, row: str, attack: str, tables: dict[str, Any], record: dict[str, Any], tmp_path: Path
) -> None:
    parts = {"iid": {"partition": "iid"}, MIXED: {"partition": "dirichlet", "alpha": 0.5}}
    result = coterie.run(
        BASE | tables | {"data": BASE["data"] | parts[split]}, seeds=[2], out=tmp_path / "run", workers=0
    )
    found = cell(record, split, row, attack)
    assert found["model_hashes"]["2"] == result.model_hash
    assert found["spec_hashes"]["2"] == result.spec_hash


def test_figures_are_means_over_the_seeds_and_the_best_is_marked(done: Path, record: dict[str, Any]) -> None:
    lines = [json.loads(line) for line in (done / "cells.jsonl").read_text().splitlines()[1:]]
    by_hash = {line["result"]["model_hash"]: line["result"]["accuracy"] for line in lines}
    for panel in record["panels"]:
        means: dict[str, dict[str, float]] = {}
        for each in panel["cells"]:
            runs = [by_hash[found] for found in each["model_hashes"].values()]
            for key in ("mean", "min"):
                values = [run[key] for run in runs]
                assert each["accuracy"][key]["mean"] == pytest.approx(np.mean(values))
                assert each["accuracy"][key]["std"] == pytest.approx(np.std(values, ddof=1))
            if not each["reference"]:
                means.setdefault(each["attack"], {})[each["row"]] = float(np.mean([run["mean"] for run in runs]))
        for attack, rows in means.items():
            best = {row for row, value in rows.items() if value == max(rows.values())}
            marked = {each["row"] for each in panel["cells"] if each["attack"] == attack and each["best"]}
            assert marked == best


def test_a_run_that_several_cells_share_is_done_once(done: Path, record: dict[str, Any]) -> None:
    # a split: two rules under two attacks, root_only, and the oracle of the attack; that of nobody is metropolis
    assert record["runs"] == 2 * 2 * (4 + 1 + 1)
    assert len((done / "cells.jsonl").read_text().splitlines()) == 1 + record["runs"]
    assert (
        cell(record, "iid", "oracle", "none")["model_hashes"]
        == cell(record, "iid", "metropolis", "none")["model_hashes"]
    )


def test_tables_show_every_figure(done: Path, record: dict[str, Any]) -> None:
    text = (done / "matrix.md").read_text()
    console = Console(file=io.StringIO(), width=200, highlight=False)
    show(record, console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    for panel in record["panels"]:
        for each in panel["cells"]:
            value = each["accuracy"]["mean"]
            figure = f"{100 * value['mean']:.1f} ± {100 * value['std']:.1f}"
            assert figure in printed
            assert (f"**{figure}**" if each["best"] else f"| {figure} |") in text
        if any(each["attack"] != "none" for each in panel["cells"]):
            rates = [each["attack_rate"] for each in panel["cells"] if each["attack_rate"]]
            assert rates
            assert all(f"{100 * rate['mean']:.1f} ± {100 * rate['std']:.1f}" in printed for rate in rates)
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## iid, 40 % attackers",
        "## dirichlet (alpha = 0.5), 40 % attackers",
    ]
    assert text.count("Attack rate") == 2


def test_no_line_of_the_console_is_wider_than_it(record: dict[str, Any]) -> None:
    wide = copy.deepcopy(record)
    for panel in wide["panels"]:
        panel["attacks"] = [f"attack number {n}" for n in range(9)]
        panel["cells"] = [
            {**each, "attack": a} for a in panel["attacks"] for each in panel["cells"] if each["attack"] == "none"
        ]
    console = Console(file=io.StringIO(), width=60, highlight=False)
    show(wide, console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    rows = [line for line in lines if line.startswith("metropolis ")]
    assert sum(line.count("±") for line in rows) == 2 * 9
    assert max(map(len, rows)) <= 60


def test_attack_rates_get_a_table_of_the_columns_that_have_them(record: dict[str, Any]) -> None:
    rated = copy.deepcopy(record)
    for number, each in enumerate(rated["panels"][0]["cells"]):
        if each["attack"] == FLIP:
            each["attack_rate"] = {"mean": 0.125 + number / 100, "std": 0.0}
            each["least_attacked"] = each["row"] == "trust"
    text = markdown(rated)
    table = text[text.index("Attack rate") : text.index("## dirichlet")]
    assert "none" not in table
    assert re.search(r"\| trust \| \*\*\d+\.\d ± 0\.0\*\* \|", table)


def test_the_heat_map_shows_the_figures(done: Path, record: dict[str, Any]) -> None:
    image = matplotlib.image.imread(io.BytesIO((done / "matrix.png").read_bytes()))
    assert (done / "matrix.png").read_bytes() == heat_maps(record)
    assert min(image.shape[:2]) > 400
    changed = copy.deepcopy(record)
    cell(changed, MIXED, "trust", FLIP)["accuracy"]["mean"]["mean"] = 0.0
    assert heat_maps(changed) != heat_maps(record)
    failed = copy.deepcopy(record)
    for panel in failed["panels"]:
        for each in panel["cells"]:
            each |= {"accuracy": None, "seeds": [], "failed": {"1": {"what": "$x_{$ diverged"}}}
    assert len(heat_maps(failed)) > 5000


def test_nothing_of_a_low_heat_map_is_cut_off(record: dict[str, Any]) -> None:
    low = copy.deepcopy(record)
    low["panels"] = low["panels"][:1]
    panel = low["panels"][0]
    panel |= {"rules": panel["rules"][:2], "references": []}
    panel["cells"] = [each for each in panel["cells"] if each["row"] in panel["rules"]]
    image = matplotlib.image.imread(io.BytesIO(heat_maps(low)))[:, :, :3]
    for edge in (image[0], image[-1], image[:, 0], image[:, -1]):
        assert (edge == 1).all()


def test_what_is_done_is_not_done_again(done: Path) -> None:
    before = (done / "cells.jsonl").read_bytes()
    (done / ".matrix.md.abc").write_text("half a ta")
    (done / "matrix.md").unlink()
    outcome = run_matrix(SMALL, out=done, jobs=2)
    assert (done / "cells.jsonl").read_bytes() == before
    assert (done / "matrix.md").exists()
    assert not list(done.glob(".matrix*"))
    assert outcome.record == json.loads((done / "matrix.json").read_text())


def test_the_command_prints_the_tables_or_one_object(done: Path, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(tomli_w.dumps(SMALL))
    words = ["matrix", str(tmp_path / "study.toml"), "--out", str(done)]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0
    assert f"written to {done}" in shown.stdout
    assert len(re.findall(r"(?m)^trust +\d+\.\d ± ", shown.stdout)) == 4  # accuracy and attack rate of two splits
    assert "24 of 24 runs are done already" in shown.stderr
    asked = CliRunner().invoke(app, [*words, "--json"])
    assert json.loads(asked.stdout) == json.loads((done / "matrix.json").read_text())
    assert asked.stderr == ""


def test_seeds_may_be_added_and_left_out(done: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(done, copy)
    before = (copy / "cells.jsonl").read_text().splitlines()
    record = run_matrix(SMALL, out=copy, seeds=[1, 3]).record
    after = (copy / "cells.jsonl").read_text().splitlines()
    assert record["seeds"] == [1, 3]
    assert after[: len(before)] == before
    assert [json.loads(line)["seed"] for line in after[len(before) :]] == [3] * (len(after) - len(before)) != []


def test_report_makes_the_tables_of_a_matrix_again(done: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(done, copy)
    for name in ("matrix.md", "matrix.png"):
        (copy / name).unlink()
    shown = CliRunner().invoke(app, ["report", str(copy)])
    assert shown.exit_code == 0
    assert (copy / "matrix.md").read_bytes() == (done / "matrix.md").read_bytes()
    assert (copy / "matrix.png").stat().st_size > 0


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": "coterie.matrix/9"}', '{"schema": "coterie.matrix/1"}'])
def test_figures_that_are_none_are_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "matrix.json").write_text(content)
    shown = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert shown.exit_code == 2
    assert "not figures of schema" in shown.stderr


@pytest.mark.parametrize(
    ("tables", "named"),
    [
        (SMALL | {"training": {"local_steps": 4}}, "training.local_steps is 4 and was 3"),
        (with_matrix(fractions=[0.2]), "matrix.fractions is [0.2] and was [0.4]"),
        (SMALL | {"topology": {"kind": "ring"}}, 'topology.kind is "ring" and was "full"'),
    ],
)
def test_another_matrix_is_refused_by_name(done: Path, tables: dict[str, Any], named: str) -> None:
    before = (done / "cells.jsonl").read_bytes()
    with pytest.raises(SpecError, match=re.escape(named)):
        run_matrix(tables, out=done)
    assert (done / "cells.jsonl").read_bytes() == before


def test_a_matrix_does_not_go_on_with_other_data(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 3)), rng.integers(0, 2, 200)
    tables = with_matrix(rules=["mean"], attacks=None, splits=None, references=None)
    tables |= {"data": {"dataset": f"npz:{tmp_path}/d.npz"}}
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y)
    run_matrix(tables, out=tmp_path / "out", seeds=[1], jobs=1)
    np.savez(tmp_path / "d.npz", x_train=x + 1, y_train=y)
    with pytest.raises(SpecError, match=r"d\.npz is [0-9]+ and was [0-9]+"):
        run_matrix(tables, out=tmp_path / "out", jobs=1)


def test_a_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        run_matrix(SMALL, out=tmp_path)


# The plan


def test_shares_of_attackers_are_panels_and_nobody_is_run_once() -> None:
    planned = plan(specs.load(with_matrix(fractions=[0.2, 0.4], references=["oracle"])))
    assert [panel.fraction for panel in planned.panels] == [0.2, 0.4] * 2
    assert len({panel.cells["metropolis", "none"] for panel in planned.panels[:2]}) == 1
    assert len({panel.cells["metropolis", FLIP] for panel in planned.panels[:2]}) == 2
    # a split: two rules with nobody, then for each share two rules and the oracle
    assert len(planned.runs) == 2 * (2 + 2 * 3)


def test_an_attack_may_set_its_own_share_of_attackers() -> None:
    own = {"kind": "label_flip", "fraction": 0.2}
    planned = plan(specs.load(with_matrix(attacks=[own, {"kind": "shuffled_labels", "fraction": 0.2}])))
    assert [panel.fraction for panel in planned.panels] == [None, None]
    panel = planned.panels[0]
    assert planned.runs[panel.cells["trust", panel.attacks[0]]]["attack"] == own
    assert panel.cells["oracle", panel.attacks[0]] == panel.cells["oracle", panel.attacks[1]]


def test_dotted_keys_change_the_runs_of_their_entry_alone() -> None:
    rules = ["metropolis", {"rule": "metropolis", "label": "slow", "training.lr": 0.01}]
    planned = plan(
        specs.load(with_matrix(rules=rules, references=[{"kind": "oracle", "rule": "mean", "label": "ideal"}]))
    )
    panel = planned.panels[0]
    assert planned.runs[panel.cells["slow", "none"]]["training"]["lr"] == 0.01
    assert "lr" not in planned.runs[panel.cells["metropolis", "none"]]["training"]
    ideal = planned.runs[panel.cells["ideal", FLIP]]
    assert (ideal["aggregation"], ideal["run"]) == ({"rule": "mean"}, {"oracle": True})


def test_the_tables_that_the_matrix_fills_are_not_used() -> None:
    written = SMALL | {"aggregation": {"rule": "mean"}, "attack": {"kind": "shuffled_labels"}}
    assert plan(specs.load(written)).runs == plan(specs.load(SMALL)).runs


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"rulez": []}, "matrix.rulez", "'rules'"),
    ({"rules": ["clip_and_trsut"]}, "matrix.rules, entry 1: aggregation.rule", "'clip_and_trust'"),
    ({"rules": ["mean", {"rule": "clip_and_trust", "gat": 2.0}]}, "matrix.rules, entry 2: aggregation.gat", "'gate'"),
    ({"rules": ["mean", "mean"]}, "matrix.rules", "twice"),
    ({"rules": [{"gate": 2.0}]}, "matrix.rules, entry 1", "no rule"),
    ({"rules": []}, "matrix.rules", ""),
    ({"rules": None}, "matrix.rules", "required"),
    ({"rules": [{"rule": "mean", "data.root": 30}]}, "matrix.rules, entry 1", "share it"),
    ({"rules": [{"rule": "mean", "federation.seed": 3}]}, "matrix.rules, entry 1", "share it"),
    ({"rules": [{"rule": "mean", "training.lrr": 1.0}]}, "matrix.rules, entry 1: training.lrr", "'lr'"),
    ({"rules": [{"rule": "mean", "label": "a\nb"}]}, "matrix.rules, entry 1", "label"),
    ({"rules": [{"rule": "mean", "label": "oracle"}]}, "matrix.references", "two rows"),
    ({"attacks": ["none", "label_flp"]}, "matrix.attacks, entry 2: attack.kind", "'label_flip'"),
    ({"attacks": [{"kind": "label_flip", "fraction": 2.0}]}, "matrix.attacks, entry 1: attack.fraction", ""),
    ({"attacks": [{"kind": "none", "fraction": 0.2}]}, "matrix.attacks, entry 1", "nobody"),
    ({"splits": [{"partition": "dirichlet", "alhpa": 1.0}]}, "matrix.splits, entry 1: data.alhpa", "'alpha'"),
    ({"splits": [{"partition": "iid", "dataset": "digitz"}]}, "matrix.splits, entry 1: data.dataset", "'digits'"),
    ({"fractions": [0.3, 1.0]}, "matrix.fractions.1", "less than 1"),
    ({"fractions": [0.3, 0.3]}, "matrix.fractions", "twice"),
    ({"references": ["orcale"]}, "matrix.references, entry 1", "'oracle'"),
    ({"references": [{"kind": "root_only", "rule": "mean"}]}, "matrix.references, entry 1", "mixes nothing"),
]


@pytest.mark.parametrize(("changes", "where", "told"), BAD)
def test_what_is_wrong_is_said_before_the_first_run(
    changes: dict[str, Any], where: str, told: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError) as caught:
        run_matrix(with_matrix(**changes), out=tmp_path / "out")
    assert caught.value.where.startswith(where)
    assert told in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("changes", [{}, {"references": [], "rules": ["mean", "clip_and_trust_root"]}])
def test_whoever_needs_a_root_sample_says_so_at_once(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"data\.root"):
        run_matrix(with_matrix(**changes) | {"data": {"dataset": "digits"}}, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_data_are_said_before_the_first_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        run_matrix(SMALL | {"data": {"dataset": f"npz:{tmp_path}/nowhere.npz", "root": 20}}, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_spec_without_the_table_is_refused() -> None:
    with pytest.raises(SpecError, match=r"\[matrix\]"):
        plan(specs.load(BASE))


def test_a_plain_run_takes_no_notice_of_the_table(tmp_path: Path) -> None:
    one = {"federation": {**BASE["federation"], "seed": 1}}
    plain = coterie.run(BASE | one, out=tmp_path / "plain", workers=0)
    result = coterie.run(SMALL | one, out=tmp_path / "run", workers=0)
    assert (result.model_hash, result.spec_hash) == (plain.model_hash, plain.spec_hash)
    assert specs.load(tmp_path / "run/spec.toml").matrix == specs.load(SMALL).matrix
    with pytest.raises(SpecError, match="'rules'"):
        specs.load(with_matrix(rulez=["mean"]))


# Failures


def test_a_run_that_fails_is_shown_and_stops_no_other(tmp_path: Path) -> None:
    hot = {"rule": "mean", "label": "hot", "training.lr": 1e38, "training.clip": 0.0}
    tables = with_matrix(rules=["mean", hot], attacks=None, splits=None, references=None)
    out = io.StringIO()
    progress = MatrixProgress(Console(file=out, width=200), interval=0.0)
    record = run_matrix(tables, out=tmp_path / "out", jobs=1, progress=progress).record
    assert (record["status"], record["runs"], record["failed"]) == ("ok", 4, 2)
    failed = cell(dict(record), "dirichlet", "hot", "none")
    assert failed["accuracy"] is None
    assert {error["code"] for error in failed["failed"].values()} == {"diverged"}
    assert cell(dict(record), "dirichlet", "mean", "none")["seeds"] == [1, 2]
    text = (tmp_path / "out/matrix.md").read_text()
    assert "| hot | failed |" in text
    assert "no longer finite" in text
    assert out.getvalue().count("failed: dirichlet: hot, none, seed") == 2
    assert "4/4 runs, 2 failed" in out.getvalue()


@pytest.mark.parametrize("seeds", [[1, 2], [1, 2, 3]])
def test_a_process_that_dies_costs_its_run_and_three_in_a_row_end_it(seeds: list[int], tmp_path: Path) -> None:
    (tmp_path / "fatal.py").write_text(
        "import os, torch\n"
        "from pathlib import Path\n"
        "def fatal(own, received, context, state, judge):\n"
        "    if Path(__file__).with_name('deadly').exists():\n"
        "        os._exit(7)\n"
        "    return own, torch.eye(1, len(received) + 1)[0], state\n"
    )
    (tmp_path / "deadly").touch()
    tables = with_matrix(rules=["fatal.py:fatal"], attacks=None, splits=None, references=None)
    spec = specs.check(tables, tmp_path)
    if len(seeds) == 3:
        with pytest.raises(WorkerLost, match="status 7"):
            run_matrix(spec, seeds=seeds, out=tmp_path / "out", jobs=1)
        return
    record = run_matrix(spec, seeds=seeds, out=tmp_path / "out", jobs=1).record
    assert record["status"] == "failed"
    assert record["error"]["code"] == "worker"
    (tmp_path / "deadly").unlink()
    again = run_matrix(spec, seeds=seeds, out=tmp_path / "out", jobs=1).record
    assert (again["status"], again["failed"]) == ("ok", 0)


# The journal


RESULT = Result(status="ok", seed=1, accuracy=summary([0.5]), loss=summary([1.0]), model_hash="ab")


def test_an_unfinished_line_is_dropped_and_written_again(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    with Journal(path, {"a": 1}) as journal:
        journal.add("k", 1, RESULT)
        journal.add("k", 2, RESULT)
    whole = path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(whole) if byte == 10]
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        kept = max(0, sum(end <= length for end in ends) - 1)
        with Journal(path, {"a": 1}) as journal:
            assert set(journal.results) == {("k", seed) for seed in range(1, kept + 1)}
            assert all(found == RESULT for found in journal.results.values())
            for seed in range(kept + 1, 3):
                journal.add("k", seed, RESULT)
        assert path.read_bytes() == whole


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    with Journal(path, {}) as journal:
        journal.add("k", 1, RESULT)
        journal.add("k", 2, RESULT)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b'{"key": 3}\n' + lines[2])
    with pytest.raises(DataError, match="line 2"):
        Journal(path, {})


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with Journal(tmp_path / "cells.jsonl", {}):
        pass
    (tmp_path / ".matrix.json.abc").touch()  # what the other process is just writing
    with RunDirectory(tmp_path).locked(), pytest.raises(OutputError, match="another process"):
        run_matrix(SMALL, out=tmp_path)
    assert (tmp_path / ".matrix.json.abc").exists()


def test_progress_says_how_many_how_long_and_what_failed() -> None:
    out, times = io.StringIO(), iter([0.0, 6.0, 12.0, 13.0, 13.0])
    with MatrixProgress(Console(file=out, width=200), interval=10.0, clock=lambda: next(times)) as progress:
        progress.begin(10, 4)
        for _ in range(3):
            progress.ended("a", RESULT)
        progress.ended("b", Result.failure(DataError("no data")))
    lines = out.getvalue().splitlines()
    assert lines == [
        "4 of 10 runs are done already",
        "matrix: 6/10 runs, 12.0 s, 24.0 s left",
        "failed: b: no data",
    ]
