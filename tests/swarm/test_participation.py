"""What a callback does between the script and its session, with a session that is a script itself."""

import contextlib
import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.linear_model import SGDRegressor
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import coterie
from coterie.errors import DataError, LayoutMismatch, RunError, SpecError, TrainingDiverged
from coterie.swarm.session import Merged, Terms
from coterie.training.frameworks import adapter_for


class Scripted:
    """A session that notes what it is told, and merges into a constant: the number of the merge."""

    def __init__(self, intervals=(3, 3, 3, 3), over_at=None):
        self.intervals, self.over_at, self.heard, self.rounds = intervals, over_at, [], 0
        self.fail = None

    def merged(self):
        over = self.rounds == self.over_at
        self.rounds += 1
        self.outcome = torch.full((self.size,), float(self.rounds))
        return Merged(self.outcome, self.rounds - 1, 2, self.intervals[min(self.rounds, len(self.intervals)) - 1], over)

    def begin(self, terms, layout, vector):
        self.layout, self.size = layout, layout.size
        self.heard.append(("begin", terms, vector.clone()))
        return self.merged()

    def sync(self, checkin):
        return self.note("sync", checkin)

    def end(self, checkin):
        return self.note("end", checkin)

    def note(self, what, checkin):
        if self.fail:
            raise self.fail
        self.outcome.zero_()  # the callback reads it until its next call
        self.heard.append((what, checkin, checkin.vector.clone()))
        return self.merged()

    def close(self, figures):
        self.heard.append(("close", figures))

    def told(self, what):
        return [entry[1] for entry in self.heard if entry[0] == what]

    def vectors(self, what):
        return [entry[2][0].item() for entry in self.heard if entry[0] == what]


def make(session, **options):
    model = nn.Linear(3, 2)
    settings = {"syncFrequency": 3, "minPeers": 2, "model": model, "session": session, **options}
    return coterie.SwarmCallback(**settings), model


def train(model, value=0.25):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(value)


def level(model):
    (value,) = set(torch.cat([parameter.flatten() for parameter in model.parameters()]).tolist())
    return value


def test_a_training():
    session = Scripted()
    callback, model = make(session, nodeWeightage=7, totalEpochs=2, trainingContract="c", mergeMethod="geomedian")
    first = model.weight[0, 0].item()
    callback.on_train_begin()
    assert session.vectors("begin") == [first]
    assert session.told("begin") == [Terms("c", 2, 3, False, "geomedian", 2, opening=True)]
    assert level(model) == 1.0
    for epoch in range(2):
        for batch in range(4):
            train(model)
            assert callback.on_batch_end(batch) is False
        assert callback.on_epoch_end(epoch) is False
        callback.node_weightage = 9
    callback.on_train_end()
    assert session.vectors("sync") == [1.75, 2.75], "each time three batches after the last merge"
    assert [(c.steps, c.weight, c.epochs) for c in session.told("sync")] == [(3, 7, 0), (3, 9, 1)]
    assert session.vectors("end") == [3.5]
    assert [(c.steps, c.weight, c.epochs) for c in session.told("end")] == [(2, 9, 2)]
    assert level(model) == 4.0
    assert callback.stopped
    assert [entry[0] for entry in session.heard] == ["begin", "sync", "sync", "end", "close"]
    callback.on_train_end()
    callback.close()
    assert len(session.heard) == 5, "a second end does nothing"


@pytest.mark.parametrize(("mode", "value", "weight"), [("snapshot", 2.5, 5), ("active", 2.0, 5), ("inactive", 2.0, 0)])
def test_the_last_check_in(mode, value, weight):
    session = Scripted()
    callback, model = make(session, checkinModelOnTrainEnd=mode, nodeWeightage=5)
    callback.on_train_begin()
    for _ in range(5):
        train(model)
        callback.on_batch_end()
    callback.on_train_end()
    assert session.vectors("end") == [value]
    assert session.told("end")[0].weight == weight
    assert level(model) == 3.0


def test_what_a_failed_merge_left_is_not_taken_for_the_last_merged():
    session = Scripted()
    callback, model = make(session, checkinModelOnTrainEnd="active")
    callback.on_train_begin()
    train(model)
    callback.on_batch_end()
    callback.on_batch_end()
    session.fail = RunError("nobody is there")
    with pytest.raises(RunError):
        callback.on_batch_end()
    session.fail = None
    callback.on_train_end()
    assert session.vectors("end") == [1.0]


