"""The figures of a matrix as tables for people: Markdown for a file, and rich tables for the console."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

Record = Mapping[str, Any]
_HEADING = 14
"""Characters in a line of a heading, unless a word is longer."""


@dataclass(frozen=True)
class Figure:
    """What a table shows of a cell."""

    title: str
    key: str
    mark: str
    """The key of a cell that says whether it is the best of its column."""

    def value(self, cell: Record) -> Record | None:
        """``{"mean", "std"}``; None where the cell has no such figure."""
        found: Record | None = cell[self.key]
        return found["mean"] if found is not None and self.key == "accuracy" else found

    def text(self, cell: Record) -> str:
        """``94.7 ± 0.5`` in percent; without a deviation for one seed; with the number of failed ones."""
        value = self.value(cell)
        if not cell["seeds"]:
            return "failed"
        if value is None or value["mean"] is None:
            return ""
        around = f" ± {100 * value['std']:.1f}" if len(cell["seeds"]) > 1 else ""
        failures = f" ({len(cell['failed'])} failed)" if cell["failed"] else ""
        return f"{100 * value['mean']:.1f}{around}{failures}"


ACCURACY = Figure("Mean test accuracy of the honest peers, %", "accuracy", "best")
ATTACK_RATE = Figure("Attack rate, %", "attack_rate", "least_attacked")


def shown(panel: Record) -> Iterator[tuple[Figure, list[str]]]:
    """The tables of a panel, each with its columns: accuracy, and attack rates where some cell has one."""
    yield ACCURACY, panel["attacks"]
    rules = panel["rules"]  # a reference may share one run between several attacks
    rated = {cell["attack"] for cell in panel["cells"] if cell["row"] in rules and cell["attack_rate"] is not None}
    if rated:
        yield ATTACK_RATE, [attack for attack in panel["attacks"] if attack in rated]


def markdown(record: Record) -> str:
    """``matrix.md``: for each split a table of accuracies, then one of attack rates; at the end what failed."""
    lines = [f"# {_safe(record['name'])}", "", f"{_about(record)} {_legend(record)}"]
    for panel in record["panels"]:
        cells = _by_place(panel)
        lines += ["", f"## {_safe(panel['title'])}"]
        for figure, columns in shown(panel):
            lines += ["", f"{figure.title}:", "", f"| | {' | '.join(map(_safe, columns))} |"]
            lines.append("|---" * (len(columns) + 1) + "|")
            for row in (*panel["rules"], *panel["references"]):
                texts = []
                for column in columns:
                    cell = cells[row, column]
                    text = figure.text(cell)
                    texts.append(f"**{text}**" if cell[figure.mark] and text else text)
                name = f"*{_safe(row)}*" if row in panel["references"] else _safe(row)
                lines.append(f"| {name} | {' | '.join(texts)} |")
    failures = list(_failures(record))
    if failures:
        lines += ["", "## What failed", "", *(f"- {_safe(failure)}" for failure in failures)]
    return "\n".join(lines) + "\n"


def show(record: Record, console: Console) -> None:
    """Print the same tables; one that is too wide for the console is printed in parts."""
    console.print(Text(f"{_about(record)} {_legend(record, bold='bold')}"), soft_wrap=True)
    for panel in record["panels"]:
        for figure, columns in shown(panel):
            for part in _parts(panel, figure, columns, console.width):
                title = f"\n{panel['title']}: {figure.title[0].lower()}{figure.title[1:]}"
                console.print(Text(title, "bold"), soft_wrap=True)
                console.print(_table(panel, figure, part))
    for failure in _failures(record):
        console.print(Text(f"failed: {failure}", "red"), soft_wrap=True)


def _table(panel: Record, figure: Figure, columns: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for column in columns:
        heading = textwrap.wrap(column, _width(panel, figure, column), break_on_hyphens=False)
        table.add_column(Text("\n".join(heading)), justify="right", no_wrap=True)
    cells = _by_place(panel)
    for row in (*panel["rules"], *panel["references"]):
        texts = []
        for column in columns:
            cell = cells[row, column]
            style = "bold green" if cell[figure.mark] else "red" if not cell["seeds"] else ""
            texts.append(Text(figure.text(cell), style))
        table.add_row(Text(row, "italic" if row in panel["references"] else ""), *texts)
    return table


def _parts(panel: Record, figure: Figure, columns: Sequence[str], width: int) -> Iterator[list[str]]:
    """The columns in groups that fit beside the names of the rows; a long heading folds."""
    room = width - max(len(row) for row in (*panel["rules"], *panel["references"]))
    part: list[str] = []
    used = 0
    for column in columns:
        needed = _width(panel, figure, column) + 2
        if part and used + needed > room:
            yield part
            part, used = [], 0
        part.append(column)
        used += needed
    yield part


def _width(panel: Record, figure: Figure, column: str) -> int:
    """Of the widest figure of the column and the longest word of its heading, or enough for a short heading."""
    texts = [figure.text(cell) for cell in panel["cells"] if cell["attack"] == column]
    return max(min(len(column), _HEADING), *map(len, [*texts, *column.split()]))


def _about(record: Record) -> str:
    seeds = ", ".join(map(str, record["seeds"]))
    return (
        f"{record['peers']} peers, {record['rounds']} rounds of {record['protocol']}, "
        f"{'seeds' if len(record['seeds']) > 1 else 'seed'} {seeds}."
    )


def _legend(record: Record, bold: str = "bold") -> str:
    spread = "Mean ± standard deviation over the seeds; " if len(record["seeds"]) > 1 else ""
    references = any(panel["references"] for panel in record["panels"])
    rest = "; rows in italics are references and do not compete." if references else "."
    text = f"{spread}the best rule of a column is {bold}{rest}"
    return text[0].upper() + text[1:]


def _by_place(panel: Record) -> dict[tuple[str, str], Record]:
    return {(cell["row"], cell["attack"]): cell for cell in panel["cells"]}


def _failures(record: Record) -> Iterator[str]:
    """A sentence for each failed run of a cell; runs that several cells share are named once a panel."""
    for panel in record["panels"]:
        said = set()
        for cell in panel["cells"]:
            for seed, error in cell["failed"].items():
                where = f" ({error['where']})" if error.get("where") else ""
                text = f"{cell['row']}, seed {seed}: {error.get('what', '')}{where}"
                if cell["reference"] and text in said:
                    continue
                said.add(text)
                yield f"{panel['title']}, {cell['attack']}, {text}"


def _safe(text: str) -> str:
    """Text that Markdown shows as it is."""
    for mark in "\\|*_`<[":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
