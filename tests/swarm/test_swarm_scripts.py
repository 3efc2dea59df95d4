"""The examples: how few lines a swarm costs, and that the scripts run, alone and together."""

import difflib
import importlib
import os
import sys
from functools import partial

import pytest
import torch
from swarm_meeting import Meeting, together

from coterie.swarm import participation
from coterie.training.frameworks import adapter_for
from fenced_blocks import CHECKOUT

FOLDER = CHECKOUT / "examples/swarm"
os.environ.setdefault("KERAS_BACKEND", "torch")
NEEDS_DATA = pytest.mark.skipif(not os.environ.get("COTERIE_DATA"), reason="COTERIE_DATA names no folder with the data")
PAIRS = {
    "mnist_pytorch": ({"epochs": 2, "samples": 2000}, 6, 3),
    "mnist_keras": ({"epochs": 1, "samples": 1500}, 3, 3),
    "credit_pytorch": ({"steps": 60}, 6, 4),
    "scikit": ({"epochs": 8}, 6, 3),
    "lora": ({"epochs": 1}, 3, 2),
}
"""Of each: settings that make it quick, how many lines the swarm may cost, and how many sites."""
DATA = {"mnist_pytorch", "mnist_keras", "credit_pytorch"}
CASES = [pytest.param(name, marks=[NEEDS_DATA] if name in DATA else []) for name in PAIRS]
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    yield importlib.import_module
    for name in [*PAIRS, *(f"{name}_swarm" for name in PAIRS)]:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", PAIRS)
def test_the_swarm_costs_few_lines(name):
    """Each line that was added, removed or changed counts; a changed one twice. Docstrings and blank lines do not."""
    plain, swarm = (_code(FOLDER / f"{each}.py") for each in (name, f"{name}_swarm"))
    changed = [line for line in difflib.ndiff(plain, swarm) if line[:2] in ("+ ", "- ")]
    assert 2 <= len(changed) <= PAIRS[name][1], changed


def _code(path):
    text = path.read_text()
    assert text.startswith('"""')
    return [line for line in text.split('"""', 2)[2].splitlines() if line.strip()]


@pytest.mark.parametrize("name", CASES)
def test_in_loopback_it_trains_as_the_plain_script_does(name, script, monkeypatch):
    settings = PAIRS[name][0]
    monkeypatch.setenv("SWARM_LOOPBACK", "True")
    vectors = []
    for each in (name, f"{name}_swarm"):
        _seed(name)
        vectors.append(_weights(script(each).main(0, **settings)[0]))
    assert torch.equal(*vectors)


def _seed(name):
    torch.manual_seed(0)
    if "keras" in name:
        import keras

        keras.utils.set_random_seed(0)


@pytest.mark.parametrize("name", [case for case in CASES if case.values != ("lora",)])
def test_sites_end_with_one_model(name, script, monkeypatch):
    """Not LoRA: Trainers of one process share state that is not for threads. It runs over a real swarm in e2e."""
    settings, _, sites = PAIRS[name]
    meeting = Meeting(sites)
    monkeypatch.setattr(participation, "open_session", lambda home: meeting.session())
    module = script(f"{name}_swarm")
    main = module.main
    found = together(*(partial(main, site, **settings) for site in range(sites)))
    vectors = [_weights(model) for model, _ in found]
    assert all(torch.equal(vector, vectors[0]) for vector in vectors)
    assert meeting.rounds >= 2
    assert len({figure for _, figure in found}) == 1
    assert found[0][1] > {"credit_pytorch": 0.55}.get(name, 0.6)


def _weights(model):
    adapter = adapter_for(model, hf_mode="peft" if hasattr(model, "peft_config") else "full")
    vector = torch.empty(adapter.layout.size)
    adapter.save_weights(vector)
    return vector
