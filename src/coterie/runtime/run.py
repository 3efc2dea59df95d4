"""``coterie.run``: from a spec to a result and a run directory. ``coterie.resume``: on from where a run stopped.
``coterie.load``: the final models back."""

from __future__ import annotations

import gc
import os
import random
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

import coterie.runtime.catalog  # noqa: F401 - fills the registries
from coterie import data
from coterie import spec as specs
from coterie.errors import CoterieError, DataError, LayoutMismatch, OutputError, SpecError, near_miss
from coterie.network import extra
from coterie.protocols import Topology
from coterie.runtime._result import facts_of
from coterie.runtime.interrupts import interruptible
from coterie.runtime.notebook import shown
from coterie.runtime.progress import Progress
from coterie.runtime.report import write_report
from coterie.runtime.results import Origin, Result, RunDirectory
from coterie.runtime.simulation import checkpoint
from coterie.runtime.simulation.build import Simulation
from coterie.runtime.simulation.stacked import StackedExecutor, chosen_device
from coterie.runtime.simulation.workers import WorkerPool
from coterie.runtime.tracking import Tracking, require
from coterie.runtime.work.descriptions import Setup
from coterie.runtime.work.runner import Runner, build_module
from coterie.runtime.work.tickets import Executor
from coterie.spec import Spec

PLACES = ("sim", "processes")
"""Where a federation can run."""
_ALONE = 5e9
"""Elements x samples of training below which starting worker processes takes longer than they save."""
_MAX_EDGES = 100_000
_MAX_MODELS = 100
"""How many peers' final models are written: the first honest ones."""
_MISTAKE = SpecError.exit_status
"""The exit status of what the user can mend."""


def run(
    spec: str | Path | Mapping[str, object] | Spec | None = None,
    *,
    sets: Iterable[str] = (),
    seeds: Sequence[int] | None = None,
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
    on: str = "sim",
    workers: int | None = None,
    track: Sequence[str] = (),
    progress: Progress | bool | None = None,
) -> Result:
    """Run the federation that ``spec`` describes, and write its run directory.

    ``spec``: a TOML file, its tables, or nothing for the built-in digits federation; ``sets``: ``"table.key=value"``
    over it. ``seeds``: one run each, and a result of means and deviations. ``out``: a new directory (default
    ``runs/NAME``). ``on``: "sim", in virtual time, or "processes": real nodes on this machine, one process a peer, that
    talk over TLS; ``[network]``, ``[compute]`` and ``[faults]`` mean nothing there, and such a run cannot be resumed.
    ``workers``: worker processes, 0 for none; by default one a core, or none for a small run. The
    result does not depend on it. ``track``: "tensorboard" (into the run directory) and "mlflow" (where
    ``MLFLOW_TRACKING_URI`` says), fed while the run goes on. ``progress``: by default a live bar in a notebook and
    nothing elsewhere; True for a live line on a terminal too, and plain lines where there is none; False for nothing;
    or a Progress of your own.

    Raises SpecError, DataError, OutputError for what the user can mend, RunError for a run that could not go on. The
    run directory then holds the failed result; but there is none where a mistake was found before anything was
    measured.
    """
    if on not in PLACES:
        raise SpecError(f"nothing runs on {on!r}", where="on", remedy=near_miss(on, PLACES))
    if on == "processes":
        extra.require("grpc", "on processes")
    checked = specs.load(spec, sets, seeds)
    chosen = checked.each_seed()
    trackers = require(track)
    directory = RunDirectory.create(None if out is None else Path(out), chosen[0].federation.name)
    folder = None if data_dir is None else str(Path(data_dir).resolve())
    origin = Origin(str(checked.base.resolve()), folder, trackers, on)
    with _named(directory), directory.locked(), shown(progress) as told:
        try:
            directory.write_spec(chosen[0].resolved(), checked.seeds)
            return interruptible(lambda stop: _run_all(chosen, directory, origin, workers, told, stop))
        except CoterieError as error:
            if error.exit_status == _MISTAKE and not directory.measured:
                directory.discard()
                if isinstance(error.result, Result):
                    error.result = replace(error.result, run="")
            raise


