"""The lint of protocol code: every forbidden form is found on its line, and nothing that is allowed is."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "check_determinism.py"


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("check_determinism", TOOL)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module.check_source
    del sys.modules[spec.name]


BAD_IMPORTS = {
    "import time": "time",
    "import time as clock": "time",
    "import os, time": "time",
    "from time import monotonic": "time",
    "import uuid": "uuid",
    "from uuid import uuid4 as name": "uuid",
    "import random": "random",
    "from random import Random": "random",
    "import secrets": "secrets",
    "import threading": "threading",
    "import concurrent.futures": "concurrent",
    "from concurrent import futures": "concurrent",
    "from concurrent.futures import ThreadPoolExecutor": "concurrent",
    "import importlib; importlib.import_module('time')": "time",
    "__import__('random')": "random",
    "if not TYPE_CHECKING: import random": "random",
    "from asyncio import TaskGroup": "asyncio.TaskGroup",
    "from asyncio import wait as first": "asyncio.wait",
    "from asyncio import gather, as_completed": "asyncio.as_completed",
    "from asyncio.tasks import wait": "asyncio.wait",
    "from asyncio import *": "*",
    "from os import urandom": "os.urandom",
    "from numpy.random import rand": "numpy.random.rand",
}
BAD_USES = {
    "import asyncio\nasyncio.TaskGroup()": "asyncio.TaskGroup",
    "import asyncio as aio\naio.wait([])": "asyncio.wait",
    "import asyncio\nasyncio.as_completed([])": "asyncio.as_completed",
    "import asyncio\nasyncio.taskgroups.TaskGroup()": "asyncio.TaskGroup",
    "import asyncio\nf = asyncio.wait": "asyncio.wait",
    "import asyncio; a = asyncio\na.wait([])": "asyncio.wait",
    "import asyncio\ngetattr(asyncio, 'wait')([])": "asyncio.wait",
    "import asyncio\nasyncio.to_thread(print)": "asyncio.to_thread",
    "x = 1\nhash(x)": "hash",
    "x = []\nsorted(x, key=hash)": "hash",
    "import builtins\nbuiltins.hash(1)": "hash",
    "x = 'a'\nx.__hash__()": "__hash__",
    "import os\nos.urandom(8)": "os.urandom",
    "import os as system\nsystem.getrandom(8)": "os.getrandom",
    "from datetime import datetime\ndatetime.now()": "datetime.datetime.now",
    "from datetime import datetime as dt\ndt.utcnow()": "datetime.datetime.utcnow",
    "import datetime\ndatetime.datetime.today()": "datetime.datetime.today",
    "from datetime import date\ndate.today()": "datetime.date.today",
    "import numpy as np\nnp.random.rand(3)": "numpy.random.rand",
    "import numpy\nnumpy.random.seed(3)": "numpy.random.seed",
    "import numpy as np\nnp.random.default_rng()": "numpy.random.default_rng",
    "import numpy as np\nnp.random.default_rng(None)": "numpy.random.default_rng",
    "from numpy.random import default_rng\ndefault_rng()": "numpy.random.default_rng",
    "from numpy import random\nrandom.shuffle([])": "numpy.random.shuffle",
    "import torch\ntorch.randn(3)": "torch.randn",
    "import torch as t\nt.manual_seed(3)": "torch.manual_seed",
    "from torch import randperm\nrandperm(3)": "torch.randperm",
    "import torch\ndraw = torch.rand": "torch.rand",
    "import torch\ntorch.random.get_rng_state()": "torch.random.get_rng_state",
    "import torch\ntorch.cuda.manual_seed_all(3)": "torch.cuda.manual_seed_all",
    "import torch\ntorch.zeros(3).normal_()": ".normal_()",
}
SETS = {
    "a literal": "s = {1, 2}",
    "set()": "s = set()",
    "frozenset()": "s = frozenset([1])",
    "a set comprehension": "s = {n for n in [1]}",
    "a union": "s = {1} | x",
    "a difference": "s = x - set(x)",
    "an intersection by name": "s = x.intersection(y)",
    "views of dicts": "s = x.keys() & y.keys()",
    "an or": "s = x or set()",
    "a conditional": "s = set() if x else y",
    "a walrus": "len(s := set(x))",
    "another name": "r = {1}; s = r",
    "a copy": "s = {1}.copy()",
    "an annotation": "s: set = x",
    "an annotation with items": "s: set[int] = x",
    "an annotation or None": "s: frozenset[int] | None = None",
    "an Optional": "from typing import Optional; s: Optional[set[int]] = None",
    "a quoted annotation": "s: 'set[int]' = x",
    "an AbstractSet": "from collections.abc import Set as AbstractSet; s: AbstractSet[int] = x",
    "a typing.Set": "import typing as t; s: t.AbstractSet[int] = x",
    "an Annotated": "from typing import Annotated; s: Annotated[set[int], 1] = x",
    "a type alias": "Ids = frozenset[int]; s: Ids = x",
    "a TypeAlias": "from typing import TypeAlias; Ids: TypeAlias = 'set[int]'; s: Ids = x",
    "a tuple assignment": "r, s = [], set()",
    "what a function returns": "def f() -> set[int]: ...\ns = f()",
    "what a coroutine returns": "async def f() -> set[int]: ...\nasync def g(): global s; s = await f()\ns = f()",
    "an item of a dict": "d: dict[str, set[int]] = {}; s = d['a']",
    "an item of a defaultdict": "from collections import defaultdict; d = defaultdict(set); s = d['a']",
    "setdefault": "d: dict[str, set[int]] = {}; s = d.setdefault('a', set())",
    "an item of a list": "d: list[set[int]] = []; s = d[0]",
}
BAD_ORDERS = {
    "for n in s: pass": "loop",
    "[n for n in s]": "comprehension",
    "{n: 1 for n in s}": "comprehension",
    "f = (n for n in s)": "comprehension",
    "[m for n in x for m in s]": "comprehension",
    "sum(n for n in s)": "comprehension",
    "list(s)": "list()",
    "tuple(s)": "tuple()",
    "iter(s)": "iter()",
    "enumerate(s)": "enumerate()",
    "zip(x, s)": "zip()",
    "map(str, s)": "map()",
    "filter(None, s)": "filter()",
    "sum(s)": "sum()",
    "str(s)": "str()",
    "dict.fromkeys(s)": "dict.fromkeys()",
    "import itertools; itertools.chain(x, s)": "itertools.chain()",
    "from functools import reduce; reduce(max, s)": "functools.reduce()",
    "from collections import deque as d; d(s)": "collections.deque()",
    "','.join(s)": "join()",
    "x.extend(s)": "extend()",
    "x += s": "+=",
    "[*s]": "*",
    "print(*s)": "*",
    "a, b = s": "unpacking",
    "a, *b = s": "unpacking",
    "s.pop()": "pop()",
    "f'{s}'": "text",
    "sorted(s, key=len)": "sorted(key=...)",
    "min(s, key=lambda n: n % 2)": "min(key=...)",
    "def g(): yield from s": "yield from",
}
GOOD = {
    "typing": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import random, time\n    from uuid import UUID",
    "typing by module": "import typing\nif typing.TYPE_CHECKING:\n    from random import Random",
    "asyncio": "import asyncio\nasync def f():\n    await asyncio.sleep(1)\n    async with asyncio.timeout(2): pass\n"
    "    return await asyncio.gather(*[f()]), asyncio.get_running_loop().time(), await asyncio.wait_for(f(), 3)",
    "other names": "peer.wait(); peer.hash; spec.hash(); peer.random.sample(x, 3); peer.secrets.random(); clock.time()",
    "own hash": "def hash(x): return 1\nhash(2)",
    "hash as a parameter": "def f(hash): return hash(2)",
    "own random": "random = peer.random\nrandom.random()",
    "hashlib": "import hashlib\nhashlib.sha256(b'')",
    "datetime": "from datetime import datetime, UTC\ndatetime.fromtimestamp(0, UTC)",
    "numpy": "import numpy as np\ndef f(g: np.random.Generator): return np.random.default_rng(7)",
    "torch": "import torch\ng = torch.Generator()\ntorch.randn(3, generator=g)\ntorch.zeros(3).normal_(generator=g)",
    "relative": "from .time import x\nfrom . import random",
    "sorted": "s = {1}\nfor n in sorted(s): pass\n[n for n in sorted(s)]\nsorted(n for n in s)\nlist(sorted(s))",
    "sorted by a whole key": "s = {1}\nsorted(s, key=lambda n: (n % 2, n)); max(s, key=lambda n: n)",
    "counting": "s = {1}\nlen(s); min(s); max(s); bool(s); 1 in s; 2 not in s",
    "any and all": "s = {1}\nany(s); all(n > 0 for n in s); any([n for n in s])",
    "sets of sets": "s = {1}\n{n for n in s}; set(n for n in s); {*s, 2}; frozenset(s) <= s; s == {1}",
    "changing": "s = {1}\ns.add(2); s.discard(2); s |= {3}; s.update(n for n in s); s.difference_update(s)",
    "one item": "s = {1}\n[n] = s",
    "exact sum": "import math\ns = {0.1}\nmath.fsum(s); math.fsum(n for n in s)",
    "dicts": "d = {1: 2}\nfor k in d: pass\nfor k, v in d.items(): pass\nlist(d.keys()); d.pop(1); list(d.values())",
    "lists": "x: list[int] = []\nx.pop(); list(x); [*x]; sum(x); x += x",
    "a list of sets": "x: list[set[int]] = []\nfor s in x:\n    len(s)\nx.pop()",
    "a dict of sets": "d: dict[str, set[int]] = {}\nfor k in d: pass\nfor k, s in d.items(): sorted(s)\nlist(d)",
    "a name in another function": "def f():\n    s = {1}\n    return len(s)\ndef g(s):\n    return list(s)",
    "a name that a function has for itself": "s = {1}\ndef g():\n    s = [1]\n    return list(s)",
    "numbers": "a = 7 - 3; b = a | 1; list(range(a ^ b))",
    "a set passed on": "def f(s: set[int]) -> int: return len(s)\nf({1})",
}


def found(findings):
    return [(finding.line, finding.what) for finding in findings]


@pytest.mark.parametrize(("code", "what"), BAD_IMPORTS.items())
def test_forbidden_imports(check, code, what):
    (finding,) = check("# a comment\n\n" + code)
    assert finding.line == 3
    assert what in finding.what
    assert finding.instead


@pytest.mark.parametrize(("code", "what"), BAD_USES.items())
def test_forbidden_uses(check, code, what):
    assert found(check("# a comment\n" + code)) == [(3, what)]


@pytest.mark.parametrize("making", SETS.values(), ids=SETS)
def test_whatever_is_a_set_is_known_as_one(check, making):
    lines = making.count("\n") + 1
    assert found(check(f"{making}\nfor n in s: pass")) == [(lines + 1, "a loop over a set")]
    assert not check(f"{making}\nfor n in sorted(s): pass")


@pytest.mark.parametrize(("use", "what"), BAD_ORDERS.items())
def test_uses_that_depend_on_the_order_of_a_set(check, use, what):
    (finding,) = check(f"s = {{1, 2}}\nx = [1]\n{use}")
    assert finding.line == 3
    assert what in finding.what
    assert not check(f"s = [1, 2]\nx = [1]\n{use}")


@pytest.mark.parametrize(
    "code",
    [
        "class A:\n    seen: set[int]\n    def f(self):\n        for n in self.seen: pass",
        "class A:\n    def f(self):\n        self.seen = set()\n        for n in self.seen: pass",
        "class A:\n    @property\n    def seen(self) -> set[int]: ...\nfor n in A().seen: pass",
        "class A:\n    def seen(self) -> set[int]: ...\n\nfor n in A().seen(): pass",
        "class A:\n    seen: dict[int, set[int]]\n    def f(self, n):\n        for n in self.seen[n]: pass",
        "def f(a, *,\n      seen: set[int] = frozenset(),\n      ):\n    for n in seen: pass",
        "def f(seen: set[int]):\n    def g():\n        pass\n        return [n for n in seen]",
        "async def f(\n        seen: 'frozenset[int]',\n        *_):\n    return list(seen)",
        "d: dict[int, set[int]] = {}\nfor votes in d.values():\n    pass\n    list(votes)",
        "d: dict[int, set[int]] = {}\nfor key, votes in d.items():\n    pass\n    list(votes)",
        "def f():\n    for n in s:  # of the module, bound below\n        pass\n\ns = set()",
    ],
)
def test_sets_in_attributes_parameters_and_containers(check, code):
    (finding,) = check(code)
    assert finding.line == (2 if "bound below" in code else 4)


@pytest.mark.parametrize("code", GOOD.values(), ids=GOOD)
def test_allowed(check, code):
    assert check(code) == []


def call(*arguments, **options):
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_the_protocols_pass():
    done = call(cwd="/")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert call("src/coterie/protocols", cwd=ROOT).returncode == 0


def test_findings_are_printed_by_file_and_line(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "one.py").write_text("import time\n\nhash(1)\n")
    (tmp_path / "two.py").write_text("x = 1\n")
    (tmp_path / "three.py").write_text("def (\n")
    done = call(".", cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert [line.partition(": ")[0] for line in lines] == ["inner/one.py:1", "inner/one.py:3", "three.py:1"]
    assert lines[1] == "inner/one.py:3: hash - it is salted in every process; use hashlib"
    assert call("two.py", cwd=tmp_path).returncode == 0


def test_nothing_to_check_is_no_success(tmp_path):
    for arguments in ((tmp_path,), (tmp_path / "missing.py",)):
        done = call(*arguments)
        assert done.returncode == 2
        assert done.stderr
