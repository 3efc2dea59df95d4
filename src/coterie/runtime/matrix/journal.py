"""The file in which a matrix writes down each run as it ends, so that it can go on after any interruption.

A line is a JSON object. The first says what the matrix is; each other holds the result of one run with one seed. A line
is written whole and reaches the disk before the next run is counted; an unfinished last line is dropped.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from coterie.errors import CoterieError, DataError, OutputError, SpecError
from coterie.runtime.results import Result
from coterie.runtime.run_files import writing

SCHEMA = "coterie.cells/2"
_CUT = 160


class Journal:
    """``cells.jsonl``, open for appending by this process alone. A context manager."""

    def __init__(self, path: Path, definition: Mapping[str, Any]) -> None:
        """Open ``path``, or begin it.

        Raises SpecError where it belongs to another matrix than ``definition``, naming what differs; OutputError
        where it cannot be written or another process holds it; DataError for a damaged line.
        """
        self.path = path
        self.results: dict[tuple[str, int], Result] = {}
        with writing(self.path):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            self._lock()
            self._read(definition)
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def add(self, key: str, seed: int, result: Result) -> None:
        """Write down the result of the run ``key`` with this seed; it is on disk when this returns."""
        self._append({"key": key, "seed": seed, "result": result.to_json()})
        self.results[key, seed] = result

    def _append(self, record: Mapping[str, Any]) -> None:
        line = json.dumps(record, allow_nan=False, ensure_ascii=False).encode() + b"\n"
        with writing(self.path):
            while line:
                line = line[os.write(self._descriptor, line) :]
            os.fsync(self._descriptor)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputError(
                "another process is at work in it",
                where=str(self.path.parent),
                remedy="Wait for it, or name another directory with --out.",
            ) from None

    def _read(self, definition: Mapping[str, Any]) -> None:
        with writing(self.path):
            content = self.path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                os.ftruncate(self._descriptor, whole)  # killed while it wrote this line
        lines = content[:whole].splitlines()
        if not lines:
            self._append({"schema": SCHEMA, "definition": definition})
            return
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                if number == 1:
                    schema, known = record["schema"], dict(record["definition"])
                else:
                    self.results[record["key"], int(record["seed"])] = Result.from_json(record["result"])
            except (ValueError, KeyError, TypeError, AttributeError, CoterieError) as error:
                raise DataError(
                    f"the line cannot be read: {error}",
                    where=f"{self.path}, line {number}",
                    remedy="Remove that line: the run is done again." if number > 1 else "Name another --out.",
                ) from None
            if number == 1:
                self._compare(schema, known, definition)

    def _compare(self, schema: str, known: Mapping[str, Any], definition: Mapping[str, Any]) -> None:
        if schema != SCHEMA:
            raise DataError(
                f"the schema is {schema!r}, not {SCHEMA!r}", where=str(self.path), remedy="Name another --out."
            )
        changed = list(_differences(known, definition))
        if changed:
            raise SpecError(
                f"the matrix in this directory is another one: {'; '.join(changed)}",
                where=str(self.path.parent),
                remedy="Go on with what it was begun with, or name another directory with --out.",
            )


def _differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Each key whose value is not the same, with both values."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            place = f"{path}.{key}".removeprefix(".")
            yield from _differences(old.get(key), new.get(key), place.removeprefix("spec."))
    elif old != new:
        yield f"{path} is {_shown(new)} and was {_shown(old)}"


def _shown(value: Any) -> str:
    text = "not set" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _CUT else f"{text[:_CUT]}…"
