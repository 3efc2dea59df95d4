"""``python -m coterie.runtime.node HOME``: what ``coterie node`` does, for a process that another one watches."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from coterie.errors import CoterieError
from coterie.runtime.node import logs


def run(home: Path) -> int:
    """Run the node of a home until it is stopped; its exit status. What keeps it from running goes to stderr."""
    torch.set_num_threads(1)
    logs.begin(as_json=os.environ.get("COTERIE_LOG") == "json")
    import coterie.runtime.catalog  # noqa: F401 - fills the registries
    from coterie.runtime.node.daemon import run_node

    try:
        run_node(home)
    except CoterieError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1])))
