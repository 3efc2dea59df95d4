"""Environments of their own for the libraries that benchmarks compare with: nothing of theirs is installed here."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

CACHE = Path.home() / ".cache" / "coterie-bench"
CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"


def python_with(name: str, *packages: str) -> Path:
    """The Python of the environment ``name``, with these packages and torch; it is made where it is not there.

    Raises OSError or CalledProcessError where it cannot be made.
    """
    folder = CACHE / name
    python = folder / "bin" / "python"
    if not (folder / "made").is_file():
        print(f"installing {', '.join(packages)} in {folder}", file=sys.stderr, flush=True)
        venv.create(folder, clear=True, with_pip=True)
        pinned = [line for line in CONSTRAINTS.read_text().splitlines() if line.startswith(("torch==", "numpy=="))]
        (folder / "constraints.txt").write_text("\n".join(pinned))
        install = [python, "-m", "pip", "install", "--quiet", "-c", folder / "constraints.txt", *packages, "torch"]
        subprocess.run([str(part) for part in install], check=True, timeout=1800)  # noqa: S603 - our own words
        (folder / "made").touch()
    return python
