"""The figures of a report, each a PNG as bytes. Matplotlib's objects only: no global state, no display."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import networkx as nx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from coterie.runtime.progress import size
from coterie.runtime.results import PeerMetrics

Array = NDArray[Any]
HONEST, MEAN, ATTACKER = "#7f9cb8", "#14456e", "#c8281e"
LINES = 40
"""With more peers than this, curves become quantile bands."""
GRAPH = 200
"""With more peers than this, the topology becomes a histogram of degrees."""
CELLS = 300
"""With more peers than this, the heat map shows so many of them, evenly spaced."""


@dataclass(frozen=True)
class History:
    """The records of a run as one row a peer, in the order of index: arrays of shape (peers, rounds), NaN for none."""

    rounds: Array
    peers: tuple[str, ...]
    attacker: Array
    accuracy: Array
    loss: Array
    sent: Array
    """Bytes so far; a gap keeps the last number."""
    last: tuple[PeerMetrics, ...]
    """Each peer's last record."""

    @classmethod
    def of(cls, records: Sequence[PeerMetrics]) -> History:
        """The history that ``records`` tell; there must be at least one."""
        last: dict[int, PeerMetrics] = {}
        for record in records:
            known = last.get(record.index)
            if known is None or record.round >= known.round:
                if known is not None and known.trust and record.trust is not None:
                    record = replace(record, trust={**known.trust, **record.trust})
                last[record.index] = record
        order = sorted(last)
        row = {index: i for i, index in enumerate(order)}
        rounds = sorted({record.round for record in records})
        column = {number: j for j, number in enumerate(rounds)}
        accuracy, loss, sent = (np.full((len(order), len(rounds)), np.nan) for _ in range(3))
        for record in records:
            cell = row[record.index], column[record.round]
            accuracy[cell], loss[cell], sent[cell] = record.accuracy, record.loss, record.bytes_sent
        sent = np.fmax.accumulate(sent, axis=1)
        ends = tuple(last[index] for index in order)
        attacker = np.array([record.attacker for record in ends])
        names = tuple(record.peer for record in ends)
        return cls(np.array(rounds), names, attacker, accuracy, loss, np.nan_to_num(sent), ends)

    @property
    def labels(self) -> list[str]:
        """Short names for axes: the peers' own where they are short, their indices otherwise."""
        if all(len(peer) <= 10 and peer.isprintable() for peer in self.peers):
            return [peer.replace("$", r"\$") for peer in self.peers]
        return [str(record.index) for record in self.last]


def accuracy(history: History) -> bytes:
    """Test accuracy and loss of each peer over the rounds."""
    figure, (left, right) = _panels(2)
    for axes, rows in ((left, history.accuracy), (right, history.loss)):
        _curves(axes, history.rounds, rows, history.attacker)
        _rounds(axes)
    left.set_title("Test accuracy")
    left.set_ylim(*_accuracy_limits(history.accuracy))
    left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    right.set_title("Test loss")
    _loss_limits(right, history.loss[~history.attacker] if not history.attacker.all() else history.loss)
    _legend(figure, left)
    return png(figure)


def seeds(curves: Mapping[int, tuple[Array, Array]]) -> bytes:
    """The honest peers' mean accuracy: a line a seed ``{seed: (rounds, means)}``, their mean and deviation."""
    figure, (axes,) = _panels(1)
    rounds = np.unique(np.concatenate([numbers for numbers, _ in curves.values()]))
    rows = np.full((len(curves), len(rounds)), np.nan)
    for row, (numbers, means) in zip(rows, curves.values(), strict=True):
        row[np.searchsorted(rounds, numbers)] = means
        axes.plot(numbers, means, color=HONEST, linewidth=0.9, label="each seed", zorder=2)
    seen = np.isfinite(rows).sum(axis=0)
    middle = np.nansum(rows, axis=0) / np.maximum(seen, 1)
    deviation = np.sqrt(np.nansum((rows - middle) ** 2, axis=0) / np.maximum(seen - 1, 1))
    middle = np.where(seen > 0, middle, np.nan)
    axes.fill_between(
        rounds, middle - deviation, middle + deviation, color=HONEST, alpha=0.3, linewidth=0, label="± 1 deviation"
    )
    axes.plot(rounds, middle, color=MEAN, linewidth=2.4, label="mean", zorder=4)
    axes.set_title("Mean test accuracy of the honest peers")
    axes.set_ylim(*_accuracy_limits(np.vstack([rows, middle - deviation, middle + deviation])))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    _rounds(axes)
    _legend(figure, axes)
    return png(figure)


def traffic(history: History) -> bytes:
    """Bytes sent so far, by each peer and by all."""
    figure, (left, right) = _panels(2)
    _curves(left, history.rounds, history.sent, history.attacker)
    left.set_title("Sent by each peer so far")
    right.plot(history.rounds, history.sent.sum(axis=0), color=MEAN, linewidth=2.4)
    right.set_title("Sent by all peers so far")
    for axes in (left, right):
        _rounds(axes)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: size(value)))
    _legend(figure, left)
    return png(figure)


