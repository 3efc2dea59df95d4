"""The commands: outputs, exit codes, and that --json prints one object and nothing else."""

import io
import json
import re
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

import coterie
from coterie import _commands, registry
from coterie.cli import app
from coterie.errors import CoterieError, OutputError, SpecError, TrainingDiverged
from coterie.registry import Registry
from coterie.runtime.progress import Quiet, RichProgress
from coterie.runtime.results import Result, RunDirectory
from coterie.spec import TABLES

COMMANDS = (
    "new",
    "run",
    "resume",
    "matrix",
    "report",
    "reproduce",
    "datasets", "export",
    "protocols",
    "rules",
    "attacks",
    "committee",
    "node",
    "doctor",
    "audit",
)  # fmt: skip
GOOD = Result(
    status="ok", run="runs/digits", spec_hash="ab", seed=7, protocol="gossip", peers=10, rounds=30,
    accuracy={"mean": 0.95, "min": 0.9, "max": 0.97}, loss={"mean": 0.2, "min": 0.1, "max": 0.3}, seconds=4.0,
    virtual_seconds=60.0, bytes_sent=12_000_000, model_hash="cd",
)  # fmt: skip


def call(*arguments, **options):
    return CliRunner().invoke(app, list(arguments), **options)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COTERIE_DEBUG", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def stand_in(monkeypatch):
    """Lets a test say what ``run`` does; gives the calls."""
    calls = []

    def put(outcome):
        def run(*args, **kwargs):
            calls.append((args, kwargs))
            print("a library prints this")  # noqa: T201
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        module = types.ModuleType("coterie.runtime.run")
        module.run = run
        monkeypatch.setitem(sys.modules, "coterie.runtime.run", module)
        return calls

    return put


def test_version():
    done = call("--version")
    assert (done.exit_code, done.stdout) == (0, f"coterie {coterie.__version__}\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    done = call(command, "--help")
    assert done.exit_code == 0
    assert f"Example: coterie {command}" in done.stdout


def test_help_names_every_command_and_no_others():
    assert sorted(COMMANDS) == sorted(command.name or command.callback.__name__ for command in app.registered_commands)
    shown = call("--help").stdout
    assert all(command in shown for command in (*COMMANDS, "federation"))
    assert shown.index("│ new ") < shown.index("│ run ") < shown.index("│ node ")  # what a newcomer wants comes first
    assert "a table [matrix]" in call("matrix", "--help").stdout


FEDERATION = ("init", "invite", "join", "status", "expel", "countersign", "renew")


@pytest.mark.parametrize("command", FEDERATION)
def test_every_command_of_a_federation_has_help_with_an_example(command):
    done = call("federation", command, "--help")
    assert done.exit_code == 0
    assert f"Example: coterie federation {command}" in done.stdout


def test_commands_of_a_federation_name_what_is_missing(folder):
    for words in (["status"], ["invite"], ["expel", "x"]):
        done = call("federation", *words, "--home", "nowhere")
        assert done.exit_code == 2
        assert "this is no node's home" in done.stderr
    done = call("federation", "join", "coterie1typing", "--home", "b")
    assert done.exit_code == 2
    assert "invitation" in done.stderr
    done = call("federation", "join", "b.invitation", "--home", "b")
    assert done.exit_code == 2
    assert "there is no file 'b.invitation'" in done.stderr
    assert not Path("b").exists()
    done = call("federation", "init", "none.toml", "--home", "a", "--admit", "everybody")
    assert done.exit_code == 2
    assert "no policy" in done.stderr
    done = call("audit", "nothing.sqlite", "--genesis", "xyz")
    assert done.exit_code == 1
    assert "not a genesis hash" in done.stderr


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        (["--listen", "192.168.7.1:7400"], "private_networks = true"),
        (["--listen", "192.168.7.1:7400", "--private"], ""),
        (["--listen", "192.168.7.1:7400", "--announce", "a.example:7400"], ""),
        (["--listen", "0.0.0.0:7400"], 'announce = "host:port"'),
        ([], ""),
    ],
)
def test_who_founds_is_warned_of_an_address_that_others_do_not_take(folder, options, warning):
    done = call("federation", "init", "--swarm", "x", "--home", "a", *options)
    assert done.exit_code == 0
    assert warning in done.stderr
    assert ("Warning" in done.stderr) == bool(warning)


