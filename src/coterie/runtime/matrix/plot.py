"""The heat maps of a matrix: one panel a split, with the figure written in each cell."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from coterie.runtime.matrix.tables import ACCURACY
from coterie.runtime.plots import ATTACKER, png

Record = Mapping[str, Any]
_CELL = 0.78, 0.46
"""Width and height of a cell in inches."""
_WRAP, _TALL = 14, 6
"""Characters in a line of a column's heading; more columns than this have it upright."""
_BEST = "#e07b00"


def heat_maps(record: Record) -> bytes:
    """``matrix.png``: mean accuracy of each cell, the best rule of a column framed, references below a line."""
    panels = record["panels"]
    rows = [len(panel["rules"]) + len(panel["references"]) for panel in panels]
    columns = max(len(panel["attacks"]) for panel in panels)
    names = [name for panel in panels for name in (*panel["rules"], *panel["references"])]
    headings = [name for panel in panels for name in panel["attacks"]]
    upright = columns > _TALL
    head = 0.07 * max(map(len, headings)) if upright else 0.17 * max(len(_wrapped(name)) for name in headings)
    heights = [number * _CELL[1] + head + 0.7 for number in rows]
    width = max(4.8, columns * _CELL[0] * (1 if upright else 1.35) + 0.075 * max(map(len, names)) + 1.5)
    figure = Figure(figsize=(width, sum(heights) + 0.3), layout=ConstrainedLayoutEngine(h_pad=0.12))
    grid = np.atleast_1d(figure.subplots(len(panels), 1, height_ratios=heights))
    values = [_values(panel) for panel in panels]
    seen = np.concatenate([each[np.isfinite(each)] for each in values])
    low, high = (float(seen.min()), float(seen.max())) if len(seen) else (0.0, 1.0)
    scale = PowerNorm(2, low, high if high > low else low + 0.01)  # what is good differs by little
    for axes, panel, shares in zip(grid, panels, values, strict=True):
        _panel(axes, panel, shares, scale, upright)
    bar = figure.colorbar(grid[0].images[0], ax=list(grid), shrink=min(1.0, 3.2 / sum(heights)), aspect=14)
    bar.set_label("mean test accuracy\nof the honest peers, %")  # in one line it is longer than a matrix of few rows
    ticks: list[float] = []
    for tick in sorted((float(tick) for tick in bar.get_ticks() if low <= tick <= high), reverse=True):
        if not ticks or scale(ticks[-1]) - scale(tick) > 0.07:
            ticks.append(tick)
    bar.set_ticks(ticks, labels=[f"{100 * tick:.0f}" if high - low > 0.05 else f"{100 * tick:.1f}" for tick in ticks])
    return png(figure)


def _values(panel: Record) -> NDArray[np.float64]:
    """Accuracies as (rows, columns), NaN for a cell that failed."""
    rows, columns = [*panel["rules"], *panel["references"]], panel["attacks"]
    shares = np.full((len(rows), len(columns)), np.nan)
    for cell in panel["cells"]:
        value = ACCURACY.value(cell)
        if value is not None and value["mean"] is not None:
            shares[rows.index(cell["row"]), columns.index(cell["attack"])] = value["mean"]
    return shares


def _panel(axes: Axes, panel: Record, shares: NDArray[np.float64], scale: Normalize, upright: bool) -> None:
    rows, columns = [*panel["rules"], *panel["references"]], panel["attacks"]
    axes.set_facecolor("#e4e4e4")
    image = axes.imshow(shares, cmap="Blues", norm=scale, aspect="auto", interpolation="nearest")
    axes.set_title(_plain(panel["title"]), fontsize=11, fontweight="bold", loc="left")
    axes.set_yticks(range(len(rows)), [_plain(row) for row in rows], fontsize=9)
    headings = columns if upright else ["\n".join(_wrapped(column)) for column in columns]
    axes.set_xticks(range(len(columns)), [_plain(heading) for heading in headings], fontsize=9)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    if upright:
        for label in axes.get_xticklabels():
            label.set(rotation=35, ha="left", rotation_mode="anchor")
    for label in axes.get_yticklabels()[len(panel["rules"]) :]:
        label.set_fontstyle("italic")
    for cell in panel["cells"]:
        place = columns.index(cell["attack"]), rows.index(cell["row"])
        _cell(axes, cell, place, scale)
    if panel["references"]:
        axes.axhline(len(panel["rules"]) - 0.5, color="black", linewidth=1.4)
    axes.spines[:].set_visible(False)
    image.set_zorder(0)


def _cell(axes: Axes, cell: Record, place: tuple[int, int], scale: Normalize) -> None:
    """The figure, its deviation below it, and a frame around the best of a column."""
    x, y = place
    value = ACCURACY.value(cell)
    if value is None or value["mean"] is None:
        axes.text(x, y, "failed", ha="center", va="center", fontsize=8, color=ATTACKER)
        return
    dark = scale(value["mean"]) > 0.6
    colour = "white" if dark else "#1c2733"
    several = len(cell["seeds"]) > 1
    lines = f"{100 * value['mean']:.1f}"
    axes.text(x, y - 0.12 * several, lines, ha="center", va="center", fontsize=9, color=colour)
    small = [f"± {100 * value['std']:.1f}"] if several else []
    small += [f"{len(cell['failed'])} failed"] if cell["failed"] else []
    if small:
        axes.text(x, y + 0.28, ", ".join(small), ha="center", va="center", fontsize=6.5, color=colour)
    if cell["best"]:
        axes.add_patch(Rectangle((x - 0.46, y - 0.45), 0.92, 0.9, fill=False, edgecolor=_BEST, linewidth=2))


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WRAP, break_long_words=False, break_on_hyphens=False) or [""]


def _plain(text: str) -> str:
    """No mathematics in what the user has named."""
    return text.replace("$", r"\$")
