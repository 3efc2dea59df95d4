"""Tables of one's own, from CSV files: one file, or a folder or pattern of them, one for each site."""

from __future__ import annotations

import contextlib
import csv as reader
import gzip
import itertools
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coterie.data.dataset import Array, Dataset, Integers, split_test
from coterie.errors import DataError
from coterie.registry import datasets

_EXACT = 2**53
"""From here on float64 does not tell all integers apart."""


@datasets.register("csv", takes_path=True)
def csv(argument: str, data_dir: Path | None) -> Dataset:
    """Rows of ``csv:PATH``, a header first or none: numbers between commas, and last the label, an integer or a word.

    PATH is a file, a folder (its ``*.csv`` and ``*.csv.gz``) or a pattern such as ``sites/*.csv``; files end in
    ``.gz`` where gzipped and are read as UTF-8. Each file is one group, in sorted order, for the partition ``files``.
    A first row in which no feature is a number is a header; all files have the same one, or none. Labels are integers
    or words; classes are numbered 0, 1 ... in their sorted order. Features are scaled as ``data.scaling`` says.

    Raises DataError naming file, line and column of the first value that is no finite number, for rows of different
    lengths, and for files that cannot be read.
    """
    sheets = [read_sheet(path) for path in _paths(Path(argument))]
    first = sheets[0]
    for sheet in sheets[1:]:
        if sheet.header != first.header or sheet.features.shape[1] != first.features.shape[1]:
            raise DataError(
                f"its columns are not those of {first.path}",
                where=str(sheet.path),
                remedy="Give all files the same columns in the same order, and the same header or none.",
            )
    features = np.concatenate([sheet.features for sheet in sheets])
    labels, names = classes_of(sheets)
    groups = np.repeat(np.arange(len(sheets)), [len(sheet.labels) for sheet in sheets])
    name = f"csv:{argument}"
    kept, test = split_test(labels, name)
    sides = features[kept], labels[kept], features[test], labels[test]
    return Dataset(name, *sides, len(names), groups[kept], unscaled=True, class_names=names)


@dataclass(frozen=True)
class Sheet:
    """One CSV file, read."""

    path: Path
    header: list[str] | None
    features: Array
    """(rows, columns - 1), float64, finite."""
    labels: list[str]
    lines: list[int]
    """Of each row, the line of the file it ends on."""


def _paths(path: Path) -> list[Path]:
    found: list[Path] = []
    with contextlib.suppress(OSError, ValueError):  # a name too long, a pattern that is none
        if path.is_file():
            return [path]
        if path.is_dir():
            found = [*path.glob("*.csv"), *path.glob("*.csv.gz")]
        else:
            root = next(parent for parent in path.parents if parent.exists())
            found = [each for each in root.glob(str(path.relative_to(root))) if each.is_file()]
    if not found:
        raise DataError(
            f"there is no CSV file {path}",
            where="data.dataset",
            remedy="Name a file, a folder with *.csv or *.csv.gz, or a pattern; relative to the spec's folder.",
        )
    return sorted(found)


def read_sheet(path: Path) -> Sheet:
    """The rows of a CSV file; see ``csv``. Raises DataError as it does."""
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8-sig", newline="")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8-sig", newline="") as file
        ):
            rows = reader.reader(file, skipinitialspace=True)
            numbered = [(rows.line_num, row) for row in rows if row]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, reader.Error) as error:
        raise DataError(
            f"cannot be read: {error}", where=str(path), remedy="Give UTF-8 text, gzipped as .gz."
        ) from None
    header = None
    if numbered and len(numbered[0][1]) > 1 and not any(_is_number(cell) for cell in numbered[0][1][:-1]):
        header = [cell.strip() for cell in numbered.pop(0)[1]]
    if not numbered:
        raise DataError("it has no rows", where=str(path), remedy="Give at least one.")
    width = len(header or numbered[0][1])
    if width < 2:
        first = ",".join(header or numbered[0][1])
        other = next((f", not by {mark!r}" for mark in ";\t|" if mark in first), "")
        remedy = f"Separate the columns by commas{other}; the label comes last."
        raise DataError("it has one column", where=str(path), remedy=remedy)
    for line, row in numbered:
        if len(row) != width:
            raise DataError(f"{len(row)} columns, not {width}", where=f"{path} line {line}", remedy="Mend that row.")
    lines = [line for line, _ in numbered]
    cells = [row[:-1] for _, row in numbered]
    return Sheet(path, header, _numbers(path, header, lines, cells), [row[-1].strip() for _, row in numbered], lines)


def _numbers(path: Path, header: list[str] | None, lines: list[int], cells: list[list[str]]) -> Array:
    try:
        flat = np.fromiter(map(float, itertools.chain.from_iterable(cells)), dtype=np.float64)
        if np.isfinite(flat).all():
            return flat.reshape(len(cells), -1)
    except ValueError:
        pass
    for line, row in zip(lines, cells, strict=True):
        for column, cell in enumerate(row):
            if not _is_number(cell) or not math.isfinite(float(cell)):
                name = f"column {column + 1}" + (f" ({header[column]})" if header else "")
                raise DataError(
                    f"{cell!r} is not a finite number",
                    where=f"{path} line {line}, {name}",
                    remedy="All columns but the last hold numbers: fill in, encode or drop what is not one.",
                )
    raise DataError("cannot be read as numbers", where=str(path), remedy="Mend the file.")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def classes_of(sheets: list[Sheet]) -> tuple[Integers, tuple[str, ...]]:
    """Each row's class, int64, and what each class is called. Labels are numbers only if all of them are.

    Raises DataError naming the first that is neither a word nor an integer that float64 can tell from the next.
    """
    words = [label for sheet in sheets for label in sheet.labels]
    if all(_is_number(word) for word in words):
        values = np.array([float(word) for word in words])
        wrong = ~(np.abs(values) < _EXACT) | (values != np.floor(values))
    else:
        values = np.array(words, dtype=object)
        wrong = np.array([word == "" for word in words])
    if wrong.any():
        row = int(np.argmax(wrong))
        places = [f"{sheet.path} line {line}" for sheet in sheets for line in sheet.lines]
        raise DataError(
            f"the label is {words[row]!r}",
            where=places[row],
            remedy="The last column holds the label: an integer or a word.",
        )
    known, labels = np.unique(values, return_inverse=True)
    return labels.astype(np.int64), tuple(str(int(each)) if isinstance(each, float) else each for each in known)