LEFT = """
import torch, coterie
from coterie.swarm import Merged

class Alone:
    def begin(self, terms, layout, vector): return Merged(vector, 0, 1, 2, False)
    def close(self, figures): print("left", figures)

coterie.SwarmCallback(2, 1, model=torch.nn.Linear(3, 2), session=Alone()).on_train_begin()
raise ValueError("the user's own")
"""


def test_a_script_that_fails_leaves_the_swarm():
    done = subprocess.run([sys.executable, "-c", LEFT], capture_output=True, text=True, timeout=60)
    assert done.stdout == "left None\n"
    assert done.stderr.endswith("ValueError: the user's own\n")


def test_the_interval_is_the_sessions():
    session = Scripted(intervals=(1, 4, 2))
    callback, _ = make(session)
    callback.on_train_begin()
    for _ in range(7):
        callback.on_batch_end()
    assert [checkin.steps for checkin in session.told("sync")] == [1, 4, 2]


def test_a_loop_that_obeys_stops():
    session = Scripted(over_at=1)
    callback, _ = make(session)
    batches = 0
    for _ in callback.epochs(5):
        for _ in range(2):
            batches += 1
            callback.on_batch_end()
    assert batches == 4
    assert [entry[0] for entry in session.heard] == ["begin", "sync", "end", "close"]
    assert session.told("begin")[0].total_epochs == 5


@pytest.mark.parametrize(("given", "total"), [(2, 2), (np.int64(2), 2), (range(2), 0), (iter((0, 1)), 0)])
def test_epochs(given, total):
    session = Scripted()
    assert list(make(session)[0].epochs(given)) == [0, 1]
    assert session.told("begin")[0].total_epochs == total


def test_the_number_of_an_epoch_is_a_number_that_can_be_sent():
    session = Scripted()
    callback, _ = make(session)
    callback.on_train_begin()
    callback.on_epoch_end(np.int64(4))
    for wrong in (-1, 2.0, "3"):
        with pytest.raises(SpecError, match="SwarmCallback: epoch: it is"):
            callback.on_epoch_end(wrong)
    callback.on_train_end()
    (found,) = session.told("end")
    assert (found.epochs, type(found.epochs)) == (5, int)


@pytest.mark.parametrize("given", [2.0, None, -1, True])
def test_epochs_that_are_no_number_are_named_before_it_joins(given):
    session = Scripted()
    with pytest.raises(SpecError, match=r"SwarmCallback: epochs: it is .* a whole number"):
        next(make(session)[0].epochs(given))
    assert session.heard == []


def test_a_loop_that_does_not_obey_ends_with_the_same_model():
    session = Scripted(over_at=1)
    callback, model = make(session)
    callback.on_train_begin()
    said = []
    for _ in range(9):
        train(model)
        said.append(callback.on_batch_end())
    assert said == [False, False] + [True] * 7
    assert callback.on_epoch_end() is True
    callback.on_train_end()
    assert [entry[0] for entry in session.heard] == ["begin", "sync", "end", "close"]
    assert level(model) == 3.0


def test_figures_are_those_of_the_merged_model():
    x, y = torch.ones(4, 3), torch.zeros(4, 2)
    session = Scripted()
    callback, model = make(session, adsValData=(x, y), lossFunction="MSELoss", metricFunction=lambda o, t: o.max())
    callback.on_train_begin()
    for _ in range(3):
        train(model, 10.0)
        callback.on_batch_end()
    callback.on_train_end()
    figures = [checkin.figures for checkin in (*session.told("sync"), *session.told("end"))] + session.told("close")
    assert [(each.loss, each.metric) for each in figures] == [(16.0, 4.0), (64.0, 8.0), (144.0, 12.0)]


@pytest.mark.parametrize("loader", [False, True])
def test_what_the_training_draws_does_not_depend_on_held_out_data(loader):
    data = TensorDataset(torch.ones(4, 3), torch.zeros(4, 2))
    given = {"adsValData": DataLoader(data, 2, shuffle=True) if loader else data, "lossFunction": "MSELoss"}
    drawn = []
    for options in ({}, given):
        callback, _ = make(Scripted(), **options)
        torch.manual_seed(0)
        callback.on_train_begin()
        drawn.append([torch.rand(2).tolist() for _ in range(4) if not callback.on_batch_end()])
        callback.close()
    assert drawn[0] == drawn[1]


