"""Reports: every plot shows something, the page stands by itself, hostile names stay text."""

import base64
import html
import io
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import matplotlib.image
import numpy as np
import pytest

from coterie.errors import DataError, TrainingDiverged
from coterie.runtime import plots
from coterie.runtime.plots import History
from coterie.runtime.report import write_report
from coterie.runtime.results import PeerMetrics, Result, RunDirectory, summary

HOSTILE = '<script>alert("1")</script>&$x_{$'


def records(peers=6, rounds=4, attackers=(4, 5), trust=True, name="peer-#"):
    rng = np.random.default_rng(0)
    names = [name.replace("#", str(index)) for index in range(peers)]
    for number in range(1, rounds + 1):
        for index, peer in enumerate(names):
            judged = {other: float(rng.random()) for other in names if other != peer}
            yield PeerMetrics(
                round=number, peer=peer, index=index, attacker=index in attackers, time=0.5 * number,
                accuracy=float(1 - 1 / (number + 1) - rng.random() / 10), loss=float(1 / number + rng.random()),
                train_loss=0.5, bytes_sent=1000 * number + index, weights={peer: 0.5} | judged,
                trust=judged if trust else None,
            )  # fmt: skip


def ring(peers):
    return [(index, (index + 1) % peers) for index in range(peers)]


def make(path, lines=None, edges=None, seed=7, **spec):
    lines = list(records()) if lines is None else list(lines)
    with RunDirectory.create(path, "x") as run:
        federation = {"name": "digits", "protocol": "gossip", "peers": 6, "rounds": 4, "seed": seed} | spec
        run.write_spec({"federation": federation, "data": {"dataset": "digits"}, "attack": {"kind": "label_flip"}})
        for line in lines:
            run.metrics(line)
        if edges is not None:
            run.write_topology(edges)
        last = [line.accuracy for line in lines if line.round == 4 and not line.attacker]
        run.write_result(
            Result(
                status="ok",
                run=str(path),
                spec_hash="ab" * 32,
                seed=seed,
                protocol="gossip",
                peers=6,
                rounds=4,
                accuracy=summary(last),
                loss=summary([0.25, 0.5]),
                attack_rate=0.125,
                bytes_sent=6_000_000,
                model_hash="cd" * 32,
            )
        )
    return run


class Page(HTMLParser):
    """Counts tags, checks that they close in order, keeps texts and addresses."""

    VOID = ("meta", "img", "br", "link", "hr", "input")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.addresses, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert not self.open, "every tag is closed"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for key, value in attrs if key in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def page(path):
    return Page((path / "report.html").read_text(encoding="utf-8"))


def not_blank(content):
    image = matplotlib.image.imread(io.BytesIO(content), format="png")
    assert min(image.shape[:2]) >= 300
    assert image[..., :3].std() > 0.02, "the plot shows something"
    return image


def test_the_report_of_a_run(tmp_path):
    run = make(tmp_path / "run", edges=ring(6))
    assert write_report(run.path) == run.path / "report.html"
    shown = page(run.path)
    assert sorted(path.name for path in run.path.glob("*.png")) == [
        "accuracy.png", "bytes.png", "topology.png", "trust.png"
    ]  # fmt: skip
    for path in run.path.glob("*.png"):
        not_blank(path.read_bytes())
    assert "script" not in shown.tags
    assert len(shown.addresses) == 4
    for address in shown.addresses:
        assert address.startswith("data:image/png;base64,")
        not_blank(base64.b64decode(address.partition(",")[2]))
    text = " ".join(shown.text.split())
    accuracy = run.result.accuracy
    assert "6 peers trained on digits with gossip for 4 rounds." in text
    assert f"right on {100 * accuracy['mean']:.1f} % of the test set on average" in text
    assert "2 peers of 6 attacked with label_flip. A peer sent 1.0 MB on average." in text
    assert f"coterie run {run.path}/spec.toml" in text
    assert "Models travel in the clear" in text
    assert "no differential privacy" in text
    assert "no secure aggregation" in text
    assert 'dataset = "digits"' in text
    assert "ab" * 32 in text
    assert "cd" * 32 in text


def test_no_external_links(tmp_path):
    run = make(tmp_path / "run", edges=ring(6))
    write_report(run.path)
    text = re.sub(r"base64,[^\"]*", "", (run.path / "report.html").read_text(encoding="utf-8"))
    assert not re.search(r"(?i)https?:|//|@import|url\(|<script|javascript:", text.replace(str(tmp_path), ""))


def test_peers_are_listed_worst_first_and_unknown_before_all(tmp_path):
    values = {0: 0.8, 1: math.nan, 2: 0.3, 3: 0.9}
    lines = records(4, 1, ())
    run = make(tmp_path / "run", [replace(line, accuracy=values[line.index]) for line in lines])
    write_report(run.path)
    text = (run.path / "report.html").read_text(encoding="utf-8")
    assert re.findall(r"<tr><td>(peer-\d)</td>", text) == ["peer-1", "peer-2", "peer-0", "peer-3"]


