"""Every kind of bad input: one clear error with its place and its remedy, the right status, and nothing left behind."""

from __future__ import annotations

import gzip
import io
import json
import shlex

import numpy as np
import pytest
import torch
from failing import fails, listing
from typer.testing import CliRunner

from coterie.cli import app

SPECS = {
    "a word for a number": ('[federation]\npeers = "ten"', "federation.peers", "valid integer (got 'ten')"),
    "a number for a word": ("[model]\nname = 3", "model.name", "valid string (got 3)"),
    "a fraction of a peer": ("[federation]\npeers = 2.5", "federation.peers", "valid integer"),
    "a truth for a number": ("[federation]\nrounds = true", "federation.rounds", "valid integer"),
    "a negative number": ("[federation]\npeers = -3", "federation.peers", "greater than or equal to 1"),
    "a negative rate": ("[training]\nlr = -0.1", "training.lr", "greater than 0"),
    "no rounds": ("[federation]\nrounds = 0", "federation.rounds", "greater than or equal to 1"),
    "a share above one": ("[data]\nvalidation = 1.5", "data.validation", "less than 1"),
    "infinity": ("[training]\nlr = inf", "training.lr", "finite"),
    "not a number": ("[data]\nalpha = nan", "data.alpha", "finite"),
    "a number far too large": ("[federation]\npeers = 99999999999", "federation.peers", "samples"),
    "an unknown key": ("[training]\nlearning_rte = 1", "training.learning_rte", "batch_size, beta2"),
    "a key with a slip": ("[federation]\npers = 3", "federation.pers", "Did you mean 'peers'?"),
    "a rule's key with a slip": ("[aggregation]\nrule = 'krum'\nhonst = 1", "aggregation.honst", "unknown key"),
    "a table with a slip": ("[trainning]\nlr = 1", "trainning", "Did you mean 'training'?"),
    "a value for a table": ("training = 3", "training", "Write [training]"),
    "a table for a value": ("[federation.peers]\nx = 3", "federation.peers", "valid integer"),
    "a file cut short": ("[federation]\npeers = ", "bad.toml", "not valid TOML"),
    "a key twice": ("[federation]\npeers = 3\npeers = 4", "bad.toml", "not valid TOML"),
    "not UTF-8": (b"[federation]\nname = '\xff\xfe'", "bad.toml", "Name a TOML file"),
    "keys that conflict": ("[training]\nlocal_steps = 1\nlocal_epochs = 1", "training", "not both"),
    "momenta that conflict": ("[training]\noptimizer = 'adam'\nquasi_global_momentum = 0.5", "training", "sgd"),
    "the same seed twice": ("[federation]\nseed = [1, 2, 1]", "federation.seed", "Name each seed once"),
    "no seed": ("[federation]\nseed = []", "federation.seed", "Name each seed once"),
    "a seed that is none": ("[federation]\nseed = [1, 'x']", "federation.seed", "valid integer"),
    "an unknown protocol": ("[federation]\nprotocol = 'gosip'", "federation.protocol", "Did you mean 'gossip'?"),
    "an unknown rule": ("[aggregation]\nrule = 'krumm'", "aggregation.rule", "Did you mean 'krum'?"),
    "an unknown attack": ("[attack]\nkind = 'sign_flp'", "attack.kind", "Did you mean 'sign_flip'?"),
    "an attack without a kind": ("[attack]\nfraction = 0.1", "attack.kind", "required"),
    "an unknown topology": ("[topology]\nkind = 'rng'", "topology.kind", "Did you mean 'ring'?"),
    "an unknown model": ("[model]\nname = 'lenett'", "model.name", "Did you mean 'lenet'?"),
    "an unknown dataset": ("[data]\ndataset = 'digit'", "data.dataset", "Did you mean 'digits'?"),
    "an unknown partition": ("[data]\npartition = 'dirchlet'", "data.partition", "Did you mean 'dirichlet'?"),
    "an unknown loss": ("[training]\nloss = 'cross_entrpy'", "training.loss", "Did you mean 'cross_entropy'?"),
    "a name with a slash": ("[federation]\nname = '../x'", "federation.name", "pattern"),
    "an edge to nobody": ("[topology]\nkind = 'edges'\nedges = [[0, 99]]", "topology.edges", "0..9"),
    "a degree too high": ("[topology]\nkind = 'regular'\ndegree = 10", "topology.degree", "below the number"),
    "a fault of nobody": (
        "[[faults.partitions]]\nat = 0\nseconds = 1\ngroups = [[77]]", "faults.partitions", "no peer 77",
    ),
    "a rule without its root sample": ("[aggregation]\nrule = 'fltrust'", "data.root", "Set it above 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPECS)
def test_a_bad_spec(folder, name):
    content, where, says = SPECS[name]
    (folder / "bad.toml").write_bytes(content if isinstance(content, bytes) else content.encode())
    fails(folder, "run bad.toml", "data" if "samples" in says else "spec", where, says)


MATRICES = {
    "no matrix": ("", "matrix", "[matrix]"),
    "no rules": ("[matrix]\nattacks = ['alie']", "matrix.rules", "required"),
    "an empty list of rules": ("[matrix]\nrules = []", "matrix.rules", "at least 1"),
    "an unknown rule": ("[matrix]\nrules = ['krumm']", "matrix.rules, entry 1", "Did you mean 'krum'?"),
    "an unknown attack": (
        "[matrix]\nrules = ['mean']\nattacks = ['alli']", "matrix.attacks, entry 1", "Did you mean 'alie'?",
    ),
    "an unknown reference": (
        "[matrix]\nrules = ['mean']\nreferences = ['oracel']", "matrix.references", "Did you mean 'oracle'?",
    ),
    "a key with a slip": ("[matrix]\nrule = ['mean']", "matrix.rule", "Did you mean 'rules'?"),
    "a rule twice": ("[matrix]\nrules = ['mean', 'mean']", "matrix.rules", "twice"),
    "a split that cannot be": (
        "[matrix]\nrules = ['mean']\nsplits = [{ alpha = -1 }]", "matrix.splits, entry 1", "greater than",
    ),
    "data that is not there": (
        "[data]\ndataset = 'csv:none.csv'\n[matrix]\nrules = ['mean']", "data.dataset", "no CSV file",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MATRICES)
def test_a_bad_matrix(folder, name):
    content, where, says = MATRICES[name]
    (folder / "bad.toml").write_text(content)
    fails(folder, "matrix bad.toml", "data" if "CSV" in says else "spec", where, says)


LINES = {
    "--set without =": ("run --set federation.peers", "spec", "--set", "Write --set table.key=value"),
    "--set without a table": ("run --set peers=3", "spec", "--set", "Write table.key"),
    "--set of an unknown key": ("run --set federation.pers=3", "spec", "federation.pers", "Did you mean 'peers'?"),
    "--set of a wrong value": ("run --set federation.peers=many", "spec", "federation.peers", "valid integer"),
    "--set of thousands of digits": (f"run --set training.lr={'9' * 5000}", "spec", "training.lr", "valid number"),
    "--seed of a word": ("run --seed x", "spec", "--seed", "Write --seed 7"),
    "--seed twice the same": ("run --seed 1,1", "spec", "--seed", "twice"),
    "a spec that is not there": ("run none.toml", "spec", "the spec", "there is no file none.toml"),
    "a folder for a spec": ("run folder", "spec", "folder", "Name a TOML file"),
    "a spec of no name": ("run ''", "spec", ".", "Name a TOML file"),
    "--out that exists": ("run small.toml --out folder", "output", "folder", "never overwrites"),
    "--out that is a file": ("run small.toml --out small.toml", "output", "small.toml", "never overwrites"),
    "--out below a file": ("run small.toml --out small.toml/x", "output", "small.toml/x", "cannot be written"),
    "--out where nobody can write": ("run small.toml --out /proc/x", "output", "/proc/x", "cannot be written"),
    "--data-dir that is not there": (
        "run small.toml --data-dir no --set data.dataset=mnist", "data", "--data-dir", "Name an existing folder",
    ),
    "cuda where there is none": ("run small.toml --set compute.device=cuda", "spec", "compute.device", "cpu"),
    "resume of nothing": ("resume nowhere", "data", "nowhere", "no such run directory"),
    "resume of another folder": ("resume folder", "data", "folder", "not a run directory"),
    "resume of a file": ("resume small.toml", "data", "small.toml", "no such run directory"),
    "report of nothing": ("report nowhere", "data", "nowhere", "no such run directory"),
    "report of another folder": ("report folder", "data", "folder", "not a run directory"),
    "a matrix of nothing": ("matrix none.toml", "spec", "the spec", "there is no file none.toml"),
    "a matrix with --out that exists": (
        "matrix small.toml --out folder --set 'matrix.rules=[\"mean\"]'", "output", "folder", "exists already",
    ),
    "an unknown paper": ("reproduce papya", "spec", "PAPER", "Did you mean 'papaya'?"),
    "a paper without its data": ("reproduce papaya --data-dir no", "data", "--data-dir", "Name an existing folder"),
    "a paper with a wrong seed": ("reproduce papaya --seed x", "spec", "--seed", "Write --seed 7"),
    "new with a bad name": ("new a/b", "spec", "NAME", "cannot be a name"),
    "new with a name in use": ("new small", "output", "small.toml", "Choose another name"),
}  # fmt: skip


@pytest.mark.parametrize("name", LINES)
def test_a_bad_command_line(folder, name):
    line, code, where, says = LINES[name]
    if "cuda" in name and torch.cuda.is_available():
        pytest.skip("there is one")
    (folder / "folder").mkdir()
    (folder / "folder/something").write_text("mine")
    fails(folder, line, code, where, says)


USAGES = {
    "an unknown command": ("ruls", "Did you mean 'rules'?"),
    "an unknown option": ("run --sed 3", "--seed"),
    "workers that are no number": ("run --workers many", "--workers"),
    "fewer than no workers": ("run --workers -1", "--workers"),
    "no argument": ("report", "RUN"),
    "one argument too many": ("run a.toml b.toml", "b.toml"),
}


@pytest.mark.parametrize("name", USAGES)
def test_a_command_line_that_cannot_be_read(folder, name):
    line, says = USAGES[name]
    before = listing(folder)
    done = CliRunner().invoke(app, shlex.split(line))
    assert (done.exit_code, done.stdout) == (2, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    done = CliRunner().invoke(app, [*shlex.split(line), "--json"])
    assert done.exit_code == 2
    if line.startswith("run"):
        assert says in json.loads(done.stdout)["error"]["what"]
        assert json.loads(done.stdout)["error"]["remedy"]
    assert listing(folder) == before


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


X, Y = np.arange(80.0).reshape(40, 2), np.arange(40) % 2
ROWS = "".join(f"{row},{row % 7},{row % 2}\n" for row in range(40))
WHOLE = npz(x_train=X, y_train=Y)
NAN = np.where(X == 5, np.nan, X)
DATA = {
    "a file that is not there": ("none.csv", None, "", "data.dataset", "no CSV file"),
    "a column of words": ("a.csv", "1,2,0\n1,x,1\n" + ROWS, "", "a.csv line 2, column 2", "not a finite number"),
    "nan in a table": ("a.csv", "1,2,0\n1,nan,1\n" + ROWS, "", "a.csv line 2, column 2", "not a finite number"),
    "a row cut short": ("a.csv", ROWS + "1,2\n", "", "a.csv line 41", "Mend that row"),
    "a label that is missing": ("a.csv", ROWS + "1,2,\n", "", "a.csv line 41", "label"),
    "an empty table": ("a.csv", "", "", "a.csv", "no rows"),
    "one class only": ("a.csv", "1,2,0\n" * 30, "", "a.csv", "two classes"),
    "a table that is not text": ("a.csv", b"\xff\xfe\x00\x01", "", "a.csv", "UTF-8"),
    "a gzipped table cut short": ("a.csv.gz", gzip.compress(ROWS.encode())[:60], "", "a.csv.gz", "cannot be read"),
    "a table with .gz that is not": ("a.csv.gz", ROWS, "", "a.csv.gz", "cannot be read"),
    "an npz cut short": ("a.npz", WHOLE[: len(WHOLE) // 2], "", "a.npz", "cannot be read"),
    "an npz that is text": ("a.npz", "hello", "", "a.npz", "cannot be read"),
    "an npz with objects": ("a.npz", npz(x_train=X, y_train=np.array([{}] * 40)), "", "a.npz", "no objects"),
    "an npz without labels": ("a.npz", npz(x_train=X), "", "a.npz", "no y_train"),
    "an npz that is not there": ("none.npz", None, "", "data.dataset", "no file"),
    "nan in an npz": ("a.npz", npz(x_train=NAN, y_train=Y), "", "a.npz", "row 2, column 1 is nan"),
    "more labels than samples": ("a.npz", npz(x_train=X, y_train=Y[:30]), "", "a.npz", "40 samples but 30 labels"),
    "a negative label": ("a.npz", npz(x_train=X, y_train=Y - 1), "", "a.npz", "not a class"),
    "a label far out": ("a.npz", npz(x_train=X, y_train=Y * 10**9), "", "a.npz", "Number the classes"),
    "labels on two axes": ("a.npz", npz(x_train=X, y_train=np.eye(40)), "", "a.npz", "one integer a sample"),
    "another shape for the test": (
        "a.npz", npz(x_train=X, y_train=Y, x_test=X[:, :1], y_test=Y), "", "a.npz", "same shape",
    ),
    "no samples": ("a.npz", npz(x_train=X[:0], y_train=Y[:0]), "", "a.npz", "no samples"),
    "words for features": ("a.npz", npz(x_train=np.full((40, 2), "a"), y_train=Y), "", "a.npz", "array of numbers"),
    "more peers than samples": ("a.csv", ROWS, "federation.peers=30", "federation.peers", "Lower federation.peers"),
    "a dirichlet draw that cannot be": (
        "a.csv", ROWS, "federation.peers=12 data.partition=dirichlet data.alpha=0.001",
        "data.partition", "Raise data.alpha",
    ),
    "a label with fewer samples than holders": (
        "a.csv", ROWS + "1,2,2\n1,3,2\n", "federation.peers=9 data.partition=labels data.labels_per_peer=2",
        "data.partition", "Lower",
    ),
    "more labels a peer than there are": (
        "a.csv", ROWS, "data.partition=labels data.labels_per_peer=3", "data.labels_per_peer", "Lower it",
    ),
    "a root sample larger than a class": ("a.csv", ROWS, "data.root=36", "data.root", "Lower it"),
    "files that are not the peers": ("a.csv", ROWS, "data.partition=files", "data.partition", "federation.peers = 1"),
    "a cap of one sample": ("a.csv", ROWS, "data.samples_per_peer=1", "data.samples_per_peer", "Raise"),
}  # fmt: skip


@pytest.mark.parametrize("name", DATA)
def test_bad_data(folder, name):
    file, content, sets, where, says = DATA[name]
    if content is not None:
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    kind = "npz" if file.endswith(".npz") else "csv"
    words = " ".join(f"--set {word}" for word in [f"data.dataset={kind}:{file}", *sets.split()])
    fails(folder, f"run small.toml {words}", "data", where, says)


IMAGES = gzip.compress(b"\0\0\x08\x03" + b"\0\0\0\x02\0\0\0\x1c\0\0\0\x1c" + bytes(2 * 784))
LABELS = gzip.compress(b"\0\0\x08\x01\0\0\0\x02\0\x01")
MNIST = {
    "train-images-idx3-ubyte.gz": IMAGES, "train-labels-idx1-ubyte.gz": LABELS,
    "t10k-images-idx3-ubyte.gz": IMAGES, "t10k-labels-idx1-ubyte.gz": LABELS,
}  # fmt: skip
PUBLISHED = {
    "a gz cut short": ("train-images-idx3-ubyte.gz", IMAGES[:-12], "cannot be read"),
    "an idx cut short": ("t10k-labels-idx1-ubyte.gz", gzip.compress(b"\0\0\x08\x01\0\0\0\x02\0"), "1 bytes before"),
    "an idx of another kind": ("t10k-images-idx3-ubyte.gz", LABELS, "mixed up"),
    "a file that is missing": ("t10k-images-idx3-ubyte.gz", None, "is missing"),
}


@pytest.mark.filterwarnings("ignore::coterie.data.CoterieDataWarning")
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_that_are_damaged(folder, name):
    file, content, says = PUBLISHED[name]
    (folder / "mnist").mkdir()
    for each, good in (MNIST | {file: content}).items():
        if good is not None:
            (folder / "mnist" / each).write_bytes(good)
    fails(folder, "run small.toml --data-dir . --set data.dataset=mnist", "data", "mnist", says)
