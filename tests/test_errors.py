"""The tree of errors: stable codes, one sentence for people, one record for programs."""

import copy
import pickle

import pytest

from coterie import errors
from coterie.errors import CoterieError, near_miss

CODES = {
    "CoterieError": ("error", 1),
    "SpecError": ("spec", 2),
    "PluginError": ("plugin", 2),
    "DataError": ("data", 2),
    "OutputError": ("output", 2),
    "ModelError": ("model", 2),
    "LayoutMismatch": ("layout", 2),
    "StorageReplaced": ("storage", 2),
    "VectorBusy": ("busy", 2),
    "IdentityError": ("identity", 2),
    "MembershipError": ("membership", 2),
    "NetworkError": ("network", 2),
    "NodeError": ("node", 2),
    "LedgerError": ("ledger", 1),
    "MessageError": ("message", 1),
    "PeerUnreachable": ("unreachable", 1),
    "RunError": ("run", 1),
    "TrainingDiverged": ("diverged", 1),
    "Deadlock": ("deadlock", 1),
    "WorkerLost": ("worker", 1),
}
"""Programs read these: changing one is a breaking change."""


def tree(kind):
    return [kind, *(inner for child in kind.__subclasses__() for inner in tree(child))]


CLASSES = [kind for kind in tree(CoterieError) if kind.__module__ == errors.__name__]


def test_codes_are_stable_and_distinct():
    assert {kind.__name__: (kind.code, kind.exit_status) for kind in CLASSES} == CODES
    assert len({kind.code for kind in CLASSES}) == len(CLASSES)


def test_every_error_is_drawn_in_the_docstring():
    for kind in CLASSES:
        assert f"{kind.__name__}" in errors.__doc__


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_says_what_where_and_what_to_do(kind):
    error = kind("the sky fell", where="peer 3, round 4", remedy="Hold it up.")
    assert str(error) == "peer 3, round 4: the sky fell. Hold it up."
    assert error.args == ("the sky fell",)
    assert error.record() == {
        "code": kind.code,
        "what": "the sky fell",
        "where": "peer 3, round 4",
        "remedy": "Hold it up.",
    }


def test_where_and_remedy_may_be_missing():
    assert str(CoterieError("the sky fell")) == "the sky fell"
    assert str(CoterieError("the sky fell", where="here")) == "here: the sky fell"
    assert str(CoterieError("the sky fell", remedy="Run.")) == "the sky fell. Run."
    assert str(CoterieError("did the sky fall?", remedy="Run.")) == "did the sky fall? Run."


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])  # noqa: S301
def test_an_error_comes_back_from_a_worker(kind, copied):
    error = copied(kind("the sky fell", where="peer 3", remedy="Hold it up."))
    assert type(error) is kind
    assert str(error) == "peer 3: the sky fell. Hold it up."
    assert error.record() == kind("the sky fell", where="peer 3", remedy="Hold it up.").record()


@pytest.mark.parametrize(
    ("word", "known", "sentence"),
    [
        ("rouns", ["peers", "rounds"], "Did you mean 'rounds'?"),
        ("xyz", ["peers", "lr"], "Known: lr, peers."),
        ("xyz", {"b", "c", "a"}, "Known: a, b, c."),
        ("xyz", [], "None are known."),
        ("", ["a"], "Known: a."),
    ],
)
def test_near_miss(word, known, sentence):
    assert near_miss(word, known) == sentence
