"""Robust rules against ByzFL's, in turns on the same matrix.

ByzFL gets an environment of its own, in ~/.cache/coterie-bench/byzfl, made by this script when it is not there; it runs
in a process of its own there, with the same number of threads. Each turn times one call of ours and one of theirs; the
table has the medians, and the median of the turns' ratios, so that a drift of the machine's speed falls out. Both
results are compared. One pass over the memory, the sum of all values, is the unit of the last column.

    python benchmarks/aggregation.py [--peers 100] [--size 1000000] [--threads 2] [--turns 5]

A fifth of the rows lie far from the others, so that what is selected does not hang on rounding.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import coterie.runtime.catalog  # noqa: F401 - fills the registries
from coterie import registry
from coterie.aggregation import Context
from coterie.layout import Layout
from environments import python_with

SHARE = 0.2

THEIRS = """
import json, sys, time
import torch
library = torch.library.Library("torchvision", "DEF")  # a torchvision built for another torch wants these to exist
for name in ("nms", "qnms"):
    library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import numpy as np
import byzfl
matrix, result, threads, lost = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(threads)
rows = torch.from_numpy(np.load(matrix))
rules = {
    "mean": byzfl.Average,
    "krum": lambda: byzfl.Krum(lost),
    "multi_krum": lambda: byzfl.MultiKrum(lost),
    "median": byzfl.Median,
    "trimmed_mean": lambda: byzfl.TrMean(lost),
    "centred_clipping": lambda: byzfl.CenteredClipping(tau=1000.0),
}
print("ready", flush=True)
for line in sys.stdin:
    rule = rules[line.strip()]()
    started = time.perf_counter()
    vector = rule(rows)
    seconds = time.perf_counter() - started
    np.save(result, vector.numpy())
    print(json.dumps(seconds), flush=True)
"""
COMPARED: dict[str, dict[str, Any]] = {
    "mean": {},
    "krum": {"byzantine": SHARE},
    "multi_krum": {"byzantine": SHARE},
    "median": {},
    "trimmed_mean": {"byzantine": SHARE},
    "centred_clipping": {"radius": 1000.0},
}
ALONE: dict[str, dict[str, Any]] = {"geometric_median": {}, "bulyan": {}, "nnm": {}, "spectral": {}}


class Theirs:
    """ByzFL in its process."""

    def __init__(self, matrix: Path, threads: int, lost: int) -> None:
        self.result = matrix.with_name("theirs.npy")
        command = [python_with("byzfl", "byzfl"), "-c", THEIRS, matrix, self.result, threads, lost]
        self.process = subprocess.Popen(  # noqa: S603 - our own words
            [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if self._line() != "ready":
            raise OSError("its process did not start")

    def __call__(self, name: str) -> tuple[float, np.ndarray[Any, Any]]:
        """Seconds of one call, and what it gave."""
        print(name, file=self.process.stdin, flush=True)
        return json.loads(self._line()), np.load(self.result)

    def close(self) -> None:
        self.process.communicate(timeout=60)

    def _line(self) -> str:
        return self.process.stdout.readline().strip() if self.process.stdout else ""


def draw(peers: int, size: int) -> torch.Tensor:
    """Standard normal rows; the last fifth is twice as large and moved away by 3 in each coordinate."""
    rows = torch.randn(peers, size, generator=torch.Generator().manual_seed(0))
    rows[peers - int(SHARE * peers) :].mul_(2.0).add_(3.0)
    return rows


def ours(rows: torch.Tensor) -> Callable[[str, dict[str, Any]], tuple[float, np.ndarray[Any, Any]]]:
    """Times one call of our rule: the first row is the own one, the base is zero."""
    peers, size = rows.shape
    ids = tuple(map(str, range(1, peers)))
    context = Context(
        base=torch.zeros(size),
        own_id="own",
        peer_ids=ids,
        graph_weights=torch.full((peers,), 1 / peers),
        samples=(1,) * peers,
        round=0,
        rounds=1,
        layout=Layout((), size, size),
        founders=frozenset(ids),
    )

    def call(name: str, settings: dict[str, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        function = registry.rules.resolve(name, Path(), "").function
        started = time.perf_counter()
        vector, _, _ = function(rows[0], rows[1:], context, None, None, **settings)
        return time.perf_counter() - started, vector.numpy()

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=int, default=100, help="rows, the own one counted")
    parser.add_argument("--size", type=int, default=1_000_000, help="parameters of a model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = draw(options.peers, options.size)
    call = ours(rows)
    with tempfile.TemporaryDirectory() as folder:
        matrix = Path(folder) / "rows.npy"
        np.save(matrix, rows.numpy())
        try:
            theirs: Theirs | None = Theirs(matrix, options.threads, int(SHARE * options.peers))
        except (OSError, subprocess.SubprocessError) as error:
            print(f"ByzFL's environment cannot be made, so there is nothing to compare with: {error}")
            theirs = None
        memory = one_pass(rows, options.turns)
        print(
            f"{options.peers} rows of {options.size:,}, float32, {options.threads} threads; "
            f"one pass over the memory {memory * 1e3:.1f} ms; medians of {options.turns} turns"
        )
        print(f"{'rule':18s}{'ours ms':>10s}{'ByzFL ms':>10s}{'ratio':>8s}{'passes':>8s}  largest difference")
        for name, settings in (COMPARED | ALONE).items():
            other = theirs if name in COMPARED else None
            print(row(name, partial(call, name, settings), other, options.turns, memory), flush=True)
        if theirs:
            theirs.close()


def one_pass(rows: torch.Tensor, turns: int) -> float:
    """Median seconds of the sum of all values."""
    seconds = []
    for _ in range(turns + 1):
        started = time.perf_counter()
        rows.sum()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def row(
    name: str,
    call: Callable[[], tuple[float, np.ndarray[Any, Any]]],
    theirs: Theirs | None,
    turns: int,
    memory: float,
) -> str:
    """One line of the table. The first turn, which compiles, is not counted."""
    mine, others, difference = [], [], "-"
    for _ in range(turns + 1):
        seconds, vector = call()
        mine.append(seconds)
        if theirs:
            seconds, expected = theirs(name)
            others.append(seconds)
            gap = float(np.abs(vector - expected).max())
            difference = f"{gap:.1e}" if gap <= 1e-4 else f"{gap:.1e} THEY DISAGREE"
    middle = statistics.median(mine[1:])
    ratio = statistics.median(b / a for a, b in zip(mine[1:], others[1:], strict=True)) if others else None
    return (
        f"{name:18s}{middle * 1e3:10.1f}"
        + (f"{statistics.median(others[1:]) * 1e3:10.1f}{ratio:8.2f}" if others else f"{'-':>10s}{'-':>8s}")
        + f"{middle / memory:8.1f}  {difference}"
    )


if __name__ == "__main__":
    main()