def test_a_narrow_terminal_cuts_nothing_off(monkeypatch):
    console = Console(file=io.StringIO(), width=40)
    monkeypatch.setattr(_commands, "stdout", lambda: console)
    peer, address = "df92385f8df03e22", "hospital-a.example.org:7400"
    _commands.grid(("member", "peer", "address"), [("Hospital A", peer, address)])
    rows = console.file.getvalue().splitlines()[1:]
    columns = zip(*(row.ljust(40) for row in rows), strict=True)
    shown = "".join("".join(column) for column in columns)
    assert "…" not in shown
    assert sorted(shown.replace(" ", "")) == sorted("HospitalA" + peer + address)


def test_a_node_silences_grpc_before_it_is_imported(folder):
    code = (
        "import sys\n"
        "from coterie.cli import app\n"
        "from coterie.runtime.node import logs\n"
        "logs.begin = lambda **_: sys.exit(40 + ('grpc' in sys.modules))\n"
        "app(['node', '--home', 'nowhere'])\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 40


def test_starting_is_light(folder):
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from coterie.cli import app\n"
        "for line in (['--version'], ['--help'], ['new', 'x'], ['run', '--help']):\n"
        "    assert CliRunner().invoke(app, line).exit_code == 0, line\n"
        "print([name for name in ('torch', 'matplotlib', 'sklearn') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder)
    assert done.stdout == "[]\n"


def test_the_entry_point_prints_no_traceback(folder):
    code = "from coterie.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "report", "nowhere"], capture_output=True, text=True, check=False, cwd=folder
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "no such run directory" in done.stderr


def test_new_writes_a_commented_spec(folder):
    done = call("new", "trial")
    assert done.exit_code == 0
    text = Path("trial.toml").read_text(encoding="utf-8")
    tables = tomllib.loads(text)
    assert tables["federation"]["name"] == "trial"
    assert tables["data"]["dataset"] == "digits"
    assert set(tables) - {"gossip"} <= set(TABLES)
    for line in text.splitlines():
        if "=" in line and not line.startswith("# Every"):
            assert re.search(r"\S\s+# \S", line), f"no comment: {line}"


def test_the_options_that_are_off_in_the_new_spec_exist():
    call("new", "trial")
    text = Path("trial.toml").read_text(encoding="utf-8")
    on = tomllib.loads(re.sub(r"(?m)^# (?=\[?\w+\]?( = |\s+#))", "", text))
    assert {"root", "samples_per_peer"} <= set(on["data"])
    assert on["attack"] == {"kind": "label_flip", "fraction": 0.3}
    for name in set(on) & set(TABLES) - {"data", "model", "topology", "attack", "aggregation"}:
        assert set(on[name]) <= set(TABLES[name].model_fields), name


def test_the_new_spec_is_valid():
    pytest.importorskip("coterie.runtime.catalog")
    from coterie import spec

    call("new", "trial")
    assert spec.load(Path("trial.toml")).federation.name == "trial"


def test_new_never_overwrites():
    Path("trial.toml").write_text("mine")
    for name in ("trial", "trial.toml"):
        done = call("new", name)
        assert done.exit_code == 2
        assert "it exists already" in done.stderr
    assert Path("trial.toml").read_text() == "mine"


@pytest.mark.parametrize("name", ["../x", "a b", "", ".hidden", "x" * 65, "a\nb"])
def test_new_validates_the_name(name, folder):
    done = call("new", name)
    assert done.exit_code == 2
    assert "cannot be a name" in done.stderr
    assert not list(folder.iterdir())


def test_run_says_what_came_of_it(stand_in, folder):
    calls = stand_in(GOOD)
    (folder / "runs/digits").mkdir(parents=True)
    (folder / "runs/digits/report.html").write_text("")
    done = call("run", "--quiet")
    assert done.exit_code == 0
    for part in (
        "mean 95.0 %, worst peer 90.0 %, best peer 97.0 %",
        "1.2 MB a peer",
        "4.0 s",
        "runs/digits/report.html",
    ):
        assert part in done.stdout
    ((args, kwargs),) = calls
    assert args == (None,)
    assert isinstance(kwargs.pop("progress"), Quiet)
    untold = {"seeds": None, "out": None, "data_dir": None, "workers": None}
    assert kwargs == {"sets": (), "on": "sim", "track": (), **untold}


def test_run_hands_its_options_on(stand_in):
    calls = stand_in(GOOD)
    done = call(
        "run", "a.toml", "--set", "federation.peers=3", "--set", "model.name=mlp", "--seed", "1, 2,3", "--out", "o",
        "--data-dir", "d", "--workers", "2", "--track", "mlflow",
    )  # fmt: skip
    assert done.exit_code == 0
    ((args, kwargs),) = calls
    assert args == (Path("a.toml"),)
    assert kwargs.pop("track") == ["mlflow"]
    assert isinstance(kwargs.pop("progress"), RichProgress)
    assert list(kwargs.pop("sets")) == ["federation.peers=3", "model.name=mlp"]
    assert kwargs == {"seeds": [1, 2, 3], "out": Path("o"), "data_dir": Path("d"), "on": "sim", "workers": 2}


def test_run_shows_deviations_for_several_seeds(stand_in):
    other = Result.from_json(GOOD.to_json() | {"seed": 8, "accuracy": {"mean": 0.93, "min": 0.8, "max": 0.99}})
    stand_in(Result.of_seeds([GOOD, other], "runs/digits"))
    done = call("run", "--seed", "7,8")
    assert "mean 94.0 ± 1.4 %" in done.stdout
    assert "7, 8" in done.stdout


@pytest.mark.parametrize("seed", ["x", "1,,2", "-1", "1,1", "1.5", "", "²"])
def test_a_wrong_seed(stand_in, seed):
    calls = stand_in(GOOD)
    done = call("run", f"--seed={seed}", "--json")
    assert done.exit_code == 2
    assert json.loads(done.stdout)["error"]["where"] == "--seed"
    assert not calls


FAILURES = [
    (SpecError("unknown key", where="data.dtaset", remedy="Did you mean 'dataset'?"), 2, "spec"),
    (OutputError("it exists already", where="runs/x", remedy="Name another."), 2, "output"),
    (TrainingDiverged("the loss is not finite", where="peer-3, round 2", remedy="Lower training.lr."), 1, "diverged"),
    (CoterieError("something [bold]else[/]"), 1, "error"),
]


@pytest.mark.parametrize(("error", "status", "code"), FAILURES, ids=lambda value: str(value) if value else "")
def test_errors_are_one_clear_message(stand_in, error, status, code):
    stand_in(error)
    done = call("run")
    assert done.exit_code == status
    assert "Traceback" not in done.stderr
    for part in (error.what, error.where, error.remedy):
        assert part in done.stderr
    done = call("run", "--json")
    assert done.exit_code == status
    record = json.loads(done.stdout)
    assert record["status"] == "failed"
    assert record["error"] == error.record()
    assert set(record) == set(GOOD.to_json())
    assert error.what in done.stderr


def test_json_is_one_object_and_nothing_else(stand_in):
    stand_in(GOOD)
    done = call("run", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == GOOD.to_json()
    assert "a library prints this" in done.stderr


def test_json_for_a_wrong_command_line(stand_in):
    stand_in(GOOD)
    done = call("run", "--json", "--workers", "many")
    assert done.exit_code == 2
    record = json.loads(done.stdout)
    assert record["error"]["where"] == "command line"
    assert "--workers" in record["error"]["what"]


def test_an_interrupted_run(stand_in):
    stand_in(KeyboardInterrupt())
    done = call("run")
    assert done.exit_code == 130
    assert "interrupted" in done.stderr
    done = call("run", "--json")
    assert done.exit_code == 130
    assert json.loads(done.stdout)["error"]["code"] == "interrupted"


def test_an_error_may_bring_the_result_of_its_run(stand_in):
    for error, status in ((TrainingDiverged("it diverged"), 1), (KeyboardInterrupt(), 130), (ZeroDivisionError(), 1)):
        error.result = Result.failure(error, run="runs/x", seed=7)
        stand_in(error)
        done = call("run", "--json")
        assert done.exit_code == status
        assert json.loads(done.stdout) == error.result.to_json()


def test_an_internal_error_is_one_line_and_a_file(stand_in, folder):
    stand_in(ZeroDivisionError("by\nzero"))
    done = call("run", "--quiet")
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("internal error: ZeroDivisionError: by zero - please report this; the traceback is in ")
    path = Path(line.rpartition(" in ")[2].rstrip("."))
    assert path.parent == folder
    assert "Traceback" in path.read_text(encoding="utf-8")
    done = call("run", "--json")
    assert json.loads(done.stdout)["error"]["code"] == "internal"


@pytest.mark.parametrize("how", ["option", "environment"])
def test_debug_shows_the_traceback(stand_in, folder, how):
    stand_in(ZeroDivisionError("by zero"))
    done = call("--debug", "run") if how == "option" else call("run", env={"COTERIE_DEBUG": "1"})
    assert done.exit_code == 1
    assert "Traceback" in done.stderr
    assert not list(folder.iterdir())
    stand_in(SpecError("wrong"))
    assert "Traceback" in call("--debug", "run").stderr


@pytest.mark.parametrize("line", [["nonsense"], ["run", "--nonsense"], ["new"], ["report"], ["run", "--workers", "-1"]])
def test_usage_errors(line):
    done = call(*line)
    assert done.exit_code == 2
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_report(folder):
    run = RunDirectory.create(folder / "run", "x")
    run.write_spec({"federation": {"name": "digits"}})
    run.write_result(Result.failure(TrainingDiverged("it diverged")))
    done = call("report", "run")
    assert (done.exit_code, done.stdout) == (0, "Wrote run/report.html\n")
    assert (folder / "run/report.html").exists()
    done = call("report", "nowhere")
    assert done.exit_code == 2
    assert "no such run directory" in done.stderr


@pytest.mark.parametrize("kind", ["datasets", "protocols", "rules", "attacks"])
def test_tables_of_components(monkeypatch, kind):
    monkeypatch.setitem(sys.modules, "coterie.runtime.catalog", types.ModuleType("coterie.runtime.catalog"))
    toys = Registry("toy")

    @toys.register("zebra")
    def zebra(first, *, tilt: float = 0.5, needed: int, sizes: tuple[int, ...] = (1, 2)):
        """Stripes [bold]and[/].

        Not shown.
        """

    @toys.register("file", takes_path=True)
    def file(first):
        """A file of your own."""

    monkeypatch.setattr(registry, kind, toys)
    done = call(kind)
    assert done.exit_code == 0
    for part in ("zebra", "Stripes [bold]and[/].", "tilt = 0.5", "needed (required)", "sizes = [1, 2]", "file:PATH"):
        assert part in done.stdout
    assert "Not shown" not in done.stdout
    assert done.stdout.index("file:PATH") < done.stdout.index("zebra")


@pytest.mark.parametrize(
    ("kind", "name"), [("datasets", "digits"), ("protocols", "gossip"), ("rules", "mean"), ("attacks", "alie")]
)
def test_the_real_tables(kind, name):
    pytest.importorskip("coterie.runtime.catalog")
    done = call(kind)
    assert done.exit_code == 0
    assert name in done.stdout