def judgement(history: History) -> tuple[str, Array] | None:
    """``("trust" | "weight", matrix)`` of each peer's last record; None where nobody weighed anybody who is here."""
    kind = "trust" if any(record.trust for record in history.last) else "weight"
    tables = [(record.trust if kind == "trust" else record.weights) or {} for record in history.last]
    column = {peer: j for j, peer in enumerate(history.peers)}
    matrix = np.full((len(tables), len(column)), np.nan)
    for row, table in zip(matrix, tables, strict=True):
        for peer, value in table.items():
            if peer in column:
                row[column[peer]] = value
    return (kind, matrix) if np.isfinite(matrix).any() else None


def trust(history: History) -> bytes | None:
    """Who trusts whom at the end, honest peers first; None where nobody weighed anybody."""
    found = judgement(history)
    if found is None:
        return None
    kind, matrix = found
    order = np.argsort(history.attacker, kind="stable")
    if len(order) > CELLS:
        order = order[np.linspace(0, len(order) - 1, CELLS).round().astype(int)]
    attacker = history.attacker[order]
    labels = [history.labels[i] for i in order]
    shown = matrix[np.ix_(order, order)]
    seen = shown[np.isfinite(shown)]  # none, where those who weighed are not among the peers shown
    side = min(7.5, 3.6 + 0.22 * len(order))
    figure = Figure(figsize=(side + 1.2, side), layout="constrained")
    axes = figure.subplots()
    low, high = (min(0.0, float(seen.min())), float(seen.max())) if len(seen) else (0.0, 1.0)
    axes.set_facecolor("#e4e4e4")
    image = axes.imshow(
        shown, cmap="Blues", norm=Normalize(low, high if high > low else low + 1), interpolation="nearest"
    )
    _cells(axes, labels, attacker)
    axes.set_title("Last trust" if kind == "trust" else "Last aggregation weights")
    axes.set_ylabel("who judges")
    axes.set_xlabel("who is judged")
    figure.colorbar(image, ax=axes, shrink=0.8, label=kind)
    return png(figure)


def topology(edges: Sequence[tuple[int, int]], history: History | None) -> bytes:
    """The graph of neighbours, or above GRAPH peers the distribution of their numbers of neighbours."""
    graph: nx.Graph[int] = nx.Graph()
    names = {r.index: label for r, label in zip(history.last, history.labels, strict=True)} if history else {}
    bad = {r.index for r in history.last if r.attacker} if history else set()
    graph.add_nodes_from(sorted(names))
    graph.add_edges_from((a, b) for a, b in edges if a != b)
    if len(graph) > GRAPH:
        return _degrees(graph)
    figure = Figure(figsize=(6.4, 6.0), layout="constrained")
    axes = figure.subplots()
    place = _places(graph)
    crowded = len(graph) > LINES
    shade = max(0.15, min(0.8, 60 / max(1, graph.number_of_edges())))
    nx.draw_networkx_edges(graph, place, ax=axes, edge_color="#6d7f90", width=0.8, alpha=shade)
    for colour, nodes in ((MEAN, [n for n in graph if n not in bad]), (ATTACKER, [n for n in graph if n in bad])):
        if nodes:
            nx.draw_networkx_nodes(
                graph, place, nodelist=nodes, ax=axes, node_color=colour, node_size=40 if crowded else 380
            )
    if not crowded:
        small = {node: str(node) for node in graph}
        nx.draw_networkx_labels(graph, place, small, ax=axes, font_size=9, font_color="white")
    axes.set_title(f"{len(graph)} peers, {graph.number_of_edges()} links")
    axes.set_axis_off()
    axes.margins(0.08)
    return png(figure)


def _places(graph: nx.Graph[int]) -> dict[int, Array]:
    if nx.density(graph) > 0.5 or len(graph) < 4:
        return dict(nx.circular_layout(graph))
    if len(graph) <= 100 and nx.is_connected(graph):
        return dict(nx.kamada_kawai_layout(graph))
    return dict(nx.spring_layout(graph, seed=0, iterations=200))


def _degrees(graph: nx.Graph[int]) -> bytes:
    figure, (axes,) = _panels(1)
    degrees = np.array([degree for _, degree in graph.degree])
    spread = int(degrees.max() - degrees.min()) + 1
    if spread <= 60:
        values, counts = np.unique(degrees, return_counts=True)
        axes.bar(values, counts, width=0.8, color=MEAN)
        axes.set_xlim(degrees.min() - 1.5, degrees.max() + 1.5)
    else:
        axes.hist(degrees, bins=40, color=MEAN)
    axes.set_title(f"Neighbours of a peer ({len(graph)} peers, {graph.number_of_edges()} links)")
    axes.set_xlabel("neighbours")
    axes.set_ylabel("peers")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return png(figure)


