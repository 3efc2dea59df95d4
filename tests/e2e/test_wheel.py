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
NAMES = sorted(path.parent.name for path in CHECKOUT.glob("papers/*/paper.toml"))


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


def test_the_papers_are_in_the_wheel(binaries, tmp_path):
    done = call(binaries / "coterie", "reproduce", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [paper["name"] for paper in json.loads(done.stdout)["papers"]] == NAMES
    script = (
        "import coterie.runtime.catalog\n"
        "from coterie.runtime import papers\n"
        "for paper in papers.known().values():\n"
        "    print(paper.folder)\n"
        "    [paper.load(row, ours=ours, quick=True) for row in paper.index.row for ours in (False, True)]\n"
    )
    done = call(binaries / "python", "-c", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(Path(line).is_relative_to(binaries.parent) for line in done.stdout.splitlines())


def test_an_editable_installation_reads_the_papers_of_the_checkout(tmp_path):
    pytest.importorskip("hatchling")
    venv.create(tmp_path / "environment", with_pip=False)
    python = tmp_path / "environment/bin/python"
    (packages,) = tmp_path.glob("environment/lib/python*/site-packages")
    (packages / "needs.pth").write_text("".join(f"{sysconfig.get_path(name)}\n" for name in ("purelib", "platlib")))
    options = ["--no-deps", "--no-index", "--quiet", "--disable-pip-version-check", "--no-build-isolation"]
    done = call(sys.executable, "-m", "pip", "--python", python, "install", *options, "--editable", CHECKOUT)
    assert done.returncode == 0, done.stderr
    script = "from coterie.runtime import papers; [print(paper.folder) for paper in papers.known().values()]"
    done = call(python, "-P", "-c", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(CHECKOUT / "papers" / name) for name in NAMES]
