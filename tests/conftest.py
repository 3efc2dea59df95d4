"""For all tests: one torch thread a process, as the tests run in several; and no test fails for being slow.

Ctrl-C works in processes that tests start, also where the tests run in a script's background, which ignores it.
"""

import signal

import torch
from hypothesis import settings

signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)
settings.register_profile("coterie", deadline=None)
settings.load_profile("coterie")