def test_a_figure_that_is_not_finite_is_not_shared():
    session = Scripted()
    callback, _ = make(session, adsValData=(torch.ones(4, 3), torch.zeros(4)), lossFunction=lambda o, t: o.sum() / 0)
    callback.on_train_begin()
    callback.on_train_end()
    assert session.told("end")[0].figures.loss is None


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"lossFunction": "MSELoss"}, "lossFunction: it raised RuntimeError"),
        ({}, "there is no loss to compute on adsValData"),
        ({"metricFunction": lambda outputs, targets: 1, "useAdaptiveSync": True}, "there is no loss to compute"),
    ],
)
def test_wrong_functions_show_before_anybody_waits(options, says):
    session = Scripted()
    callback, _ = make(session, adsValData=(torch.ones(4, 3), torch.zeros(4, 5)), **options)
    with pytest.raises(SpecError, match=says):
        callback.on_train_begin()
    assert session.heard == []


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ((np.ones((4, 3)), np.zeros(4)), "evaluated on it, RuntimeError: .* dtype, but got Double and Float"),
        ((torch.ones(4, 5), torch.zeros(4)), "evaluated on it, RuntimeError: .* cannot be multiplied"),
        (DataLoader([torch.ones(3), torch.ones(2)], 2), "evaluated on it, RuntimeError: stack expects each tensor"),
    ],
)
def test_held_out_data_that_do_not_suit_the_model_are_named(data, says):
    callback, _ = make(Scripted(), adsValData=data, lossFunction="MSELoss")
    with pytest.raises(DataError, match=says) as caught:
        callback.on_train_begin()
    assert caught.value.where == "adsValData"
    assert caught.value.__cause__ is not None


def test_held_out_data_that_are_none_are_named():
    model = SGDRegressor().partial_fit([[1.0]], [1.0])
    callback, _ = make(Scripted(), model=model, adsValData=(3, 4))
    with pytest.raises(DataError, match="has no len"):
        callback.on_train_begin()


def test_weights_that_diverged_do_not_leave_the_site():
    session = Scripted()
    callback, model = make(session)
    callback.on_train_begin()
    with torch.no_grad():
        model.bias[1] = torch.nan
    callback.on_batch_end()
    callback.on_batch_end()
    with pytest.raises(TrainingDiverged, match="bias has a value that is not finite; it was not checked in"):
        callback.on_batch_end()
    assert session.told("sync") == []


def test_a_mask_of_infinities_is_told_how_to_stay():
    session = Scripted()
    callback, model = make(session)
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    with pytest.raises(TrainingDiverged, match=r"mask has a value that is not finite.* persistent=False"):
        callback.on_train_begin()
    model.register_buffer("mask", model.mask, persistent=False)
    callback.on_train_begin()
    assert session.size == 8
    callback.close()


@pytest.mark.parametrize("mode", ["active", "inactive"])
def test_a_site_that_diverged_still_gets_the_final_model(mode):
    session = Scripted()
    callback, model = make(session, checkinModelOnTrainEnd=mode)
    callback.on_train_begin()
    with torch.no_grad():
        model.bias[1] = torch.nan
    callback.on_train_end()
    assert session.vectors("end") == [1.0]
    assert level(model) == 2.0


def test_large_finite_weights_are_checked_in():
    session = Scripted()
    callback, model = make(session)
    callback.on_train_begin()
    for _ in range(3):
        with torch.no_grad():
            model.weight.fill_(3e38)
        callback.on_batch_end()
    assert len(session.told("sync")) == 1


@pytest.mark.parametrize("error", [RunError("two of three peers are left"), KeyboardInterrupt()])
def test_after_an_error_the_next_batch_tries_again(error):
    session = Scripted()
    callback, model = make(session)
    callback.on_train_begin()
    callback.on_batch_end()
    callback.on_batch_end()
    session.fail = error
    for _ in range(2):
        train(model)
        with pytest.raises(type(error)):
            callback.on_batch_end()
    assert level(model) == 1.5, "it keeps what it trained"
    session.fail = None
    callback.on_batch_end()
    assert [checkin.steps for checkin in session.told("sync")] == [5]


def test_a_begin_that_fails_leaves():
    session = Scripted()
    session.begin = lambda *args: (_ for _ in ()).throw(LayoutMismatch("another model"))
    callback, _ = make(session)
    with pytest.raises(LayoutMismatch):
        callback.on_train_begin()
    assert session.heard == [("close", None)]
    with pytest.raises(RunError, match="on_batch_end: the training has not begun"):
        callback.on_batch_end()


def test_leaving_without_the_end():
    session = Scripted()
    callback, model = make(session)
    callback.on_train_begin()
    train(model)
    callback.close()
    callback.close()
    assert session.heard[1:] == [("close", None)]
    assert level(model) == 1.25
    for method in (callback.on_batch_end, callback.on_epoch_end, callback.on_train_end):
        with pytest.raises(RunError, match="has not begun"):
            method()


