"""Where the files of a dataset lie on this computer, and how to get them where they do not.

The search goes through the folder the caller names, the one in the environment variable ``COTERIE_DATA``, and the
user's cache (``$XDG_CACHE_HOME/coterie`` or ``~/.cache/coterie``); then the files are downloaded into the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import os
import tempfile
import urllib.request
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from coterie.errors import DataError

VARIABLE = "COTERIE_DATA"
TIMEOUT_SECONDS = 30.0
"""How long a server may stay silent."""
_CHUNK = 1 << 20
_log = logging.getLogger(__name__)


class CoterieDataWarning(UserWarning):
    """A data file can be used but is not what it seems to be."""


@dataclass(frozen=True)
class PublishedFile:
    """A file as its authors published it. ``name`` may end in ``.gz``; a local copy may then be unpacked."""

    name: str
    sha256: str
    size: int
    """Bytes."""

    def within(self, folder: Path) -> Path | None:
        """Where the file lies in ``folder``, as published or unpacked; None where it does not."""
        for name in (self.name, self.name.removesuffix(".gz")):
            if (folder / name).is_file():
                return folder / name
        return None


def cache_dir() -> Path:
    """The user's cache folder; it need not exist."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "coterie"


def folders(dataset: str, data_dir: Path | None) -> list[Path]:
    """Where the user may keep the files of ``dataset``, in the order of the search, the cache left out.

    ``data_dir`` and the folder in COTERIE_DATA, and in each the folder named ``dataset``. Raises DataError where
    one of the two does not exist.
    """
    variable = os.environ.get(VARIABLE)
    bases = {"--data-dir": data_dir, VARIABLE: Path(variable) if variable else None}
    for where, base in bases.items():
        if base is not None and not base.is_dir():
            raise DataError(f"there is no folder {base}", where=where, remedy="Name an existing folder.")
    return [folder for base in bases.values() if base is not None for folder in (base, base / dataset)]


def obtain(
    dataset: str, files: Sequence[PublishedFile], mirrors: Sequence[str], data_dir: Path | None
) -> dict[str, Path]:
    """The path of each of ``files``, by name: found, or downloaded from the first of ``mirrors`` that has it.

    ``data_dir`` and the folder in COTERIE_DATA may hold the files directly or in a folder named ``dataset``; the first
    folder that holds any must hold all. A local file that differs from the published one is taken with a
    CoterieDataWarning (an unpacked one has no published checksum). ``mirrors`` are addresses ending in a slash.

    Raises DataError where a folder that is named does not exist, where one holds only some of the files, and where a
    download fails.
    """
    for folder in folders(dataset, data_dir):
        found = {file.name: path for file in files if (path := file.within(folder))}
        if found:
            return _complete(dataset, files, found, folder)
    cache = cache_dir() / dataset
    paths = {file.name: file.within(cache) for file in files}
    _warn_of_changes([(file, path) for file in files if (path := paths[file.name])])
    return {file.name: paths[file.name] or _from_mirrors(dataset, file, files, mirrors, cache) for file in files}


def _complete(dataset: str, files: Sequence[PublishedFile], found: dict[str, Path], folder: Path) -> dict[str, Path]:
    missing = [file.name for file in files if file.name not in found]
    if missing:
        raise DataError(
            f"of the files of {dataset}, {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing",
            where=str(folder),
            remedy="Put all of them there (gzipped or unpacked), or none.",
        )
    _warn_of_changes([(file, found[file.name]) for file in files])
    return found


def _warn_of_changes(pairs: Sequence[tuple[PublishedFile, Path]]) -> None:
    for file, path in pairs:
        if path.name == file.name and _sha256(path) != file.sha256:
            warnings.warn(
                f"{path} differs from the published file (SHA-256 {file.sha256[:12]}...); it is used as it is, and "
                "figures may differ from published ones.",
                CoterieDataWarning,
                stacklevel=2,
            )


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot be read: {error}", where=str(path), remedy="Check its permissions.") from None


def _from_mirrors(
    dataset: str, file: PublishedFile, files: Sequence[PublishedFile], mirrors: Sequence[str], folder: Path
) -> Path:
    failures = []
    for mirror in mirrors:
        try:
            return download(mirror + file.name, file, folder)
        except DataError as error:
            failures.append(str(error))
    names = ", ".join(each.name for each in files)
    raise DataError(
        f"{file.name} is not on this computer and could not be downloaded ({'; '.join(failures)})",
        where=f"dataset {dataset}",
        remedy=f"Put {names} into a folder and name it with --data-dir or the environment variable {VARIABLE}, or put "
        f"them into {folder}.",
    )


def download(url: str, file: PublishedFile, folder: Path) -> Path:
    """Fetch ``url`` into ``folder`` under the name of ``file``, which it must be byte for byte.

    The content goes to a temporary file beside its place and is moved there once its SHA-256 is right, so other
    processes see all of it or nothing. Raises DataError for anything that fails, and then leaves nothing behind.
    """
    _log.info("downloading %s", url)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=folder)
    except OSError as error:
        raise DataError(f"cannot be written: {error}", where=str(folder), remedy="Check its permissions.") from None
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as sink:
            digest = _fetch(url, sink, limit=file.size)
        if digest != file.sha256:
            raise DataError(
                f"its SHA-256 is {digest}, not the published {file.sha256}",
                where=url,
                remedy="Something between here and there changed it; it was thrown away.",
            )
        partial.replace(folder / file.name)
    except (OSError, http.client.HTTPException, ValueError) as error:  # URLError and time-outs are OSErrors
        raise DataError(f"{type(error).__name__}: {error}", where=url) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
    return folder / file.name


def _fetch(url: str, sink: IO[bytes], limit: int) -> str:
    """Copy ``url`` to ``sink``, one byte past ``limit`` at most, and return the SHA-256 (hex) of what came."""
    digest, left = hashlib.sha256(), limit + 1
    request = urllib.request.Request(url, headers={"User-Agent": "coterie"})  # noqa: S310 - mirrors are ours
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310 - as above
        while left > 0 and (chunk := response.read(min(_CHUNK, left))):
            digest.update(chunk)
            sink.write(chunk)
            left -= len(chunk)
    return digest.hexdigest()
