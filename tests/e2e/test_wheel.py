"""The wheel, built and installed into an environment of its own: nothing of the checkout is needed any more."""

import importlib.util
import json
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


def call(*command, **options):
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, **options)


@pytest.fixture(scope="module")
def binaries(tmp_path_factory):
    """The programs of a new environment: the wheel in it, and what it needs from the environment of the tests."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-index", "--quiet", "--disable-pip-version-check"]
    built = call(
        sys.executable, "-m", "pip", "wheel", CHECKOUT, *options, "--no-build-isolation", "--wheel-dir", folder
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("coterie-*.whl")

    venv.create(folder / "environment", with_pip=False)
    python = folder / "environment/bin/python"
    installed = call(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel)
    assert installed.returncode == 0, installed.stderr
    (packages,) = folder.glob("environment/lib/python*/site-packages")
    paths = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    # A line of a .pth file adds a path; .pth files found there, such as that of an editable install, are not read.
    (packages / "needs.pth").write_text("".join(f"{path}\n" for path in paths))
    return folder / "environment/bin"


def test_the_wheel_alone_is_imported(binaries, tmp_path):
    done = call(binaries / "python", "-c", "import coterie; print(coterie.__file__)", cwd=tmp_path)
    assert Path(done.stdout.strip()).is_relative_to(binaries.parent), done.stderr


@pytest.mark.parametrize("workers", ["0", "1"])
def test_it_runs_and_reports_outside_the_checkout(binaries, tmp_path, workers):
    new = call(binaries / "coterie", "new", "trial", cwd=tmp_path)
    assert new.returncode == 0, new.stderr
    done = call(
        *(binaries / "coterie", "run", "trial.toml", "--json", "--workers", workers),
        *("--set", "federation.rounds=2", "--set", "federation.peers=4"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    run = tmp_path / json.loads(done.stdout)["run"]
    assert (run / "report.html").is_file()
    assert (run / "accuracy.png").is_file()
