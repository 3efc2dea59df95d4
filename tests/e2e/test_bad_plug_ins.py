"""Every kind of plug-in that cannot be used: one clear error that names it, status 2, and nothing left behind."""

from __future__ import annotations

import pytest
from failing import fails

MODEL, LOSS, RULE = "model.name=own.py:f", "training.loss=own.py:f", "aggregation.rule=own.py:f"
DATASET, PARTITION, ATTACK = "data.dataset=own.py:f", "data.partition=own.py:f", "attack.kind=own.py:f"
PROTOCOL, TOPOLOGY = "federation.protocol=own.py:f", "topology.kind=own.py:f"
AT = ", round 0"
PLUGINS = {
    "a file that is not there": ("model.name=none.py:f", "", "plugin", "model.name", "no file"),
    "a module that is not there": ("model.name=nowhere:f", "", "plugin", "model.name", "not installed"),
    "no such function": ("model.name=own.py:modl", "def model(): pass", "plugin", "model.name", "mean 'model'?"),
    "what is no function": (MODEL, "f = 3", "plugin", "model.name", "no function"),
    "a syntax error": (MODEL, "def f(:", "plugin", "model.name", "SyntaxError"),
    "an import that fails": (MODEL, "import nothing_such", "plugin", "model.name", "not installed"),
    "an import that raises": (MODEL, "1 / 0", "plugin", "model.name", "ZeroDivisionError"),
    "an import that leaves": (MODEL, "raise SystemExit", "plugin", "model.name", "SystemExit"),
    "bytes that are no Python": (MODEL, b"\xff\xfe\x00", "plugin", "model.name", "cannot be imported"),
    "a setting of no known type": (
        MODEL, "def f(*, x: 'Nothing' = 3): pass", "plugin", "own.py", "cannot be settings",
    ),
    "an unknown setting": (
        "model.name=own.py:f model.widht=3", "def f(*, width: int = 3): pass", "spec", "model.widht", "'width'?",
    ),
    "a model that raises": (MODEL, "def f(shape, classes): 1 / 0", "plugin", "model.name", "ZeroDiv"),
    "a model that is a list": (MODEL, "def f(): return []", "plugin", "model.name", "torch.nn.Module"),
    "a model that is a class": (
        MODEL, "def f():\n from torch import nn\n return nn.Linear", "plugin", "model.name", "Module",
    ),
    "a model without parameters": (
        MODEL, "def f():\n from torch import nn\n return nn.ReLU()", "model", "ReLU", "no parameter",
    ),
    "a dataset that raises": (DATASET, "def f(): 1 / 0", "plugin", "data.dataset", "ZeroDivisionError"),
    "a dataset that is nothing": (DATASET, "def f(): pass", "data", "own.py:f", "a NoneType"),
    "a dataset of three": (DATASET, "def f(): return 1, 2, 3", "data", "own.py:f", "tuple of 3"),
    "a dataset of words": (DATASET, "def f(): return 'a', 'b'", "data", "own.py:f", "numbers"),
    "a dataset with arguments": (DATASET, "def f(x): pass", "plugin", "data.dataset", "TypeError"),
    "a partition that raises": (
        PARTITION, "def f(dataset, peers, rng): 1 / 0", "plugin", "data.partition", "ZeroDivisionError",
    ),
    "a partition that repeats an index": (
        PARTITION, "def f(dataset, peers, rng): return [[1, 2, 3]] * peers", "plugin", "own.py:f", "twice",
    ),
    "a partition for fewer peers": (
        PARTITION, "def f(dataset, peers, rng): return [[1, 2]]", "plugin", "own.py:f", "1 parts for 3",
    ),
    "a partition that gives nothing": (
        PARTITION, "def f(dataset, peers, rng): return [[] for _ in range(peers)]", "data",
        "data.partition", "peer 0 ends with 0",
    ),
    "a partition of words": (
        PARTITION, "def f(dataset, peers, rng): return ['a', 'b', 'c']", "plugin", "own.py:f", "indices",
    ),
    "a topology that raises": (
        TOPOLOGY, "def f(peers, seed): 1 / 0", "plugin", "topology.kind", "ZeroDivisionError",
    ),
    "a topology of nothing": (TOPOLOGY, "def f(peers, seed): pass", "plugin", "topology.kind", "neighbours"),
    "a topology to nobody": (
        TOPOLOGY, "def f(peers, seed): return [[1], [0], [9]]", "plugin", "topology.kind", "neighbours",
    ),
    "a topology of itself": (
        TOPOLOGY, "def f(peers, seed): return [[0], [1], [2]]", "plugin", "topology.kind", "neighbours",
    ),
    "an attack on nothing": (ATTACK, "def f(x): pass", "plugin", "attack.kind", "first parameter"),
    "an attack on labels that raises": (
        ATTACK, "def f(labels, classes, rng): 1 / 0", "plugin", "attack.kind", "ZeroDivisionError",
    ),
    "an attack that returns too few labels": (
        ATTACK, "def f(labels, classes, rng): return labels[:2]", "plugin", "attack.kind", "labels",
    ),
    "an attack that returns labels far out": (
        ATTACK, "def f(labels, classes, rng): return labels + 100", "plugin", "attack.kind", "labels",
    ),
    "an attack on samples that raises": (
        ATTACK, "def f(samples, labels, rng): 1 / 0", "plugin", "attack.kind", "ZeroDivisionError",
    ),
    "an attack that returns words": (
        ATTACK, "def f(samples, labels, rng): return 'x'", "plugin", "attack.kind", "finite numbers",
    ),
    "an attack that returns another shape": (
        ATTACK, "def f(samples, labels, rng): return samples[:1]", "plugin", "attack.kind", "shape",
    ),
    "a protocol of another signature": (
        PROTOCOL, "async def f(): pass", "plugin", "federation.protocol", "TypeError",
    ),
    "a protocol that is no coroutine": (
        PROTOCOL, "def f(peer, rounds): pass", "plugin", "federation.protocol", "async def",
    ),
    "a protocol named as a table": (
        "federation.protocol=own.py:data", "async def data(peer, rounds): pass", "spec",
        "federation.protocol", "Rename",
    ),
    "a protocol that raises": (
        PROTOCOL, "async def f(peer, rounds): 1 / 0", "plugin", "at peer-", "ZeroDivisionError",
    ),
    "a loss that raises": (LOSS, "def f(outputs, labels): 1 / 0", "plugin", AT, "ZeroDiv"),
    "a loss that is no scalar": (LOSS, "def f(outputs, labels): return outputs", "plugin", AT, "scalar"),
    "a loss that is a number": (LOSS, "def f(outputs, labels): return 3.0", "plugin", AT, "scalar"),
    "a loss of another signature": (LOSS, "def f(): pass", "plugin", AT, "TypeError"),
    "a rule that raises": (RULE, "def f(*_): 1 / 0", "plugin", AT, "ZeroDiv"),
    "a rule that is no triple": (RULE, "def f(*_): return 1", "plugin", AT, "three things"),
    "a rule of not a number": (
        RULE,
        "def f(own, received, *_): return own * float('nan'), own.new_ones(len(received) + 1), None",
        "plugin", AT, "not finite",
    ),
    "a rule of another shape": (
        RULE, "def f(own, received, *_): return own[1:], own.new_ones(len(received) + 1), None",
        "plugin", AT, "of shape",
    ),
    "a rule of another dtype": (
        RULE,
        "def f(own, received, *_): return own.double(), own.new_ones(len(received) + 1), None",
        "plugin", AT, "float64",
    ),
    "a rule that trusts nonsense": (
        RULE,
        "def f(own, received, *_): return own, own.new_ones(len(received) + 1), {'trust': 3}",
        "plugin", AT, "trust",
    ),
    "a rule that remembers what cannot be sent": (
        RULE,
        "def f(own, received, *_): return own, own.new_ones(len(received) + 1), {'f': lambda: 3}",
        "plugin", "aggregation.rule", "cannot be sent",
    ),
    "a crafting attack that raises": (
        ATTACK, "def f(own, base, others, attackers, rng): 1 / 0", "plugin", "peer ", "ZeroDiv",
    ),
    "a crafting attack of another shape": (
        ATTACK, "def f(own, base, others, attackers, rng): return own[1:]", "plugin", "peer ", "shape",
    ),
    "a model for other samples": (
        MODEL, "def f():\n from torch import nn\n return nn.Linear(3, 10)", "plugin", AT, "model",
    ),
    "a model of too few classes": (
        MODEL,
        "def f():\n from torch import nn\n return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))",
        "plugin", AT, "classes",
    ),
    "a model that gives no tensor": (
        MODEL,
        "from torch import nn\nclass M(nn.Linear):\n def forward(self, x): return 3\ndef f(): return M(2, 2)",
        "plugin", AT, "model",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLUGINS)
def test_a_bad_plug_in(folder, name):
    sets, content, code, where, says = PLUGINS[name]
    (folder / "own.py").write_bytes(content if isinstance(content, bytes) else content.encode())
    line = " ".join(f"--set {word}" for word in sets.split())
    fails(folder, f"run small.toml {line}", code, where, says)
