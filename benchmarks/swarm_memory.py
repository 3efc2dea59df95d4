"""Memory of the processes of a swarm with a large model, and the seconds that a merge takes, end to end.

Each site is a process with a script of its own: a linear layer in PyTorch that is moved instead of trained - no
gradient, no optimizer -, and a ``SwarmCallback``. All are on this machine and meet through TCP and TLS.

Memory is what the kernel says of each process, looked at ten times a second: the most it has in anonymous and shared
pages together, and the most in all (VmHWM), which counts pages of files too: those of libraries, about 190 MiB, and
models on disk that are mapped, which the system takes back when it needs memory. The script's own model is in there
once. Compare with ``--size 1``.

Seconds of a merge: from the last check-in to the last site that goes on from the merged model. The opening, by which
all begin alike, is left out; the last one is that by which all end, which waits until every site has it.

    python benchmarks/swarm_memory.py [--sites 4 8] [--size 25000000] [--merges 3] [--folder DIR]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_LOOK = 0.1
_LEAST_MIB = 3000
"""That must stay available on this machine."""
_MIB = 1 << 20
_ANONYMOUS, _SHARED, _ALL = "RssAnon", "RssShmem", "VmHWM"


def site(number: int, size: int, merges: int) -> None:
    """One site's script; it prints, for each merge, when it checks in and when it goes on."""
    import torch

    from coterie import SwarmCallback

    torch.set_num_threads(1)
    model = torch.nn.Linear(size, 1, bias=False)
    swarm = SwarmCallback(syncFrequency=1, minPeers=2, model=model)
    swarm.on_train_begin()
    for merge in range(merges + 1):
        with torch.no_grad():
            model.weight.add_(0.001 * (number + 1))
        began = time.monotonic()
        if merge < merges:
            swarm.on_batch_end()
        else:
            swarm.on_train_end()
        print(began, time.monotonic(), flush=True)


def swarm(folder: Path, sites: int, size: int, merges: int) -> None:
    """Run one, and print its table."""
    from coterie.runtime.node.founding import found_run, spec_to_found

    names = [f"site-{number}" for number in range(sites)]
    homes = found_run([folder / name for name in names], spec_to_found(None, "large"), None, names, range(sites))
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for number, home in enumerate(homes):
            environment = os.environ | {"COTERIE_HOME": str(home.path), "OMP_NUM_THREADS": "1"}
            command = [sys.executable, __file__, "--site", str(number), "--size", str(size), "--merges", str(merges)]
            with (folder / f"{number}.out").open("w") as out, (folder / f"{number}.log").open("w") as log:
                processes.append(subprocess.Popen(command, stdout=out, stderr=log, env=environment))  # noqa: S603 - this script
        introduce(homes, processes, folder)
        peaks = watch(processes, folder)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    seconds = seconds_of([folder / f"{number}.out" for number in range(sites)])
    print(f"{sites} sites, {size:,} parameters ({4 * size / _MIB:.0f} MiB)")
    print(f"seconds a merge: {', '.join(f'{each:.1f}' for each in seconds)}; median {statistics.median(seconds):.1f}")
    print(f"{'peak MiB':12s}{'anonymous and shared':>22s}{'all':>8s}")
    for name, (own, everything) in zip(names, peaks, strict=True):
        print(f"{name:12s}{own:22d}{everything:8d}", flush=True)


def introduce(homes: list[Any], processes: list[subprocess.Popen[bytes]], folder: Path) -> None:
    """Wait until all answer, and tell each where the others are."""
    from coterie.errors import NodeError
    from coterie.runtime.node.control import call

    ports: dict[str, str] = {}
    while len(ports) < len(homes):
        require_well(processes, folder)
        for home in homes:
            try:
                ports[home.identity.id] = f"127.0.0.1:{call(home.socket, {'command': 'status'}, seconds=5)['port']}"
            except NodeError:
                time.sleep(_LOOK)
    for home in homes:
        call(home.socket, {"command": "addresses", "addresses": ports})


def watch(processes: list[subprocess.Popen[bytes]], folder: Path) -> list[tuple[int, int]]:
    """Until all have ended; the peaks of each in MiB: anonymous and shared, and all."""
    peaks = [(0, 0)] * len(processes)
    while any(process.poll() is None for process in processes):
        for number, process in enumerate(processes):
            found = fields_of(Path(f"/proc/{process.pid}/status"))
            own = found.get(_ANONYMOUS, 0) + found.get(_SHARED, 0)
            peaks[number] = max(peaks[number][0], own), max(peaks[number][1], found.get(_ALL, 0))
        if fields_of(Path("/proc/meminfo"))["MemAvailable"] < _LEAST_MIB:
            sys.exit(f"less than {_LEAST_MIB} MiB of memory are left on this machine")
        time.sleep(_LOOK)
    require_well(processes, folder)
    return peaks


def fields_of(path: Path) -> dict[str, int]:
    """MiB, by the kernel's names; nothing of a process that has ended."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    rows = [line.split() for line in lines if line.endswith(" kB")]
    return {name.rstrip(":"): int(value) // 1024 for name, value, _ in rows}


def require_well(processes: list[subprocess.Popen[bytes]], folder: Path) -> None:
    """End with what a site has said that failed."""
    for number, process in enumerate(processes):
        if process.poll() not in (None, 0):
            sys.exit((folder / f"{number}.log").read_text())


def seconds_of(outs: list[Path]) -> list[float]:
    """Of each merge."""
    sites = [[tuple(map(float, line.split())) for line in out.read_text().splitlines()] for out in outs]
    return [max(end for _, end in merge) - max(began for began, _ in merge) for merge in zip(*sites, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--size", type=int, default=25_000_000, help="parameters of the model")
    parser.add_argument("--merges", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the homes are made; by default the system's for such")
    parser.add_argument("--site", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.site is not None:
        site(options.site, options.size, options.merges)
        return
    for sites in options.sites:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            swarm(Path(folder), sites, options.size, options.merges)


if __name__ == "__main__":
    main()
