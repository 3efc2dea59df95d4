"""The report of a run: PNG plots, and one HTML page that holds everything and needs nothing else."""

from __future__ import annotations

import base64
import math
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import tomli_w
from jinja2 import Environment, PackageLoader, StrictUndefined

from coterie.errors import DataError
from coterie.runtime import plots
from coterie.runtime.plots import History
from coterie.runtime.progress import duration, size
from coterie.runtime.results import PeerMetrics, Result, RunDirectory

ROWS = 100
"""Peers in the table; the others are in metrics.jsonl."""
_LIBRARIES = ("torch", "numpy", "scikit-learn", "matplotlib")


def write_report(directory: Path) -> Path:
    """Write the plots and ``report.html`` into a run directory, over older ones; gives the path of the page.

    A directory of several seeds gets one page on all of them; those of the seeds are written by themselves. Raises
    DataError for a directory that cannot be read, OutputError for one that cannot be written.
    """
    run = RunDirectory.open(directory)
    result, tables = _result(run), _tables(run)
    page = _seeds_page(run, result) if run.seeds else _run_page(run, result, tables)
    shared = {
        "title": tables.get("federation", {}).get("name") or directory.name,
        "error": result.error,
        "spread": bool(result.seeds),
        "command": _command(run, result),
        "hashes": [(k, v) for k, v in (("spec", result.spec_hash), ("model", result.model_hash)) if v],
        "spec": tomli_w.dumps(tables) if tables else "",
        "versions": _versions(result),
    }
    environment = Environment(
        loader=PackageLoader("coterie.runtime", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("report.html.j2").render(shared | page)
    return run.write("report.html", text.encode())


def _run_page(run: RunDirectory, result: Result, tables: Mapping[str, Any]) -> dict[str, Any]:
    records = run.records
    history = History.of(records) if records else None
    images, remarks = _plots(run, history)
    last = list(history.last) if history else []
    honest = [record for record in last if not record.attacker]
    note = "" if not honest else "Accuracy and loss are those of the honest peers' final models on the whole test set."
    peers = sorted(last, key=lambda record: -math.inf if math.isnan(record.accuracy) else record.accuracy)
    return {
        "headline": _headline(result, tables, last),
        "figures": _figures(result, len(last) - len(honest) if last else None),
        "note": note,
        "runs": [],
        "plots": images,
        "remarks": remarks,
        "peers": [_row(record) for record in peers[:ROWS]],
        "hidden": max(0, len(peers) - ROWS),
    }


def _plots(run: RunDirectory, history: History | None) -> tuple[list[dict[str, str]], list[str]]:
    """The images with their captions, and sentences about those that are missing."""
    images, remarks = [], []
    if history is None:
        remarks.append("No round was evaluated, so there are no curves.")
    else:
        many = len(history.peers) > plots.LINES
        thin = "the bands hold the middle half and the middle 90 % of the peers" if many else "a thin line is a peer"
        bad = ", dashed red is an attacker" if history.attacker.any() and not many else ""
        bad = ", red is the attackers" if history.attacker.any() and many else bad
        images.append(
            _image(
                run,
                "accuracy",
                plots.accuracy(history),
                f"Accuracy and loss on the test set after each round: {thin}{bad}, and the bold line is the mean of "
                "the honest; lines that come together mean that peers agree.",
            )
        )
        heat = plots.trust(history)
        if heat is None:
            alone = "These are the figures of one peer alone" if len(history.peers) == 1 else "Nobody weighed a model"
            remarks.append(f"{alone}, so there is no matrix of trust.")
        else:
            images.append(_image(run, "trust", heat, _trust_caption(history)))
        images.append(
            _image(
                run,
                "bytes",
                plots.traffic(history),
                "Bytes sent since the start, by each peer and by all together; a steeper line costs more a round.",
            )
        )
    edges = run.topology
    if edges is None:
        remarks.append("No graph was recorded: every peer may talk to every other.")
    else:
        large = len({peer for edge in edges for peer in edge}) > plots.GRAPH
        caption = (
            f"How many neighbours the peers have; above {plots.GRAPH} peers the graph itself is not drawn."
            if large
            else "Who is a neighbour of whom, by index of the peer; models travel along the lines, attackers are red."
        )
        images.append(_image(run, "topology", plots.topology(edges, history), caption))
    return images, remarks


def _trust_caption(history: History) -> str:
    found = plots.judgement(history)
    kind = found[0] if found else "weight"
    what = "how much it trusts" if kind == "trust" else "the weight it gave to the model of"
    text = f"Row by row, {what} each other peer at its last aggregation: darker is more, grey is not judged"
    if history.attacker.any():
        text += "; attackers come last and are red, so a good rule leaves the columns right of the red line pale"
    if len(history.peers) > plots.CELLS:
        text += f"; {plots.CELLS} of {len(history.peers)} peers are shown"
    return f"{text}."


def _seeds_page(run: RunDirectory, result: Result) -> dict[str, Any]:
    rows, curves = [], {}
    for seed, directory in run.seeds.items():
        one = _result(directory)
        link = f"seed-{seed}/report.html" if (directory.path / "report.html").exists() else ""
        figures = {key: _percent(one.accuracy.get(key)) for key in ("mean", "min", "max")}
        rows.append({"seed": seed, "status": one.status, "link": link, "sent": size(one.bytes_sent), **figures})
        records = [record for record in directory.records if not record.attacker and math.isfinite(record.accuracy)]
        if records:
            history = History.of(records)
            curves[seed] = (history.rounds, plots.mean(history.accuracy))
    images = []
    if curves:
        caption = (
            "A thin line is the mean over the honest peers of one seed; the bold line is the mean of those, and the "
            "band is one standard deviation each way: a narrow band means that the outcome does not hang on luck."
        )
        images.append(_image(run, "accuracy", plots.seeds(curves), caption))
    remarks = ["Trust, bytes and topology are in the report of each seed."]
    if not curves:
        remarks.append("No round was evaluated, so there are no curves.")
    first = next(iter(run.seeds.values()))
    last = History.of(records).last if (records := first.records) else ()
    return {
        "headline": _headline(result, _tables(run), last),
        "figures": _figures(result, None),
        "note": "The deviation is the sample standard deviation over the seeds that ended well.",
        "runs": rows,
        "plots": images,
        "remarks": remarks,
        "peers": [],
        "hidden": 0,
    }


def _image(run: RunDirectory, name: str, content: bytes, caption: str) -> dict[str, str]:
    run.write(f"{name}.png", content)
    return {"name": name, "data": base64.b64encode(content).decode("ascii"), "caption": caption}


def _headline(result: Result, tables: Mapping[str, Any], last: Sequence[PeerMetrics]) -> str:
    """What ran and what came of it, in plain words."""
    federation = tables.get("federation", {})
    peers = result.peers or federation.get("peers", 0)
    protocol = result.protocol or federation.get("protocol", "an unknown protocol")
    dataset = tables.get("data", {}).get("dataset", "unknown data")
    verb = "trained" if result.ok else "began to train"
    rounds = result.rounds or federation.get("rounds", 0)
    text = f"{_count(peers, 'peer')} {verb} on {dataset} with {protocol} for {_count(rounds, 'round')}"
    text += f", {len(result.seeds)} times with different seeds." if result.seeds else "."
    if result.ok and math.isfinite(result.accuracy.get("mean", math.nan)):
        values = {key: _percent(result.accuracy.get(key)) for key in ("mean", "min", "max")}
        text += " The honest peers' models are right on {mean} of the test set on average".format(**values)
        text += " (worst {min}, best {max}).".format(**values)
    bad = sum(record.attacker for record in last)
    if bad:
        kind = tables.get("attack", {}).get("kind")
        how = f" with {kind}" if kind else ""
        text += f" {_count(bad, 'peer')} of {len(last)} attacked{how}."
    elif last:
        text += " Nobody attacked."
    if result.bytes_sent and peers:
        text += f" A peer sent {size(result.bytes_sent / peers)} on average."
    return text


def _figures(result: Result, attackers: int | None) -> list[tuple[str, str, str]]:
    """Rows of name, figure and deviation."""
    spread = result.deviation or {}
    rows = [("peers", str(result.peers), "")] if result.peers else []
    if attackers is not None:
        rows.append(("attackers", str(attackers), ""))
    rows += [("rounds", str(result.rounds), "")] if result.rounds else []
    worst_first, best_first = {"min": "worst peer", "max": "best peer"}, {"min": "best peer", "max": "worst peer"}
    for group, shown, names in (("accuracy", _percent, worst_first), ("loss", _decimal, best_first)):
        values, deviations = getattr(result, group), spread.get(group, {})
        for key in values:
            label = f"{group}, {names.get(key, key)}"
            rows.append((label, shown(values[key]), shown(deviations.get(key))))
    for key, value in result.metrics.items():
        rows.append((key, _decimal(value), _decimal(spread.get("metrics", {}).get(key))))
    if result.attack_rate is not None:
        rows.append(("attack success", _percent(result.attack_rate), _percent(spread.get("attack_rate"))))
    if result.epsilon is not None:
        rows.append(("epsilon", _decimal(result.epsilon), _decimal(spread.get("epsilon"))))
    share = max(1, result.peers)
    sent = spread.get("bytes_sent")
    rows.append(("sent by all peers", size(result.bytes_sent), _or_dash(sent, size)))
    if result.peers:
        mean = None if sent is None else sent / share
        rows.append(("sent by a peer", size(result.bytes_sent / share), _or_dash(mean, size)))
    rows.append(("time of the run", _or_dash(result.seconds, duration), _or_dash(spread.get("seconds"), duration)))
    virtual, deviation = result.virtual_seconds, spread.get("virtual_seconds")
    rows.append(("simulated time", _or_dash(virtual, duration), _or_dash(deviation, duration)))
    if result.seed is not None:
        rows.append(("seed", str(result.seed), ""))
    return rows


def _row(record: PeerMetrics) -> dict[str, Any]:
    return {
        "name": record.peer,
        "attacker": record.attacker,
        "accuracy": _percent(record.accuracy),
        "loss": _decimal(record.loss),
        "train_loss": _decimal(record.train_loss),
        "sent": size(record.bytes_sent),
        "round": record.round,
    }


def _result(run: RunDirectory) -> Result:
    """The result; for a run that has not ended, a failed one that says so."""
    if (run.path / "result.json").exists():
        return run.result
    if begun := run.seeds:
        given = _tables(run).get("federation", {}).get("seed")
        for seed in given if isinstance(given, list) else ():
            begun.setdefault(seed, RunDirectory(run.path / f"seed-{seed}"))
        return Result.of_seeds([_result(one) for one in begun.values()], str(run.path))
    error = DataError(
        "the run has not ended: there is no result.json", where=str(run.path), remedy="Wait, or run the spec again."
    )
    seed = run.path.name.removeprefix("seed-")
    known = int(seed) if seed.isdecimal() else None
    return replace(Result.failure(error, run=str(run.path), seed=known), version="")


def _tables(run: RunDirectory) -> dict[str, Any]:
    if (run.path / "spec.toml").exists():
        return run.spec
    first = next(iter(run.seeds.values()), None)
    return first.spec if first is not None and (first.path / "spec.toml").exists() else {}


def _command(run: RunDirectory, result: Result) -> str:
    holder = run.path
    if not (holder / "spec.toml").exists():
        holder = next((one.path for one in run.seeds.values()), holder)
    command = f"coterie run {shlex.quote(str(holder / 'spec.toml'))}"
    seeds = result.seeds or tuple(run.seeds)
    return f"{command} --seed {','.join(map(str, seeds))}" if seeds else command


def _versions(result: Result) -> str:
    found = [f"{name} {metadata.version(name)}" for name in _LIBRARIES if _installed(name)]
    wrote = f"Coterie {result.version} ran this. " if result.version else ""
    return f"{wrote}The report was made with Python {platform.python_version()}, {', '.join(found)}."


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _percent(value: float | None) -> str:
    return _or_dash(value, lambda number: f"{100 * number:.1f} %")


def _decimal(value: float | None) -> str:
    return _or_dash(value, lambda number: f"{number:.4g}")


def _or_dash(value: float | None, shown: Any) -> str:
    return shown(value) if value is not None and math.isfinite(value) else "-"