def resume(
    directory: str | Path,
    *,
    workers: int | None = None,
    track: Sequence[str] = (),
    progress: Progress | bool | None = None,
) -> Result:
    """Go on with a run that was interrupted or killed, from its last checkpoint; the result is that of one piece.

    Of several seeds, those that ended well are kept. A run without a checkpoint starts anew, one that is complete just
    gives its result. Data and plug-ins are looked for where the run found them. ``track``: trackers beside those that
    the run was begun with.

    Raises DataError for what is no run directory, a damaged checkpoint, or data that are not what they were, SpecError
    where the spec or a plug-in is not, OutputError while another process is at work on it, and what ``run`` raises.
    """
    found = RunDirectory.open(Path(directory))
    with _named(found), found.locked(), shown(progress) as told:
        origin = found.origin
        if origin.on != "sim" and not found.ended_well:
            raise SpecError(
                f"a run on {origin.on} has no checkpoints to go on from",
                where=str(found.path),
                remedy=f"Run it again: coterie run {found.path / 'spec.toml'} --on {origin.on}",
            )
        origin = replace(origin, track=require((*origin.track, *track)))
        chosen = specs.check(found.spec, Path(origin.base)).each_seed()
        return interruptible(lambda stop: _run_all(chosen, found, origin, workers, told, stop))


def load(directory: str | Path, peer: str | None = None) -> nn.Module:
    """The final model of ``peer`` (default: the first honest one) from a run directory, in evaluation mode.

    Raises DataError for a directory or a peer that is not there, and for a damaged file.
    """
    found = RunDirectory.open(Path(directory))
    files = found.models
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
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise LayoutMismatch(
            f"the model of the spec is not the one that was trained: {error}",
            where=str(files[name]),
            remedy="Bring back the file that defines it.",
        ) from None
    return module.eval()


def _run_all(
    chosen: Sequence[Spec],
    parent: RunDirectory,
    origin: Origin,
    workers: int | None,
    progress: Progress,
    stop: threading.Event,
) -> Result:
    """Run what has not ended well yet."""
    if parent.ended_well:
        return parent.result
    results = []
    ended = {seed: directory.result for seed, directory in parent.seeds.items() if directory.ended_well}
    if len(ended) < len(chosen):
        for spec in chosen:
            if spec.seed in ended:
                _require_same(spec, ended[spec.seed].spec_hash, parent)
    parent.write_origin(origin)
    with _generators_kept(), _Workers(workers, len(chosen)) as pool:
        for spec in chosen:
            if spec.seed in ended:
                results.append(ended[spec.seed])
                continue
            directory = parent.of_seed(spec.seed) if len(chosen) > 1 else parent
            directory.write_origin(origin)
            with Tracking(origin.track, directory) as tracking:
                results.append(_Run(spec, directory, origin, pool, progress, stop, tracking).go())
    if len(results) == 1:
        return results[0]
    combined = Result.of_seeds(results, str(parent.path))
    parent.write_result(combined)
    parent.forget_checkpoint()
    write_report(parent.path)
    return combined


