"""Coterie: train models together, with no shared data and no server that everybody must trust.

``coterie.run(spec) -> Result`` runs a federation, ``coterie.resume(directory)`` goes on with one that was interrupted,
and ``coterie.load(directory)`` gives a final model back. ``coterie.SwarmCallback`` brings a training script of your own
into a federation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coterie.runtime.results import Result
    from coterie.runtime.run import load, resume, run
    from coterie.swarm import SwarmCallback

__version__ = "0.1.0.dev0"
__all__ = ["Result", "SwarmCallback", "__version__", "load", "resume", "run"]


def __getattr__(name: str) -> Any:
    """Import torch and the rest only when they are wanted: ``coterie --help`` is quick."""
    if name == "Result":
        from coterie.runtime.results import Result

        return Result
    if name == "SwarmCallback":
        from coterie.swarm import SwarmCallback

        return SwarmCallback
    if name in ("load", "resume", "run"):
        from coterie.runtime import run as module

        return getattr(module, name)
    raise AttributeError(f"module 'coterie' has no attribute {name!r}")