def _curves(axes: Axes, rounds: Array, rows: Array, attacker: Array) -> None:
    """One line a peer, or bands for many, and the mean of the honest."""
    marker = "o" if len(rounds) == 1 else None
    honest, bad = rows[~attacker], rows[attacker]
    if len(rows) <= LINES:
        for row in honest:
            axes.plot(rounds, row, color=HONEST, linewidth=0.9, marker=marker, label="honest peer", zorder=2)
        for row in bad:
            axes.plot(
                rounds, row, color=ATTACKER, linewidth=0.9, linestyle="--", marker=marker, label="attacker", zorder=3
            )
    else:
        _bands(axes, rounds, honest, HONEST, "honest peers")
        if len(bad):
            axes.plot(
                rounds, mean(bad), color=ATTACKER, linewidth=1.4, linestyle="--", label="attackers, mean", zorder=3
            )
            _bands(axes, rounds, bad, ATTACKER, "")
    if len(honest):
        axes.plot(rounds, mean(honest), color=MEAN, linewidth=2.4, marker=marker, label="honest, mean", zorder=4)


def _bands(axes: Axes, rounds: Array, rows: Array, colour: str, who: str) -> None:
    full = np.isfinite(rows).any(axis=0)
    if not full.any():
        return
    low, lower, upper, high = np.nanquantile(rows[:, full], [0.05, 0.25, 0.75, 0.95], axis=0)
    faint = 0.25 if who else 0.08
    for bottom, top, alpha, text in ((low, high, faint, "middle 90 %"), (lower, upper, 2 * faint, "middle half")):
        label = f"{who}, {text}" if who else None
        axes.fill_between(rounds[full], bottom, top, color=colour, alpha=alpha, linewidth=0, label=label)


def mean(rows: Array) -> Array:
    finite = np.isfinite(rows)
    count = finite.sum(axis=0)
    total = np.where(finite, rows, 0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _accuracy_limits(rows: Array) -> tuple[float, float]:
    finite = rows[np.isfinite(rows)]
    if not len(finite):
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    margin = max(0.01, 0.04 * (high - low))
    return max(0.0, math.floor(20 * (low - margin)) / 20), min(1.005, high + margin)


def _loss_limits(axes: Axes, rows: Array) -> None:
    """Limits from the honest peers, so that an attacker's loss cannot flatten them; logarithmic over two decades."""
    finite = rows[np.isfinite(rows)]
    if not len(finite):
        return
    low, high = float(finite.min()), float(finite.max())
    if low > 0 and high / low > 100:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.3, high * 1.3)
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(max(0.0, low - 0.1 * (high - low)) if low >= 0 else None, high + 0.05 * (high - low) + 1e-9)


def _cells(axes: Axes, labels: Sequence[str], attacker: Array) -> None:
    """Ticks of a heat map, attackers red, and a line between the honest and them."""
    count = len(labels)
    if count <= LINES:
        small = 9 if count <= 16 else 7
        axes.set_xticks(range(count), labels, rotation=90 if max(map(len, labels)) > 2 else 0, fontsize=small)
        axes.set_yticks(range(count), labels, fontsize=small)
        for axis in (axes.xaxis, axes.yaxis):
            for text, bad in zip(axis.get_ticklabels(), attacker, strict=True):
                text.set_color(ATTACKER if bad else "black")
    else:
        first = int(np.argmax(attacker)) if attacker.any() else count
        middles = [(first - 1) / 2, (first + count - 1) / 2] if 0 < first < count else [(count - 1) / 2]
        words = ["honest", "attackers"] if 0 < first < count else ["attackers" if first == 0 else "honest"]
        axes.set_xticks(middles, words)
        axes.set_yticks(middles, words, rotation=90, va="center")
        for axis in (axes.xaxis, axes.yaxis):
            for text, word in zip(axis.get_ticklabels(), words, strict=True):
                text.set_color(ATTACKER if word == "attackers" else "black")
    if attacker.any() and not attacker.all():
        border = int(np.argmax(attacker)) - 0.5
        axes.axvline(border, color=ATTACKER, linewidth=1)
        axes.axhline(border, color=ATTACKER, linewidth=1)
    axes.tick_params(length=0)


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(10 if count == 2 else 7, 4.2), layout="constrained")
    panels = list(np.atleast_1d(figure.subplots(1, count)))
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
    return figure, panels


def _rounds(axes: Axes) -> None:
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.01)
    low, high = axes.dataLim.intervalx
    if low == high:
        axes.set_xlim(low - 1, high + 1)


def _legend(figure: Figure, axes: Axes) -> None:
    """One entry a kind, below the panels."""
    handles, labels = axes.get_legend_handles_labels()
    kinds = dict(zip(labels, handles, strict=True))
    figure.legend(kinds.values(), kinds.keys(), loc="outside lower center", ncols=4, frameon=False)


def png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, format="png", dpi=130)
    return buffer.getvalue()
