"""``coterie.run``: from a spec to a result and a run directory. ``coterie.load``: the final models back."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

import coterie.runtime.catalog  # noqa: F401 - fills the registries
from coterie import data
from coterie import spec as specs
from coterie.errors import CoterieError, DataError, SpecError, near_miss
from coterie.runtime.progress import Progress, Quiet
from coterie.runtime.report import write_report
from coterie.runtime.results import Result, RunDirectory
from coterie.runtime.simulation.build import Simulation
from coterie.runtime.simulation.jobs import Executor
from coterie.runtime.simulation.runner import Runner, build_module
from coterie.runtime.simulation.work import Setup
from coterie.runtime.simulation.workers import WorkerPool
from coterie.spec import Spec

T = TypeVar("T")
_ALONE = 5e9
"""Elements x samples of training below which starting worker processes takes longer than they save."""
_MAX_EDGES = 100_000
_MAX_MODELS = 100
"""How many peers' final models are written: the first honest ones."""


def run(
    spec: str | Path | Mapping[str, object] | Spec | None = None,
    *,
    sets: Iterable[str] = (),
    seeds: Sequence[int] | None = None,
    out: Path | None = None,
    data_dir: Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Result:
    """Run the federation that ``spec`` describes, in virtual time, and write its run directory.

    ``spec``: a TOML file, its tables, or nothing for the built-in digits federation; ``sets``: ``"table.key=value"``
    over it. ``seeds``: one run each, and a result of means and deviations. ``out``: a new directory (default
    ``runs/NAME``). ``workers``: worker processes, 0 for none; by default one a core, or none for a small run. The
    result does not depend on it.

    Raises SpecError, DataError, OutputError for what the user can mend, RunError for a run that could not go on; the
    run directory then holds the failed result.
    """
    checked = specs.load(spec, sets)
    wanted = checked.seeds if seeds is None else seeds
    chosen = [checked.with_values({"federation.seed": seed}) for seed in wanted]
    if not chosen or len({one.seed for one in chosen}) < len(chosen):
        raise SpecError("seeds must be one or more different numbers", where="seeds", remedy="Name each seed once.")
    return _interruptible(lambda stop: _run_all(chosen, out, data_dir, workers, progress or Quiet(), stop))


def load(directory: str | Path, peer: str | None = None) -> nn.Module:
    """The final model of ``peer`` (default: the first honest one) from a run directory, in evaluation mode.

    Raises DataError for a directory or a peer that is not there, and for a damaged file.
    """
    found = RunDirectory.open(Path(directory))
    files = {path.stem: path for path in sorted((found.path / "models").glob("*.safetensors"))}
    if not files:
        raise DataError("the run has no models", where=str(found.path), remedy="Name the directory of one run.")
    name = peer or next(iter(files))
    if name not in files:
        raise DataError(f"there is no model of {name!r}", where=str(found.path), remedy=near_miss(name, files))
    spec = specs.check(found.spec, found.path)
    try:
        with safe_open(files[name], "pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
            described = file.metadata()
        shape, classes = tuple(map(int, described["shape"].split(","))), int(described["classes"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot be read: {error}", where=str(files[name]), remedy="Run the spec again.") from None
    with _generators_kept():
        module = build_module(spec, shape, classes)
    module.load_state_dict(state)
    return module.eval()


def _run_all(
    chosen: Sequence[Spec],
    out: Path | None,
    data_dir: Path | None,
    workers: int | None,
    progress: Progress,
    stop: threading.Event,
) -> Result:
    parent = RunDirectory.create(out, chosen[0].federation.name)
    results = []
    with _generators_kept(), _Workers(workers, len(chosen)) as pool:
        for spec in chosen:
            several = len(chosen) > 1
            directory = RunDirectory.create(parent.path / f"seed-{spec.seed}", "") if several else parent
            results.append(_run_one(spec, directory, data_dir, pool, progress, stop))
    if len(results) == 1:
        return results[0]
    combined = Result.of_seeds(results, str(parent.path))
    parent.write_spec(chosen[0].resolved())
    parent.write_result(combined)
    write_report(parent.path)
    return combined


def _run_one(
    spec: Spec,
    directory: RunDirectory,
    data_dir: Path | None,
    pool: _Workers,
    progress: Progress,
    stop: threading.Event,
) -> Result:
    started, rounds = time.monotonic(), spec.federation.rounds
    known: dict[str, Any] = {
        "run": str(directory.path),
        "spec_hash": spec.hash,
        "seed": spec.seed,
        "protocol": spec.federation.protocol,
        "peers": spec.federation.peers,
        "rounds": rounds,
    }

    def on_round(index: int, accuracies: list[float], sent: int) -> None:
        progress.round_done(index + 1, rounds, accuracies, sent)

    try:
        directory.write_spec(spec.resolved())
        _keep_plugins(spec, directory)
        dataset = data.load(spec.dataset, data_dir)
        with Simulation(spec, dataset, pool.executor, directory.metrics, on_round, stop) as simulation:
            federation = simulation.federation
            progress.start(spec, len(federation.ids))
            if federation.topology.edge_count <= _MAX_EDGES:
                directory.write_topology(federation.topology.edges())
            federation.run()
            figures = simulation.outcome()
            described = {"shape": ",".join(map(str, dataset.shape)), "classes": str(dataset.classes)}
            for peer, state in simulation.models(_MAX_MODELS).items():
                directory.write_model(peer, state, described)
    except BaseException as error:
        failed = Result.failure(error, **known, seconds=time.monotonic() - started)
        directory.write_result(failed)
        write_report(directory.path)
        if isinstance(error, CoterieError):
            error.result = failed
        raise
    gc.collect()  # a finished simulation is full of cycles, and holds shared memory until they are found
    result = Result(status="ok", **known, **figures, seconds=time.monotonic() - started)
    directory.write_result(result)
    write_report(directory.path)
    progress.finish(result)
    return result


def _keep_plugins(spec: Spec, directory: RunDirectory) -> None:
    """Copy the user's own files beside ``spec.toml``, so that the run can be repeated from its directory."""
    for component in spec.components:
        source = Path(component.name.partition(":")[0])
        if component.file and source.suffix == ".py" and not source.is_absolute() and ".." not in source.parts:
            directory.write(str(source), Path(component.file).read_bytes())


class _Workers:
    """The worker processes of all runs of one call; started when the first run is large enough to want them."""

    def __init__(self, count: int | None, runs: int) -> None:
        self._count, self._runs = count, runs
        self._pool: WorkerPool | None = None

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.close()

    def executor(self, setup: Setup, local: Runner, work: float) -> Executor:
        """Who does the jobs of one run: worker processes, or ``local`` in this one."""
        count = self._count if self._count is not None else 0 if work * self._runs < _ALONE else os.cpu_count() or 1
        if count == 0:
            return local
        if self._pool is None:
            self._pool = WorkerPool(count)
        self._pool.prepare(setup, local.vectors)
        return self._pool


@contextmanager
def _generators_kept() -> Iterator[None]:
    """One torch thread in this process while it simulates; threads and global generators as before afterwards."""
    threads, numpy_state, python_state = torch.get_num_threads(), np.random.get_state(), random.getstate()  # noqa: NPY002
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)


def _interruptible(work: Callable[[threading.Event], T]) -> T:
    """Do the work so that Ctrl-C ends it between two steps of the simulation, and a second one at once.

    Where this thread runs an event loop, as in a notebook, the work gets a thread of its own.
    """
    stop = threading.Event()
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        with _stopping_on_interrupt(stop):
            return work(stop)
    outcome: list[T] = []
    failure: list[BaseException] = []

    def target() -> None:
        try:
            outcome.append(work(stop))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=target, name="coterie-run")
    thread.start()
    try:
        thread.join()
    except KeyboardInterrupt:
        stop.set()
        thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


@contextmanager
def _stopping_on_interrupt(stop: threading.Event) -> Iterator[None]:
    """SIGINT sets ``stop``: an exception raised in whatever happens to run could be swallowed there."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
