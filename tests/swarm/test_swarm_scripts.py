"""The examples: how few lines a swarm costs, and that the scripts run, alone and together."""

import copy
import difflib
import importlib
import os
import sys
import threading
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
    "lora": ({"epochs": 4}, 3, 2),
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
    settings = PAIRS[name][0] | ({"epochs": 1} if name == "lora" else {})
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


@pytest.mark.parametrize("name", CASES)
def test_sites_end_with_one_model(name, script, monkeypatch):
    settings, _, sites = PAIRS[name]
    meeting = Meeting(sites)
    monkeypatch.setattr(participation, "open_session", lambda home: meeting.session())
    module = script(f"{name}_swarm")
    if name == "lora":  # threads share torch's generator: the frozen part would differ from site to site
        base = module.BertForSequenceClassification
        monkeypatch.setattr(module, "BertForSequenceClassification", _copies_of_one(base))
    main = module.main
    found = together(*(partial(main, site, **settings) for site in range(sites)))
    vectors = [_weights(model) for model, _ in found]
    assert all(torch.equal(vector, vectors[0]) for vector in vectors)
    assert meeting.rounds >= 2
    assert len({figure for _, figure in found}) == 1
    assert found[0][1] > {"lora": 0.2, "credit_pytorch": 0.55}.get(name, 0.6)


def _copies_of_one(make):
    kept, lock = [], threading.Lock()

    def copied(config):
        """A copy also for the first: PEFT changes in place what it is given, while another site may be copying."""
        with lock:
            if not kept:
                kept.append(make(config))
            return copy.deepcopy(kept[0])

    return copied


def _weights(model):
    adapter = adapter_for(model, hf_mode="peft" if hasattr(model, "peft_config") else "full")
    vector = torch.empty(adapter.layout.size)
    adapter.save_weights(vector)
    return vector
