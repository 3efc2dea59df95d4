"""Packages for real connections: the extra ``coterie[node]``. The base install does without them."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

from coterie.errors import NetworkError

PACKAGES = {"grpc": "grpcio", "libtorrent": "libtorrent", "zstandard": "zstandard"}
"""By module, the name under which it is installed."""
REMEDY = "pip install 'coterie[node]'"


@cache  # asked for every frame, and it looks through all folders where the module was not imported yet
def is_there(module: str) -> bool:
    """Whether it is installed; it is not imported, since a process that is to fork must not hold gRPC."""
    return find_spec(module) is not None


def require(module: str, where: str) -> None:
    """Raise NetworkError, which names the extra, where a module is not installed."""
    if not is_there(module):
        raise NetworkError(f"{PACKAGES[module]} is not installed", where=where, remedy=REMEDY)
