"""The examples as sites of a real swarm, on real data: one model at all of them. And two trainings in one script."""

import os
from pathlib import Path

import pytest
from real_scripts import one_model, swarm

from coterie.errors import NodeError
from coterie.runtime.node.home import Home
from coterie.swarm import SwarmCallback
from fenced_blocks import CHECKOUT

EXAMPLE = """
import hashlib, json, sys
sys.path.insert(0, {folder!r})
import torch
from {name} import main
from coterie.training.frameworks import adapter_for
model, right = main(int(sys.argv[1]), **{settings})
adapter = adapter_for(model, hf_mode="peft" if hasattr(model, "peft_config") else "full")
vector = torch.empty(adapter.layout.size)
adapter.save_weights(vector)
print(json.dumps({{"final": hashlib.sha256(vector.numpy().tobytes()).hexdigest(), "accuracy": float(right)}}))
"""


NEEDS_DATA = pytest.mark.skipif(not os.environ.get("COTERIE_DATA"), reason="COTERIE_DATA names no folder with the data")


@pytest.mark.parametrize(
    ("name", "sites", "settings", "least"),
    [
        pytest.param("mnist_pytorch", 3, {"epochs": 1, "samples": 6000}, 0.8, marks=NEEDS_DATA),
        pytest.param("mnist_keras", 2, {"epochs": 1, "samples": 6000}, 0.8, marks=NEEDS_DATA),
        pytest.param("credit_pytorch", 4, {"steps": 60}, 0.55, marks=NEEDS_DATA),
        ("scikit", 3, {"epochs": 8}, 0.6),
        ("lora", 2, {"epochs": 4}, 0.2),
    ],
)
def test_sites_end_with_one_model(tmp_path, name, sites, settings, least):
    script = tmp_path / "example.py"
    script.write_text(EXAMPLE.format(folder=str(CHECKOUT / "examples/swarm"), name=f"{name}_swarm", settings=settings))
    with swarm(tmp_path, sites) as made:
        for site in made.sites:
            site.start(script, [str(site.number)])
        made.introduce(*made.sites)
        assert one_model(made.sites)["accuracy"] > least


@pytest.mark.soak
def test_two_trainings_in_one_script_whose_loader_forks(tmp_path):
    with swarm(tmp_path, 2) as made:
        for site in made.sites:
            site.start(Path(__file__).with_name("swarm_two_trainings.py"), [str(site.number)])
        made.introduce(*made.sites)
        one_model(made.sites)
        assert (made.sites[0].home.path / "state" / "trainings").is_dir()


def test_a_home_in_use_is_named(tmp_path):
    import torch

    with swarm(tmp_path, 1) as made:
        home: Home = made.sites[0].home
        callback = SwarmCallback(syncFrequency=1, minPeers=1, model=torch.nn.Linear(1, 1), home=home.path)
        with home.locked(), pytest.raises(NodeError, match="a node is at work here already"):
            callback.on_train_begin()
