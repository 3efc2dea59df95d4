"""The base install, and what it says where an extra is wanted: every extra of pyproject.toml at every door to it.

Packages are hidden as if they had never been installed: no module, and no metadata.
"""

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
TABLE = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
MODULES = {"grpcio": "grpc", "mlflow-skinny": "mlflow", "prometheus-client": "prometheus_client"}
"""Where a package does not have its module's name."""
EXTRAS = {
    extra: [re.split(r"[<>=\[]", wanted)[0] for wanted in packages]
    for extra, packages in TABLE.items()
    if extra != "dev"
}
NAMED = re.compile(r"coterie\[([a-z,{}]+)\]")

BEGIN = """
import json, sys
HIDDEN = {hidden!r}

class Hiding:
    '''A finder that does not find some packages.'''

    def __init__(self, inner):
        self.inner = inner

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else self.inner.find_spec(name, path, target)

    def find_distributions(self, *context):
        found = getattr(self.inner, "find_distributions", lambda *context: ())(*context)
        return [one for one in found if one.metadata["Name"].lower() not in HIDDEN]

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]

import os, pathlib
import torch
from typer.testing import CliRunner
import coterie
from coterie.cli import app
from coterie.errors import CoterieError

def command(line):
    done = CliRunner().invoke(app, line.split())
    said[line] = done.exit_code, done.output

def attempt(name, what):
    try:
        what()
    except CoterieError as error:
        said[name] = error.exit_status, str(error)

said = {{}}
spec = pathlib.Path("spec.toml")
spec.write_text('[federation]\\nname = "s"\\npeers = 2\\nrounds = 1\\n[model]\\nname = "softmax"\\n')
LISTEN = "--listen 127.0.0.1:0 --join 127.0.0.1:0 --private"
command("federation init spec.toml --home h " + LISTEN)
assert said.pop("federation init spec.toml --home h " + LISTEN)[0] == 0
"""
BASE = """
command("node --home h")
command("node --home h --metrics 0")
command("node --home h --dry-run")
command("doctor --home h")
command("run spec.toml --on processes --out made")
assert not pathlib.Path("made").exists()
command("run spec.toml --track tensorboard")
command("run spec.toml --track mlflow")
model = torch.nn.Linear(2, 2)
os.environ["COTERIE_HOME"] = "h"
attempt("script", coterie.SwarmCallback(2, 2, model=model).on_train_begin)
attempt("keras", lambda: __import__("coterie.swarm.keras"))
attempt("hf", lambda: __import__("coterie.swarm.hf"))
attempt("mlPlatform", lambda: coterie.SwarmCallback(2, 2, model=model, mlPlatform="KERAS"))
attempt("peft", coterie.SwarmCallback(2, 2, model=model, mlPlatform="HF", hfMode="peft").on_train_begin)
command("run spec.toml --out runs/base --workers 0 --quiet")
command("export runs/base --to tensorboard")
command("export runs/base --to mlflow")
print(json.dumps(said))
"""
PART = """
table = pathlib.Path("h/node.toml")
settings = table.read_text()
for line in ('dht_listen = "127.0.0.1:0"', 'compression = "zstd"', 'metrics = "127.0.0.1:0"'):
    key = line.partition(" ")[0]
    table.write_text("".join(one for one in settings.splitlines(True) if not one.startswith(key)) + line + "\\n")
    command("node --home h")
    said[key] = said.pop("node --home h")
    command("doctor --home h")
    said["doctor " + key] = said.pop("doctor --home h")
print(json.dumps(said))
"""


def module_of(package):
    return MODULES.get(package, package)


def said(hidden, code, folder):
    """What each door said without the packages ``hidden``: the exit status, and the text."""
    names = {name for package in hidden for name in (package, module_of(package))}
    script = BEGIN.format(hidden=names) + code
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, cwd=folder)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for door, (_, text) in found.items():
        assert "Traceback" not in text and "internal error" not in text, (door, text)
    return found


def test_the_table_of_this_test_is_true():
    """It would be idle to hide what is not there under that name."""
    for packages in EXTRAS.values():
        for package in packages:
            assert importlib.util.find_spec(module_of(package)) is not None, package


def test_each_door_names_its_extra_once_and_ends_with_the_status_of_a_users_mistake(tmp_path):
    base = said([package for packages in EXTRAS.values() for package in packages], BASE, tmp_path)
    status, text = base.pop("run spec.toml --out runs/base --workers 0 --quiet")
    assert status == 0, text
    wanted = {"script": "node", "keras": "keras", "hf": "hf", "mlPlatform": "keras", "peft": "hf"}
    for door, (status, text) in base.items():
        extra = wanted.get(door) or next((word for word in door.split() if word in EXTRAS), "node")
        assert NAMED.findall(text) == [extra], (door, text)
        assert f"pip install 'coterie[{extra}]'" in text
        assert "is not installed" in text, (door, text)
        assert status == (1 if door.startswith("doctor") else 2), (door, status)
    assert {found for _, text in base.values() for found in NAMED.findall(text)} == {*EXTRAS} - {"prometheus"}


def test_a_setting_that_needs_a_package_says_so(tmp_path):
    """The other packages of the extra are there: gRPC is, or nothing would come so far."""
    found = said(["libtorrent", "zstandard", "prometheus-client", "uvloop"], PART, tmp_path)
    wanted = {
        "dht_listen": ("libtorrent", "node"),
        "compression": ("zstandard", "node"),
        "metrics": ("prometheus_client", "prometheus"),
    }
    for key, (package, extra) in wanted.items():
        status, text = found[key]
        assert status == 2, (key, text)
        assert package in text and "not installed" in text
        assert NAMED.findall(text) == [extra], (key, text)
        status, text = found[f"doctor {key}"]
        assert status == 1 and f"{package.replace('_', '-')} is not installed" in text, (key, text)
        assert NAMED.findall(text) == [extra]


def test_every_extra_that_is_named_exists():
    pages = [CHECKOUT / "README.md", *(CHECKOUT / "docs").glob("*.md"), *(CHECKOUT / "examples").rglob("*.py")]
    sources = [*(CHECKOUT / "src").rglob("*.py"), *(CHECKOUT / "deploy").iterdir()]
    named = {extra: path for path in [*pages, *sources] for extra in NAMED.findall(path.read_text())}
    for extras, path in named.items():
        for extra in extras.split(","):
            assert extra in EXTRAS or "{" in extra, (path, extra)
    assert "node" in named
