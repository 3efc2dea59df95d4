"""``RUN/tensorboard``: event files for TensorBoard, written without TensorFlow and without torch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from coterie.runtime.results import RunDirectory
from coterie.runtime.tracking.figures import Figures, flat, of_result, parameters


class TensorBoard:
    """Scalars by round, and the spec for the HPARAMS page. What was there of an earlier part of the run is written
    anew: ``metrics.jsonl`` still has all of it that counts."""

    def __init__(self, run: RunDirectory) -> None:
        self._run, self._last = run, 0
        self._writer: Any = None

    def rounds(self, rounds: Sequence[tuple[int, Figures]]) -> None:
        for round, figures in rounds:
            self._scalars(figures, round)
            self._last = round
        self._open().flush()

    def finish(self) -> None:
        run, writer = self._run, self._open()
        ok = run.ended_well
        if ok:
            self._scalars(of_result(run.result), self._last)
        ended = SessionEndInfo(status=STATUS_SUCCESS if ok else STATUS_FAILURE, end_time_secs=time.time())
        self._hparams(metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=ended))
        writer.close()

    def _open(self) -> Any:
        if self._writer is None:
            folder = self._run.path / "tensorboard"
            folder.mkdir(exist_ok=True)
            for path in folder.glob("events.out.tfevents.*"):
                path.unlink()
            self._writer = EventFileWriter(str(folder))
            # A TensorBoard that has the old file open forgets what it has read of it.
            self._add(session_log=SessionLog(status=SessionLog.START), step=0)
            begun = SessionStartInfo(start_time_secs=time.time())
            for name, text in parameters(self._run.spec).items():
                begun.hparams[name].string_value = text
            for name, value in flat(self._run.spec):
                if isinstance(value, int | float) and not isinstance(value, bool):
                    begun.hparams[name].number_value = float(value)  # TensorBoard sorts by what is a number
            self._hparams(metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=begun))
        return self._writer

    def _scalars(self, figures: Figures, step: int) -> None:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        self._open()
        self._add(summary=Summary(value=values), step=step)

    def _hparams(self, tag: str, content: HParamsPluginData) -> None:
        described = metadata.create_summary_metadata(content)
        value = Summary.Value(tag=tag, metadata=described, tensor=metadata.NULL_TENSOR)
        self._add(summary=Summary(value=[value]))

    def _add(self, **content: Any) -> None:
        self._writer.add_event(Event(wall_time=time.time(), **content))
