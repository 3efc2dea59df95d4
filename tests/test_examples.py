"""The examples run, and the user's own parts learn."""

import os
import shutil

import pytest

import coterie
import coterie.runtime.catalog
from coterie import registry
from coterie import spec as specs
from coterie.runtime.matrix.plan import plan
from fenced_blocks import CHECKOUT

EXAMPLES = CHECKOUT / "examples"
SPECS = sorted(EXAMPLES.rglob("*.toml"))
NEEDS_MNIST = pytest.mark.skipif(not os.environ.get("COTERIE_DATA"), reason="COTERIE_DATA names no folder with MNIST")


@pytest.fixture
def own(tmp_path):
    return shutil.copytree(EXAMPLES / "own_parts", tmp_path / "own_parts") / "own.toml"


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.name)
def test_it_loads(path):
    assert specs.load(path).federation.name == path.stem


def test_own_parts_are_short():
    lines = (EXAMPLES / "own_parts/parts.py").read_text().splitlines()
    assert sum(1 for line in lines if line.strip()) < 40


def test_own_parts_learn_together(own, tmp_path):
    together = coterie.run(own, out=tmp_path / "together")
    alone = coterie.run(own, sets=["federation.protocol=isolated"], out=tmp_path / "alone")
    assert together.accuracy["min"] > 0.9, "chance is a third"
    assert together.accuracy["mean"] > alone.accuracy["mean"] + 0.1


def test_own_parts_all_three_are_used(own):
    spec = specs.load(own)
    used = (spec.dataset, spec.choices["model"].component, spec.choices["aggregation"].component)
    assert [component.name for component in used] == ["parts.py:spirals", "parts.py:Waves", "parts.py:trimmed_mean"]


def test_own_parts_give_the_same_with_workers(own, tmp_path):
    few = ["federation.rounds=3"]
    hashes = {coterie.run(own, sets=few, out=tmp_path / str(n), workers=n).model_hash for n in (0, 2)}
    assert len(hashes) == 1


def test_the_matrix_plans_every_run():
    written = specs.load(EXAMPLES / "matrix.toml")
    missing = {"median", "trimmed_mean", "nnm", "balance"} - {rule.name for rule in registry.rules}
    if missing:
        pytest.skip(f"there is no rule {sorted(missing)} yet")
    planned = plan(written)
    # a split: seven rules under nobody and eleven attacks, one oracle for all attacks, and the root sample alone
    assert len(planned.runs) == 3 * (7 * 12 + 1 + 1)
    assert planned.seeds == (1, 2, 3)


@NEEDS_MNIST
@pytest.mark.filterwarnings("ignore::coterie.data.sources.CoterieDataWarning")
@pytest.mark.parametrize("name", ["mnist.toml", "mnist_attacked.toml"])
def test_mnist_starts(name, tmp_path):
    small = ["federation.rounds=1", "federation.peers=4", "gossip.fanout=2", "data.samples_per_peer=100"]
    result = coterie.run(EXAMPLES / name, sets=[*small, "evaluation.samples=100"], out=tmp_path / "run")
    assert result.ok
