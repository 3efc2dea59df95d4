"""A merge in which its leader can be caught: ``mergeMethod="swarm_trap.py:trapped"``."""

import os
import threading
from contextlib import suppress
from pathlib import Path

import torch


def trapped(own, received, context, state, judge):
    """The weighted mean. Whoever finds a file ``trap`` makes it ``caught-PID``, and never gets on with its merge."""
    with suppress(FileNotFoundError):
        Path("trap").rename(f"caught-{os.getpid()}")
        threading.Event().wait()
    return context.graph_weights @ torch.cat([own[None], received]), context.graph_weights, state
