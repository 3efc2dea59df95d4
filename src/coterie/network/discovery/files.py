"""A file that is replaced whole or not at all."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from coterie.errors import OutputError


def replace_file(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, readable by its owner alone, so that a crash leaves the old file or the new one.

    Raises OutputError.
    """
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            with suppress(OSError):
                Path(temporary).unlink()
        raise OutputError(
            f"the file cannot be written: {error.strerror or error}",
            where=str(path),
            remedy="See that the folder exists, may be written, and that the disk is not full.",
        ) from None
