"""A file that is replaced whole or not at all."""

from __future__ import annotations

from pathlib import Path

from coterie.errors import OutputError
from coterie.files import write_file


def replace_file(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, readable by its owner alone, so that a crash leaves the old file or the new one.

    Raises OutputError.
    """
    try:
        write_file(path, content, mode=0o600)
    except OSError as error:
        raise OutputError(
            f"the file cannot be written: {error.strerror or error}",
            where=str(path),
            remedy="See that the folder exists, may be written, and that the disk is not full.",
        ) from None