def test_a_callback_that_nobody_has_any_more_leaves():
    """As in a notebook, where a cell that failed is run again: its name is another callback's then."""
    session = Scripted()
    swarm, _ = make(session)
    with contextlib.suppress(KeyboardInterrupt):
        for _ in swarm.epochs(3):
            raise KeyboardInterrupt
    assert session.heard[1:] == []
    swarm, _ = make(Scripted())
    assert session.heard[1:] == [("close", None)]


def test_it_may_train_again():
    session = Scripted()
    callback, model = make(session)
    for _ in range(2):
        callback.on_train_begin()
        with pytest.raises(RunError, match="it has begun already"):
            callback.on_train_begin()
        train(model)
        callback.on_batch_end()
        callback.on_train_end()
    assert [checkin.steps for checkin in session.told("end")] == [1, 1]


def test_between_two_trainings_the_model_may_be_changed():
    session = Scripted()
    callback, model = make(session)
    list(callback.epochs(1))
    model.load_state_dict({name: torch.full_like(each, 7.0) for name, each in model.state_dict().items()}, assign=True)
    model.weight.requires_grad_(False)
    list(callback.epochs(1))
    (_, _, first), (_, _, second) = (entry for entry in session.heard if entry[0] == "begin")
    assert first.tolist() != second.tolist() == [7.0] * 8
    assert session.layout.hash == adapter_for(model).layout.hash


def test_an_adapter_of_ones_own_is_not_put_aside_for_the_whole_model():
    whole = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 5))
    session = Scripted()
    participation = make(session, model=adapter_for(whole[0]))[0].participation
    participation.begin(whole)
    assert session.size == 8
    participation.close()


def test_loopback_bypasses_everything(monkeypatch):
    monkeypatch.setenv("SWARM_LOOPBACK", "True")
    session = Scripted()
    callback, model = make(session, adsValData=(1, 2), lossFunction="MSELoss")
    before = model.weight.clone()
    assert list(callback.epochs(3)) == [0, 1, 2]
    callback.on_train_begin()
    assert [callback.on_batch_end() for _ in range(5)] == [False] * 5
    assert callback.on_epoch_end(0) is False
    callback.on_train_end()
    assert session.heard == []
    assert torch.equal(model.weight, before)
    coterie.SwarmCallback(3, 2).on_train_begin()


def test_loopback_must_be_yes_or_no(monkeypatch):
    monkeypatch.setenv("SWARM_LOOPBACK", "maybe")
    with pytest.raises(SpecError, match=r"SWARM_LOOPBACK: it is 'maybe'\. Set it to True or False"):
        coterie.SwarmCallback(3, 2)
    for value in ("False", "0", ""):
        monkeypatch.setenv("SWARM_LOOPBACK", value)
        assert not coterie.SwarmCallback(3, 2).participation.loopback


def test_without_a_model():
    with pytest.raises(SpecError, match="SwarmCallback: model: it is required"):
        coterie.SwarmCallback(3, 2, session=Scripted()).on_train_begin()


def test_the_log(caplog):
    logger = logging.getLogger("ward 7")
    callback, _ = make(Scripted(over_at=1), adsValData=(torch.ones(4, 3), torch.zeros(4, 2)), lossFunction="MSELoss",
                       logger=logger)  # fmt: skip
    assert callback.logger is logger
    with caplog.at_level(logging.INFO, "ward 7"):
        callback.on_train_begin()
        for _ in range(3):
            callback.on_batch_end()
    assert caplog.messages == [
        "merge 0 of 2 models: loss 16; the next after 3 batches",
        "merge 1 of 2 models: loss 64; training is over",
    ]


@pytest.mark.parametrize("mode", ["snapshot", "active"])
def test_what_is_checked_in_is_the_sessions_to_keep(mode):
    session = Scripted(intervals=(1,))
    callback, model = make(session, checkinModelOnTrainEnd=mode)
    callback.on_train_begin()
    for _ in range(3):
        train(model)
        callback.on_batch_end()
    callback.on_train_end()
    train(model)
    told = [entry for entry in session.heard if entry[0] in ("sync", "end")]
    assert len(told) == 4
    assert all(torch.equal(checkin.vector, as_it_was) for _, checkin, as_it_was in told)


def test_a_scripts_terms_are_the_protocols():
    from coterie.protocols import swarm

    session = Scripted()
    callback, _ = make(session)
    callback.on_train_begin()
    (terms,) = session.told("begin")
    assert type(terms) is swarm.Terms
    assert terms.opening, "scripts come with different models"
    callback.close()
