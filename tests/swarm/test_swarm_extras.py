"""The base install does for PyTorch and scikit-learn; each extra that is absent says so in one sentence."""

import subprocess
import sys

import pytest

HIDE = """
import os, sys
for name in {hidden!r}:
    sys.modules[name] = None
os.environ["SWARM_LOOPBACK"] = {loopback!r}
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


def run(hidden, code, loopback=""):
    script = HIDE.format(hidden=hidden, loopback=loopback) + code
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)


def test_the_base_install_does_for_pytorch():
    done = run(EXTRAS, BASE)
    assert done.stdout == "done\n", done.stderr


@pytest.mark.parametrize(
    ("package", "code", "extra"),
    [
        ("keras", "import coterie.swarm.keras", "keras"),
        ("transformers", "import coterie.swarm.hf", "hf"),
        (
            "peft",
            "from coterie.training.frameworks import adapter_for\n"
            "import torch\n"
            "adapter_for(torch.nn.Linear(2, 2), platform='HF', hf_mode='peft').check_platform()",
            "hf",
        ),
        (
            "keras",
            "import coterie, torch\ncoterie.SwarmCallback(2, 2, model=torch.nn.Linear(2, 2), mlPlatform='KERAS')",
            "keras",
        ),
    ],
)
def test_an_extra_that_is_absent_says_so(package, code, extra):
    done = run([package], code)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    sentence = f"mlPlatform: {package} is not installed pip install 'coterie[{extra}]'"
    assert last == f"coterie.errors.ModelError: {sentence}"


def test_keras_without_its_backend_says_what_to_do():
    code = "import os\nos.environ['KERAS_BACKEND'] = 'tensorflow'\nimport coterie.swarm.keras"
    done = run(["tensorflow"], code)
    last = done.stderr.strip().splitlines()[-1]
    assert "Install tensorflow, or set KERAS_BACKEND=torch before Keras is imported." in last


def test_importing_coterie_imports_no_framework():
    code = "import coterie; print(sorted({'torch', 'keras', 'transformers', 'sklearn'} & set(sys.modules)))"
    assert run([], code).stdout == "[]\n"
