"""``python -m coterie.runtime.node HOME``: what ``coterie node`` does, for a process that another one watches."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from coterie.errors import CoterieError
from coterie.runtime.node import logs


def main() -> None:
    """Run the node of the home that is named. Exits with 2 or 1 for what keeps it from running."""
    torch.set_num_threads(1)
    logs.begin(as_json=os.environ.get("COTERIE_LOG") == "json")
    import coterie.runtime.catalog  # noqa: F401 - fills the registries
    from coterie.runtime.node.daemon import run_node

    try:
        run_node(Path(sys.argv[1]))
    except CoterieError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
