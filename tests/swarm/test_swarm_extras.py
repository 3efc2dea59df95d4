"""The base install does for PyTorch and scikit-learn; each extra that is absent says so in one sentence."""

import subprocess
import sys

HIDE = """
import sys
for name in {hidden!r}:
    sys.modules[name] = None
"""
BASE = """
import torch, coterie
from coterie.swarm import Merged
from coterie.training.frameworks import conformance

class Alone:
    def begin(self, terms, layout, vector): return Merged(vector.clone(), 0, 1, 2, False)
    def sync(self, checkin): return Merged(checkin.vector.clone(), 1, 1, 2, False)
    def end(self, checkin): return self.sync(checkin)
    def close(self, figures): pass

model = torch.nn.Linear(3, 2)
swarm = coterie.SwarmCallback(2, 1, model=model, session=Alone(), adsValData=(torch.ones(2, 3), torch.zeros(2, 2)),
                              lossFunction="MSELoss")
for epoch in swarm.epochs(2):
    for _ in range(3):
        swarm.on_batch_end()
assert "keras" not in {name for name, module in sys.modules.items() if module}
print("done")
"""
EXTRAS = ("keras", "transformers", "peft", "accelerate", "grpc", "libtorrent", "zstandard", "uvloop", "torchmetrics")


def run(hidden, code):
    script = HIDE.format(hidden=hidden) + code
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)


def test_the_base_install_does_for_pytorch():
    done = run(EXTRAS, BASE)
    assert done.stdout == "done\n", done.stderr


ABSENT = """
import coterie, torch
from coterie.errors import ModelError
from coterie.training.frameworks import adapter_for

def keras_callback(): import coterie.swarm.keras
def hf_callback(): import coterie.swarm.hf
def platform(): coterie.SwarmCallback(2, 2, model=torch.nn.Linear(2, 2), mlPlatform="KERAS")
def mode(): adapter_for(torch.nn.Linear(2, 2), platform="HF", hf_mode="peft").check_platform()

for attempt in (keras_callback, hf_callback, platform, mode):
    try:
        attempt()
    except ModelError as error:
        print(error)
"""


def test_an_extra_that_is_absent_says_so():
    done = run(["keras", "transformers", "peft"], ABSENT)
    keras = "mlPlatform: keras is not installed. pip install 'coterie[keras]'"
    transformers = "mlPlatform: transformers is not installed. pip install 'coterie[hf]'"
    assert done.stdout.splitlines() == [keras, transformers, keras, transformers], done.stderr


NO_BACKEND = """
import os
os.environ["KERAS_BACKEND"] = "tensorflow"
try:
    import coterie.swarm.keras
except Exception as error:
    print(error)
from coterie.training.frameworks import adapter_for
import torch
try:
    adapter_for(torch.nn.Linear(2, 2), platform="HF", hf_mode="peft").check_platform()
except Exception as error:
    print(error)
"""


def test_a_missing_piece_of_an_extra_is_named():
    lines = run(["tensorflow", "peft"], NO_BACKEND).stdout.splitlines()
    assert lines[0].startswith("mlPlatform: keras cannot be imported: ")
    assert lines[0].endswith("Install tensorflow, or set KERAS_BACKEND=torch before Keras is imported.")
    assert lines[1] == "mlPlatform: peft is not installed. pip install 'coterie[hf]'"


def test_importing_coterie_imports_no_framework():
    code = "import coterie; print(sorted({'torch', 'keras', 'transformers', 'sklearn'} & set(sys.modules)))"
    assert run([], code).stdout == "[]\n"
