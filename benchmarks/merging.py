"""Merges of models in files against numpy's straightforward ones, in turns, and the memory they take.

Eight models of random numbers are written to a temporary folder (3.2 GB for 100 million parameters). Each merge runs in
a process of its own and reads the files again, so that peak memory is that of one merge; of the seconds only reading
and merging count. Numpy's are: ``np.average`` of the stacked models; a sort, the cumulative weights and a choice in
each coordinate; Weiszfeld's iteration over the stacked models until its step is below 1e-6. For the last two numpy
works on 2^20 columns at a time, for else it would not fit: that is faster for it, too. The weights are 1, 2, 3, ...

Bounds: no more seconds than numpy, and for our merges at most 2 models + 500 MB of memory.

    python benchmarks/merging.py [--models 8] [--sizes 1000000 100000000] [--threads 2] [--turns 3]
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

MERGES = ("mean", "coordmedian", "geomedian")
_COLUMNS = 1 << 20


def make(folder: Path, models: int, size: int) -> None:
    """The files 0, 1, ...: standard normal, each model moved by its own number."""
    for j in range(models):
        draw = np.random.default_rng(j)
        with (folder / str(j)).open("wb") as file:
            for start in range(0, size, _COLUMNS):
                piece = draw.standard_normal(min(_COLUMNS, size - start), np.float32) + np.float32(j)
                file.write(piece.tobytes())


def ours(paths: list[Path], size: int, threads: int, method: str) -> tuple[float, NDArray[np.float32]]:
    """Seconds and outcome; one merge of little models before it has the loops compiled."""
    import torch

    from coterie.aggregation.merging import Readers, Vectors, merge
    from coterie.aggregation.merging.models import Piece
    from coterie.files import read_into

    def reader(file: BinaryIO) -> Callable[[int, Piece], None]:
        def read(start: int, out: Piece) -> None:
            if not read_into(out.data.cast("B"), file.fileno(), 4 * start):
                raise EOFError(file.name)

        return read

    torch.set_num_threads(threads)
    merge(Vectors({str(j): torch.randn(100) for j in range(3)}), [1, 1, 1], method)
    started = time.perf_counter()
    with ExitStack() as opened:
        models = Readers(size, {path.name: reader(opened.enter_context(path.open("rb"))) for path in paths})
        merged = merge(models, range(1, len(paths) + 1), method)
    return time.perf_counter() - started, merged.vector.numpy()


def numpys(paths: list[Path], method: str) -> tuple[float, NDArray[np.float32]]:
    """Seconds and outcome."""
    started = time.perf_counter()
    weights = np.arange(1.0, len(paths) + 1)
    rows = np.stack([np.fromfile(path, np.float32) for path in paths])
    if method == "mean":
        vector = np.average(rows, axis=0, weights=weights.astype(np.float32))
    elif method == "coordmedian":
        vector = np.concatenate([median(part, weights) for part in columns(rows)])
    else:
        vector = geometric_median(rows, weights)
    return time.perf_counter() - started, vector.astype(np.float32, copy=False)


def columns(rows: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """The rows, 2^20 columns at a time."""
    for start in range(0, rows.shape[1], _COLUMNS):
        yield rows[:, start : start + _COLUMNS]


def median(rows: NDArray[np.float32], weights: NDArray[np.float64]) -> NDArray[np.float32]:
    """The middle of the lower and the upper weighted median."""
    order = np.argsort(rows, axis=0)
    ordered = np.take_along_axis(rows, order, 0)
    below = np.cumsum(weights[order], axis=0)
    lower, upper = (below >= weights.sum() / 2).argmax(axis=0), (below > weights.sum() / 2).argmax(axis=0)
    pick = np.arange(rows.shape[1])
    return (ordered[lower, pick] + ordered[upper, pick]) / 2


def geometric_median(rows: NDArray[np.float32], weights: NDArray[np.float64]) -> NDArray[np.float32]:
    """Weiszfeld's iteration from the mean until the step is at most 1e-6 of the vector's length."""
    shares = (weights / weights.sum()).astype(np.float32)
    z = shares @ rows
    while True:
        squares = sum(
            ((part - at) ** 2).sum(axis=1, dtype=np.float64)
            for part, at in zip(columns(rows), columns(z[None]), strict=True)
        )
        pulls = shares / np.sqrt(squares)
        new = (pulls / pulls.sum()).astype(np.float32) @ rows
        step = np.linalg.norm(new - z) / np.linalg.norm(new)
        z = new
        if step <= 1e-6:
            return z


def child(who: str, method: str, folder: Path, size: int, threads: int) -> None:
    """One merge, in this process; its outcome to a file, seconds and peak memory to stdout."""
    paths = sorted(path for path in folder.iterdir() if path.name.isdigit())
    seconds, vector = ours(paths, size, threads, method) if who == "ours" else numpys(paths, method)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    vector.tofile(folder / f"{who}.out")
    print(json.dumps([seconds, peak]))


def run(who: str, method: str, folder: Path, size: int, threads: int) -> tuple[float, int]:
    """Seconds and peak bytes of one merge in a process of its own."""
    command = [sys.executable, __file__, "--child", who, method, str(folder), "--sizes", str(size)]
    done = subprocess.run([*command, "--threads", str(threads)], check=True, capture_output=True, text=True)  # noqa: S603
    seconds, peak = json.loads(done.stdout)
    return seconds, peak


def gap(folder: Path) -> float:
    """The largest difference between the two outcomes, read without much memory."""
    a, b = (np.memmap(folder / f"{who}.out", np.float32, "r") for who in ("ours", "numpy"))
    starts = range(0, len(a), _COLUMNS)
    return max(float(np.abs(a[s : s + _COLUMNS] - b[s : s + _COLUMNS]).max()) for s in starts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=8)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000_000, 100_000_000], help="parameters of a model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        who, method, folder = options.child
        child(who, method, Path(folder), options.sizes[0], options.threads)
        return
    print(f"{options.models} models in files, {options.threads} threads; medians of {options.turns} turns")
    print(f"{'parameters':>12s} {'merge':12s}{'ours s':>9s}{'numpy s':>9s}{'ratio':>7s}{'ours MB':>9s}{'numpy MB':>9s}")
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            wanted = 4 * size * (options.models + 2)
            if shutil.disk_usage(folder).free < 1.2 * wanted:
                sys.exit(f"{folder} has no room for {wanted / 1e9:.1f} GB; set TMPDIR to a folder that has")
            make(folder, options.models, size)
            for method in MERGES:
                print(compare(method, folder, size, options.threads, options.turns), flush=True)


def compare(method: str, folder: Path, size: int, threads: int, turns: int) -> str:
    """One line of the table."""
    mine, theirs = [], []
    for _ in range(turns):
        mine.append(run("ours", method, folder, size, threads))
        theirs.append(run("numpy", method, folder, size, threads))
    seconds, others = (statistics.median(taken for taken, _ in found) for found in (mine, theirs))
    ratio = statistics.median(a / b for (a, _), (b, _) in zip(mine, theirs, strict=True))
    peak, other = (max(most for _, most in found) / 1e6 for found in (mine, theirs))
    notes = [f"differ by {gap(folder):.0e}"]
    if ratio > 1:
        notes.append("SLOWER")
    if peak > 8 * size / 1e6 + 500:
        notes.append("TOO MUCH MEMORY")
    times = f"{seconds:9.3f}{others:9.3f}{ratio:7.2f}"
    return f"{size:12,d} {method:12s}{times}{peak:9.0f}{other:9.0f}  {', '.join(notes)}"


if __name__ == "__main__":
    main()
