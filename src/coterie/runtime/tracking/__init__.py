"""Runs shown by TensorBoard and kept by MLflow, while they go on or afterwards.

A tracker is fed by a process of its own that follows the run directory: it reads ``metrics.jsonl`` as the run writes
it. The run does nothing but start that process and tell it when it is over, so a tracking server that is down or slow
costs the run neither its bits nor its time, and nothing is lost: the run directory keeps what was not sent. Nothing of
TensorBoard or MLflow is imported in the process of the run.

Who sees what: TensorBoard's files stay in the run directory. The MLflow server, which ``MLFLOW_TRACKING_URI`` names,
gets the resolved spec, the figures of each round and the report; no model and no data.
"""

from coterie.runtime.tracking.feeders import TRACKERS, Tracking, export, require

__all__ = ["TRACKERS", "Tracking", "export", "require"]
