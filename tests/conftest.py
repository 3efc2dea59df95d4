"""For all tests: one torch thread a process, as the tests run in several."""

import torch

torch.set_num_threads(1)
