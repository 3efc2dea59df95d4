"""Processes that do whole runs, each run in one process with one torch thread.

They are started like the workers of a simulation, and end when the process that started them does.
"""

from __future__ import annotations

import gc
import os
import pickle
import queue
import subprocess
import threading
import time
import warnings
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from coterie import data
from coterie import spec as specs
from coterie.data import CoterieDataWarning, Dataset
from coterie.errors import CoterieError, PluginError, RunError, WorkerLost
from coterie.runtime._result import facts_of
from coterie.runtime.matrix.plan import Tables, run_key
from coterie.runtime.results import Result
from coterie.runtime.simulation.build import Simulation
from coterie.runtime.simulation.workers import start_process
from coterie.spec import Spec

_LOSSES = 3
"""So many processes lost one after another, with no run done between: something is wrong with all of them."""


@dataclass(frozen=True)
class Job:
    """One run with one seed."""

    key: str
    tables: Tables
    seed: int
    base: str
    data_dir: str | None


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection
    job: Job


def run_jobs(jobs: Sequence[Job], processes: int) -> Generator[tuple[Job, Result], None, None]:
    """Each job with its result, as they end, from up to so many processes.

    A run that fails has a failed result. A process that is lost costs the job it was at; raises WorkerLost where three
    are lost in a row. When the iterator is closed, what is under way is given up.
    """
    waiting, workers, losses = deque(jobs), list[_Worker](), 0
    try:
        while waiting and len(workers) < processes:
            workers.append(_begin(waiting.popleft()))
        while workers:
            ready = wait([worker.connection for worker in workers])
            for worker in [each for each in workers if each.connection in ready]:
                job, result = worker.job, _outcome(worker)
                losses = losses + 1 if isinstance(result, WorkerLost) else 0
                if isinstance(result, WorkerLost):
                    workers.remove(worker)
                    if losses == _LOSSES:
                        raise result
                    if waiting:
                        workers.append(_begin(waiting.popleft()))
                    result = _failure(job, result)
                elif waiting:
                    worker.job = waiting.popleft()
                    _send(worker)
                else:
                    workers.remove(worker)
                    worker.connection.close()
                    worker.process.wait()
                yield job, result
    finally:
        for worker in workers:
            worker.process.kill()
            worker.connection.close()
        for worker in workers:
            worker.process.wait()


def _begin(job: Job) -> _Worker:
    worker = _Worker(*start_process(__name__), job)
    _send(worker)
    return worker


def _send(worker: _Worker) -> None:
    with suppress(OSError):  # it has died: the end of its pipe will tell
        worker.connection.send_bytes(pickle.dumps(worker.job, protocol=5))


def _outcome(worker: _Worker) -> Result | WorkerLost:
    try:
        found: Result = pickle.loads(worker.connection.recv_bytes())  # noqa: S301 - from our own process
    except (EOFError, OSError):
        worker.connection.close()
        return WorkerLost(
            f"a worker process ended with status {worker.process.wait()}",
            where=f"seed {worker.job.seed}",
            remedy="If the machine was out of memory, take fewer peers, a smaller model or fewer --jobs.",
        )
    return found


def _failure(job: Job, error: BaseException, spec: Spec | None = None, seconds: float = 0.0) -> Result:
    return Result.failure(error, seed=job.seed, spec_hash=spec.hash if spec else "", seconds=seconds)


def serve(descriptor: int) -> None:
    """The process's main loop: jobs come in, results go out. It ends at once when the parent has gone."""
    import torch

    import coterie.runtime.catalog  # noqa: F401 - fills the registries

    torch.set_num_threads(1)
    warnings.simplefilter("ignore", CoterieDataWarning)  # the parent has shown it
    connection: Connection[Any, Any] = Connection(descriptor)
    jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()

    def listen() -> None:
        while True:
            try:
                jobs.put(pickle.loads(connection.recv_bytes()))  # noqa: S301 - from our own parent
            except (EOFError, OSError):
                os._exit(0)  # in the middle of a run, too: nobody waits for it

    threading.Thread(target=listen, daemon=True).start()
    loaded: dict[str, Dataset] = {}
    while True:
        result = _run(jobs.get(), loaded)
        gc.collect()  # a finished simulation is full of cycles, and holds shared memory until they are found
        try:
            connection.send_bytes(pickle.dumps(result, protocol=5))
        except OSError:
            return


def _run(job: Job, loaded: dict[str, Dataset]) -> Result:
    """The result of one run; a failed one where it raises. ``loaded``: the data set of the last run, by name."""
    started, spec = time.monotonic(), None
    try:
        federation = {**job.tables.get("federation", {}), "seed": job.seed}
        spec = specs.check({**job.tables, "federation": federation}, Path(job.base))
        if run_key(spec) != job.key:
            raise PluginError(  # noqa: TRY301 - it is a failure like those below
                "a file that the spec names has changed since the matrix began",
                remedy="Begin it again with another --out.",
            )
        name = spec.data.dataset
        if name not in loaded:
            loaded.clear()
            loaded[name] = data.load(spec.dataset, Path(job.data_dir) if job.data_dir else None)
        with Simulation(
            spec, loaded[name], lambda _, runner, __: runner, lambda _: None, lambda *_: None
        ) as simulation:
            simulation.federation.run()
            figures = simulation.outcome()
    except CoterieError as error:
        return _failure(job, error, spec, time.monotonic() - started)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        return _failure(
            job, RunError(what, remedy="Run this cell alone to see more."), spec, time.monotonic() - started
        )
    return Result(status="ok", **facts_of(spec), **figures, seconds=time.monotonic() - started)
