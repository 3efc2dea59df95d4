"""Coterie: train models together, with no shared data and no server that everybody must trust.

``coterie.run(spec) -> Result`` runs a federation, ``coterie.resume(directory)`` goes on with one that was interrupted,
and ``coterie.load(directory)`` gives a final model back. ``coterie.SwarmCallback`` brings a training script of your own
into a federation.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coterie.runtime.results import Result
    from coterie.runtime.run import load, resume, run
    from coterie.swarm import SwarmCallback

__version__ = "0.1.0.dev0"
__all__ = ["Result", "SwarmCallback", "__version__", "load", "resume", "run"]


_HOMES = {
    "Result": "coterie.runtime.results",
    "SwarmCallback": "coterie.swarm",
    "load": "coterie.runtime.run",
    "resume": "coterie.runtime.run",
    "run": "coterie.runtime.run",
}


def __getattr__(name: str) -> Any:
    """Import torch and the rest only when they are wanted: ``coterie --help`` is quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'coterie' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