@dataclass
class _Run:
    """The run of one seed, in a directory of its own."""

    spec: Spec
    directory: RunDirectory
    origin: Origin
    pool: _Workers
    progress: Progress
    stop: threading.Event
    tracking: Tracking

    def go(self) -> Result:
        """To its end, from the last checkpoint if there is one. What it raises is in the directory as well."""
        started, spec, directory = time.monotonic(), self.spec, self.directory
        saved = checkpoint.load(directory)
        if saved is not None:
            _require_same(spec, saved.spec_hash, directory)
            started -= saved.seconds
        else:
            directory.write_spec(spec.resolved())
        directory.cut_metrics(saved.metrics_bytes if saved else 0)
        known = {"run": str(directory.path), **facts_of(spec)}
        try:
            _keep_plugins(spec, directory)
            folder = self.origin.data_dir
            dataset = data.load(spec.dataset, None if folder is None else Path(folder))
            if saved is not None and saved.data != dataset.fingerprint:
                raise DataError(  # noqa: TRY301 - it is a failure like those below
                    "the data are not what they were when the run was interrupted",
                    where=str(directory.path),
                    remedy="Bring them back, or run the spec in another directory.",
                )
            figures = (
                self._processes(dataset) if self.origin.on == "processes" else self._simulation(dataset, saved, started)
            )
        except BaseException as error:
            failed = Result.failure(error, **known, seconds=time.monotonic() - started)
            with suppress(CoterieError):  # on a full disk, say, the error itself must still be told
                directory.write_result(failed)
                write_report(directory.path)
            if isinstance(error, CoterieError | KeyboardInterrupt):
                error.result = failed  # type: ignore[union-attr]  # cli.py shows it
            raise
        gc.collect()  # a finished simulation is full of cycles, and holds shared memory until they are found
        result = Result(status="ok", **known, **figures, seconds=time.monotonic() - started)
        directory.write_result(result)
        directory.forget_checkpoint()
        try:
            write_report(directory.path)
        except OutputError as error:
            error.remedy = f"The run itself is whole. Make room, then: coterie report {directory.path}"
            error.result = replace(result, status="failed", error=error.record())
            raise
        self.progress.finish(result)
        return result

    def _simulation(self, dataset: data.Dataset, saved: checkpoint.Saved | None, started: float) -> dict[str, Any]:
        """The figures at the end; models are written."""
        directory, record = self.directory, self.tracking.metrics
        with Simulation(self.spec, dataset, self.pool.executor, record, self._round_done, self.stop) as simulation:
            federation, arena = simulation.federation, simulation.arena
            self._begin(len(federation.ids), federation.topology)
            if saved is not None:
                checkpoint.restore(directory, saved, federation, arena)
            federation.run(
                lambda: checkpoint.save(directory, federation, arena, dataset.fingerprint, time.monotonic() - started)
            )
            figures = simulation.outcome()
            for peer, state in simulation.models(_MAX_MODELS):
                directory.write_model(peer, state, dataset.shape, dataset.classes)
        return figures

    def _processes(self, dataset: data.Dataset) -> dict[str, Any]:
        """The same by real nodes."""
        from coterie.runtime.node.processes import Processes  # needs what only real peers need

        folder, record = self.directory.path / "nodes", self.tracking.metrics
        processes = Processes(self.spec, dataset, folder, record, self._round_done, self.stop)
        self._begin(len(processes.nodes), processes.topology)
        processes.run()
        for peer, path in processes.models(_MAX_MODELS).items():
            self.directory.write(f"models/{peer}.safetensors", path.read_bytes())
        return processes.outcome()

    def _begin(self, peers: int, topology: Topology) -> None:
        self.progress.start(self.spec, peers)
        self.tracking.peers = peers
        if topology.edge_count <= _MAX_EDGES:
            self.directory.write_topology(topology.edges())

    def _round_done(self, index: int, accuracies: list[float], sent: int) -> None:
        self.progress.round_done(index + 1, self.spec.federation.rounds, accuracies, sent)


def _require_same(spec: Spec, spec_hash: str | None, directory: RunDirectory) -> None:
    """Raise SpecError unless what is there, of this hash, belongs to this very spec, plug-ins included."""
    if spec_hash != spec.hash:
        raise SpecError(
            "the spec, or a file that it names, is not what it was when the run was interrupted",
            where=str(directory.path),
            remedy="Bring it back, or run the new one in another directory.",
        )


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
        """Who does the jobs of one run: a CUDA device, worker processes, or ``local`` in this one."""
        device = chosen_device(local.spec)
        if device is not None:
            return StackedExecutor(local, device)
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
    threads, numpy_state, python_state = torch.get_num_threads(), np.random.get_state(), random.getstate()  # noqa: NPY002 - the user's
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
        np.random.set_state(numpy_state)  # noqa: NPY002 - the user's
        random.setstate(python_state)


@contextmanager
def _named(directory: RunDirectory) -> Iterator[None]:
    """The KeyboardInterrupt of Ctrl-C leaves with a ``result`` that names the run, so that it can be gone on with."""
    try:
        yield
    except KeyboardInterrupt as error:
        known = getattr(error, "result", None)
        if known is None or known.run != str(directory.path):  # it came before a run, or in that of one of the seeds
            error.result = Result.failure(error, run=str(directory.path))  # type: ignore[attr-defined]  # as above
        raise
