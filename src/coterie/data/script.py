"""``dataset = "script"``: each site's data are in its own training script, and never in a node's hands."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from coterie.errors import DataError
from coterie.registry import datasets


@datasets.register("script", script=True)
def script(argument: str, data_dir: Path | None) -> NoReturn:
    """For protocol swarm: each site's own training script has the data; no node reads them.

    Raises DataError: there is nothing here to load.
    """
    raise DataError(
        "the data of this federation are in each site's own training script",
        where="data.dataset",
        remedy="Start the script, with COTERIE_HOME set to the node's home.",
    )
