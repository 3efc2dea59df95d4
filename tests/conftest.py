"""For all tests: one torch thread a process, as the tests run in several; and no test fails for being slow."""

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("coterie", deadline=None)
settings.load_profile("coterie")
