"""The processes that feed trackers, seen from the run: started with the first figures, and told of the end."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Self

from coterie.errors import OutputError, SpecError, near_miss
from coterie.runtime.results import PeerMetrics, RunDirectory

TRACKERS = ("tensorboard", "mlflow")
"""Also the names of their packages, and of the extras."""
_PATIENCE = 30.0
"""Seconds after a run for what is still to be sent."""
_SHORT_PATIENCE = 3.0
"""The same where the tracker has had trouble."""
_log = logging.getLogger("coterie.tracking")


def require(names: Sequence[str], where: str = "track") -> tuple[str, ...]:
    """The trackers of these names, each once. Raises SpecError for one that there is not, or is not installed."""
    for name in names:
        if name not in TRACKERS:
            raise SpecError(f"there is no tracker {name!r}", where=where, remedy=near_miss(name, TRACKERS))
        if importlib.util.find_spec(name) is None:
            raise SpecError(f"{name} is not installed", where=where, remedy=f"pip install 'coterie[{name}]'")
    return tuple(dict.fromkeys(names))


class Tracking:
    """The trackers of one run. They start with the first figures; leaving it, as a context, ends all of them."""

    def __init__(self, names: Sequence[str], directory: RunDirectory) -> None:
        self._names, self._directory = names, directory
        self._feeders: list[_Feeder] = []
        self.peers = 1
        """How many tell of a round."""

    def metrics(self, record: PeerMetrics) -> None:
        """Append to ``metrics.jsonl``, which the trackers follow from now on."""
        self._directory.metrics(record)
        if not self._feeders:
            self._feeders = [_Feeder(name, self._directory.path, self.peers) for name in self._names]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for feeder in self._feeders:
            feeder.finish()
        for feeder in self._feeders:
            feeder.wait()


def export(directory: Path, names: Sequence[str]) -> list[str]:
    """Give what a run directory, or a node's home, holds to the trackers; with several seeds each of them.

    Where it went, one line each. What is there already is left out, or written anew. Raises DataError for what is no
    run directory, SpecError for a tracker that there is not, OutputError where it cannot be had.
    """
    wanted = require(names, "--to")
    run, told = RunDirectory.open(directory), []
    for one in run.seeds.values() or [run]:
        peers = len({record.peer for record in one.records})
        for name in wanted:
            feeder = _Feeder(name, one.path, max(1, peers), quiet=True)
            feeder.finish()
            feeder.wait(long=True)
            if feeder.trouble or feeder.failed:
                raise OutputError(
                    feeder.trouble or "it could not be exported",
                    where=name,
                    remedy="Mend that, and export it again: what is there already is not sent twice.",
                )
            told.append(_gone(name, one.path))
    return told


def _gone(name: str, folder: Path) -> str:
    """Where the figures of a run have gone."""
    if name == "tensorboard":
        return f"Wrote {folder / 'tensorboard'}"
    record = json.loads((folder / "mlflow.json").read_text())
    return f"{folder} is run {record['run_id']} at {record['tracking_uri']}"


class _Feeder:
    """One process that feeds one tracker. ``quiet``: its trouble is not logged."""

    def __init__(self, name: str, folder: Path, peers: int, *, quiet: bool = False) -> None:
        self._name, self._folder, self._quiet = name, folder, quiet
        self.trouble = ""
        """What went wrong first."""
        self._process: subprocess.Popen[str] | None = None
        command = [sys.executable, "-P", "-m", "coterie.runtime.tracking", name, str(folder), str(peers)]
        path = os.pathsep.join(entry for entry in sys.path if entry)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - this very program
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C is for the run, which then says that it is over
            )
        except OSError as error:
            self._say(str(error))
            return
        self._listener = threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True)
        self._listener.start()

    @property
    def failed(self) -> bool:
        """Whether it has ended without giving everything to the tracker."""
        return self._process is None or self._process.poll() != 0

    def finish(self) -> None:
        """The run is over: let it send the rest."""
        process, self._until = self._process, time.monotonic() + (_SHORT_PATIENCE if self.trouble else _PATIENCE)
        if process is not None and process.stdin is not None:
            try:
                process.stdin.write("over\n")
                process.stdin.flush()
            except OSError:
                pass  # it has ended: ``wait`` tells

    def wait(self, *, long: bool = False) -> None:
        """Until it has ended; by default for a while, and no longer: then it is killed."""
        process = self._process
        if process is None:
            return
        try:
            process.wait(None if long else max(0.1, self._until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._say("it has not taken everything in time")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            self._listener.join()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
        if process.returncode:
            self._say("the process that feeds it has ended")

    def _listen(self, lines: IO[str]) -> None:
        for line in lines:
            try:
                self._say(json.loads(line)["trouble"])
            except (ValueError, KeyError, TypeError):
                continue  # what a library prints

    def _say(self, what: str) -> None:
        """Once a run."""
        if self.trouble:
            return
        self.trouble = what
        if not self._quiet:
            _log.warning(
                "%s: %s. The run goes on; what is missing there is sent later, or by: coterie export %s --to %s",
                self._name,
                what.rstrip("."),
                self._folder,
                self._name,
            )
