"""The files of a run directory: how their texts are made, and what is said where one cannot be written or read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import tomli_w

from coterie import files
from coterie.errors import DataError


def json_text(record: Mapping[str, Any]) -> bytes:
    """The content of a JSON file that people may read, too."""
    return f"{json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False)}\n".encode()


def spec_text(tables: Mapping[str, Any]) -> str:
    """A resolved spec as TOML; None is left out."""
    return tomli_w.dumps(_without_none(tables))


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value if item is not None]
    return str(value) if isinstance(value, Path) else value


def first_free(parent: Path, name: str) -> Path:
    """The first of ``NAME``, ``NAME-2`` ... in ``parent`` that is not there; it is made. Raises OutputError."""
    with writing(parent / name):
        parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            path = parent / (name if number == 1 else f"{name}-{number}")
            try:
                path.mkdir()
            except FileExistsError:
                number += 1
            else:
                return path


def writing(path: Path) -> AbstractContextManager[None]:
    """An OSError becomes an OutputError about ``path``."""
    remedy = "Check the free space and the permissions, or name another place with --out."
    return files.writing(path, remedy=remedy)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """An OSError becomes a DataError about ``path``."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(
            "there is no such file", where=str(path), remedy="Did the run end before it was written?"
        ) from None
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror or error}", where=str(path), remedy="Check the file."
        ) from None
