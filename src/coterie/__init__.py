"""Coterie: train models together, with no shared data and no server that everybody must trust.

``coterie.run(spec) -> Result`` runs a federation; ``coterie.load(run)`` gives its final model back.
"""

from __future__ import annotations

__version__ = "0.1.0.dev0"