def test_hostile_names_stay_text(tmp_path):
    run = make(tmp_path / "run", records(name=HOSTILE + "#"), edges=ring(6), name=HOSTILE)
    write_report(run.path)
    text = (run.path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert html.escape(HOSTILE, quote=False).replace('"', "&#34;") in text
    assert HOSTILE in page(run.path).text


def test_short_names_with_dollars_are_not_mathematics():
    history = History.of(list(records(name="$x_#$")))
    not_blank(plots.trust(history))


def test_the_report_of_a_failed_run(tmp_path):
    run = RunDirectory.create(tmp_path / "run", "x")
    run.write_spec({"federation": {"name": "digits", "peers": 3}})
    error = TrainingDiverged("the loss is <inf>", where="peer-3, round 2", remedy="Lower training.lr.")
    run.write_result(Result.failure(error, run=str(run.path)))
    write_report(run.path)
    text = page(run.path).text
    for part in (
        "The run failed (diverged).",
        "the loss is <inf>",
        "peer-3, round 2",
        "Lower training.lr.",
        "no curves",
    ):
        assert part in text
    assert not list(run.path.glob("*.png"))


def test_a_run_that_was_killed_has_a_report(tmp_path):
    run = make(tmp_path / "run")
    (run.path / "result.json").unlink()
    write_report(run.path)
    assert "the run has not ended" in page(run.path).text
    not_blank((run.path / "accuracy.png").read_bytes())


def test_the_report_of_several_seeds(tmp_path):
    parent = RunDirectory.create(tmp_path / "run", "x")
    results = []
    for seed in (1, 2, 10):
        run = make(tmp_path / "run" / f"seed-{seed}", seed=seed)
        write_report(run.path)
        results.append(run.result)
    parent.write_result(Result.of_seeds(results, str(parent.path)))
    write_report(parent.path)
    shown = page(parent.path)
    not_blank((parent.path / "accuracy.png").read_bytes())
    assert shown.addresses[:3] == [f"seed-{seed}/report.html" for seed in (1, 2, 10)]
    text = " ".join(shown.text.split())
    assert "3 times with different seeds" in text
    assert "deviation" in text
    assert "--seed 1,2,10" in text


def test_seeds_that_were_cut_short_have_a_report(tmp_path):
    """The parent directory has no file of its own yet, and one seed has no result."""
    (tmp_path / "run").mkdir()
    make(tmp_path / "run/seed-1", seed=1)
    unfinished = make(tmp_path / "run/seed-2", seed=2)
    (unfinished.path / "result.json").unlink()
    write_report(tmp_path / "run")
    text = " ".join(page(tmp_path / "run").text.split())
    assert "the run has not ended" in text
    assert "--seed 1,2" in text


def test_seeds_that_were_not_begun_are_missed(tmp_path):
    parent = RunDirectory.create(tmp_path / "run", "x")
    parent.write_spec({"federation": {"name": "digits"}}, [1, 2])
    make(tmp_path / "run/seed-1", seed=1)
    write_report(parent.path)
    text = " ".join(page(parent.path).text.split())
    assert "the run has not ended" in text
    assert "--seed 1,2" in text
    assert "began to train" in text


def test_a_report_is_made_again_over_the_old_one(tmp_path):
    run = make(tmp_path / "run")
    first = write_report(run.path).read_bytes()
    assert write_report(run.path).read_bytes() == first


def test_a_directory_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError):
        write_report(tmp_path / "none")
    run = make(tmp_path / "run")
    (run.path / "metrics.jsonl").write_text("x\n")
    with pytest.raises(DataError, match="cannot be read"):
        write_report(run.path)


def test_the_title_of_the_matrix_says_trust_or_weights():
    kind, matrix = plots.judgement(History.of(list(records())))
    assert kind == "trust"
    assert np.isnan(matrix.diagonal()).all()
    kind, matrix = plots.judgement(History.of(list(records(trust=False))))
    assert kind == "weight"
    assert (matrix.diagonal() == 0.5).all()


def test_a_history_orders_peers_and_fills_gaps():
    lines = [line for line in records(3, 3, (1,)) if not (line.index == 2 and line.round == 2)]
    history = History.of(lines[::-1])
    assert history.peers == ("peer-0", "peer-1", "peer-2")
    assert history.attacker.tolist() == [False, True, False]
    assert np.isnan(history.accuracy[2, 1])
    assert history.sent[2].tolist() == [1002, 1002, 3002]
    assert history.rounds.tolist() == [1, 2, 3]


@pytest.mark.parametrize("attackers", [(), range(15), range(50)], ids=["none", "some", "all"])
def test_many_peers(attackers):
    history = History.of(list(records(50, 3, attackers)))
    for draw in (plots.accuracy, plots.traffic, plots.trust):
        not_blank(draw(history))


def test_one_round_and_numbers_that_are_not_finite():
    lines = [replace(line, accuracy=math.nan, loss=math.nan, trust=None, weights={}) for line in records(3, 1)]
    history = History.of(lines)
    assert plots.trust(history) is None
    not_blank(plots.accuracy(history))
    not_blank(plots.accuracy(History.of(list(records(3, 1)))))


def test_a_nodes_own_figures_make_no_matrix_of_trust(tmp_path):
    alone = [
        line for line in records() if line.index == 0
    ]  # as in a node's home: the others that it judges are not here
    assert plots.trust(History.of(alone)) is None
    write_report(make(tmp_path / "a", alone).path)
    assert "figures of one peer alone, so there is no matrix of trust" in page(tmp_path / "a").text


def test_an_attackers_loss_does_not_flatten_the_others():
    lines = list(records())
    wild = [replace(line, loss=1e9) if line.attacker else line for line in lines]
    calm = [replace(line, loss=math.nan) if line.attacker else line for line in lines]
    a, b = (not_blank(plots.accuracy(History.of(some))) for some in (wild, calm))
    assert np.abs(a - b).mean() < 0.01


@pytest.mark.parametrize("peers", [2, 30, 60, 201])
def test_topologies(peers):
    not_blank(plots.topology(ring(peers), None))


def test_a_dense_topology():
    not_blank(plots.topology([(a, b) for a in range(10) for b in range(a)], History.of(list(records(10)))))
