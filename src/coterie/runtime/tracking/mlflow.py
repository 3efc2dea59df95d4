"""A run at MLflow: parameters, figures by round, final figures, and ``spec.toml``, ``result.json``, ``report.html``.

``MLFLOW_TRACKING_URI``, ``MLFLOW_EXPERIMENT_NAME`` and MLflow's own settings for credentials are honoured. The name of
the experiment is by default that of the federation. ``mlflow.json`` in the run directory remembers the run at MLflow,
so that a run that is resumed or exported again goes on there.
"""

from __future__ import annotations

import importlib.util
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any
from urllib.parse import urlsplit, urlunsplit

# One attempt more and 10 s each, where the user says nothing else: what fails is tried again anyway.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # a user who names a folder means it
if not os.environ.get("MLFLOW_TRACKING_URI") and importlib.util.find_spec("sqlalchemy") is None:
    os.environ["MLFLOW_TRACKING_URI"] = "mlruns"  # MLflow's own default is a database, which mlflow-skinny cannot open

import mlflow
from mlflow.entities import Metric, Param, RunStatus, RunTag
from mlflow.exceptions import MlflowException

from coterie.runtime.results import RunDirectory, json_text
from coterie.runtime.tracking.figures import Figures, of_result, parameters

_BATCH = 50
"""Parameters, or rounds, in a request: MLflow takes 100 parameters and 1000 figures."""
_ARTEFACTS = ("spec.toml", "result.json", "report.html")
_MARK = "accuracy/mean"
"""A figure of every round: by its last step a run that goes on is continued."""


class MLflow:
    """One run at MLflow."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._uri = mlflow.get_tracking_uri()
        self._client: Any = None
        self._id = ""
        self._last: int | None = None
        """The last round that the server has; None before it was asked."""

    def rounds(self, rounds: Sequence[tuple[int, Figures]]) -> None:
        with _private(self._uri):
            last, self._last = self._known(), None
            now = int(time.time() * 1000)
            new = [(step, figures) for step, figures in rounds if step > last]
            for batch in _batches(new):
                metrics = [Metric(name, value, now, step) for step, found in batch for name, value in found.items()]
                self._client.log_batch(self._id, metrics=metrics)
                last = batch[-1][0]
            self._last = last

    def finish(self) -> None:
        with _private(self._uri):
            last = self._known()
            result = self._run.result if (self._run.path / "result.json").exists() else None
            status = RunStatus.RUNNING
            if result is not None:
                now = int(time.time() * 1000)
                if result.ok:
                    figures = of_result(result)
                    known = self._client.get_run(self._id).data.metrics
                    metrics = [Metric(n, value, now, max(last, 0)) for n, value in figures.items() if n not in known]
                    tags = [
                        RunTag("coterie.model_hash", result.model_hash),
                        RunTag("coterie.spec_hash", result.spec_hash),
                    ]
                    self._client.log_batch(self._id, metrics=metrics, tags=tags)
                interrupted = (result.error or {}).get("code") == "interrupted"
                status = RunStatus.FINISHED if result.ok else RunStatus.KILLED if interrupted else RunStatus.FAILED
            for name in _ARTEFACTS:
                if (self._run.path / name).exists():
                    self._client.log_artifact(self._id, str(self._run.path / name))
            if status != RunStatus.RUNNING:
                self._client.set_terminated(self._id, RunStatus.to_string(status))

    def _known(self) -> int:
        """The last round that the server has, -1 before the first; the run is found or made."""
        if self._last is None:
            if not self._id:
                self._client = mlflow.MlflowClient(self._uri, registry_uri="")
                self._id = self._find() or self._make()
            history = self._client.get_metric_history(self._id, _MARK)
            self._last = max((metric.step for metric in history), default=-1)
        return self._last

    def _find(self) -> str:
        """The run that was begun earlier at this server; empty where there is none."""
        try:
            record = json.loads((self._run.path / "mlflow.json").read_text())
            if record["tracking_uri"] != _shown(self._uri):
                return ""
            found = self._client.get_run(record["run_id"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return ""
            raise
        if found.info.lifecycle_stage != "active":
            return ""
        self._client.update_run(found.info.run_id, status="RUNNING")
        return str(found.info.run_id)

    def _make(self) -> str:
        spec, client, folder = self._run.spec, self._client, self._run.path.resolve()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or spec["federation"]["name"]
        experiment = client.get_experiment_by_name(name)
        identifier = client.create_experiment(name) if experiment is None else experiment.experiment_id
        of_seed = folder.name.startswith("seed-")
        tags = {"coterie.run": folder.parent.name if of_seed else folder.name, "mlflow.source.name": "coterie"}
        title = f"{folder.parent.name}/{folder.name}" if of_seed else folder.name
        made = str(client.create_run(identifier, tags=tags, run_name=title).info.run_id)
        for batch in _batches([Param(key, value) for key, value in parameters(spec).items()]):
            client.log_batch(made, params=batch)
        self._run.write("mlflow.json", json_text({"tracking_uri": _shown(self._uri), "run_id": made}))
        return made


@contextmanager
def _private(uri: str) -> Iterator[None]:
    """Errors without the password that a URI may hold."""
    try:
        yield
    except Exception as error:
        shown = _shown(uri)
        raise ConnectionError(f"MLflow at {shown}: {str(error).replace(uri, shown)}") from None


def _shown(uri: str) -> str:
    """A URI without user and password."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else uri


def _batches(items: Sequence[Any]) -> Iterator[list[Any]]:
    """At most ``_BATCH`` at a time."""
    rest = iter(items)
    while batch := list(islice(rest, _BATCH)):
        yield batch
