"""Several sites in one process, each with a model of a framework, on the digits: callback, loop, session and merge."""

import os
from functools import partial

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from swarm_meeting import Meeting, digest, together, until
from torch import nn

import coterie
from coterie.errors import LayoutMismatch, MessageError
from coterie.swarm.keras import SwarmCallback as KerasCallback

X, Y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
TEST, TRAIN = slice(0, 400), slice(400, None)
SITES = 3


def site(number):
    """Unequal sites: each has seen mostly some of the digits."""
    x, y = X[TRAIN], Y[TRAIN]
    random = np.random.default_rng(number)
    mine = (y % SITES == number) | (random.random(len(y)) < 0.1)
    return x[mine], y[mine]


def pytorch(number, session=None, epochs=4, **options):
    x, y = map(torch.from_numpy, site(number))
    model = nn.Linear(64, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    options = {"syncFrequency": 5, "minPeers": 2, "model": model, **options}
    swarm = coterie.SwarmCallback(**options, session=session) if session else None
    random = torch.Generator().manual_seed(number)
    for _ in swarm.epochs(epochs) if swarm else range(epochs):
        for batch in torch.randperm(480, generator=random).reshape(-1, 32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
            if swarm:
                swarm.on_batch_end()
    with torch.no_grad():
        return model, float((model(torch.from_numpy(X[TEST])).argmax(1).numpy() == Y[TEST]).mean())


def in_keras(number, session=None, epochs=4, callback=KerasCallback, **options):
    x, y = site(number)
    model = keras.Sequential([keras.layers.Input((64,)), keras.layers.Dense(10, "softmax")])
    model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy", metrics=["accuracy"])
    options = {"syncFrequency": 5, "minPeers": 2, **options}
    callbacks = [callback(**options, session=session)] if session else []
    model.fit(x[:480], y[:480], batch_size=32, epochs=epochs, verbose=0, callbacks=callbacks)
    return model, model.evaluate(X[TEST], Y[TEST], batch_size=400, verbose=0)[1]


def scikit(number, session=None, epochs=4):
    x, y = site(number)
    model = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.05, random_state=number)
    model.partial_fit(x[:20], y[:20], classes=range(10))
    swarm = coterie.SwarmCallback(5, 2, model=model, session=session) if session else None
    for _ in swarm.epochs(epochs) if swarm else range(epochs):
        for start in range(0, 480, 32):
            model.partial_fit(x[start : start + 32], y[start : start + 32])
            if swarm:
                swarm.on_batch_end()
    return model, model.score(X[TEST], Y[TEST])


@pytest.mark.parametrize("script", [pytorch, in_keras, scikit])
def test_sites_learn_together_what_none_learns_alone(script):
    alone = [script(number)[1] for number in range(SITES)]
    meeting = Meeting(SITES)
    found = together(*(partial(script, number, meeting.session()) for number in range(SITES)))
    accuracies = {accuracy for _, accuracy in found}
    assert len(accuracies) == 1, "one model everywhere"
    assert accuracies.pop() > max(alone) + 0.02
    assert meeting.rounds == 4 * 3 + 1
    assert meeting.finals == [digest(meeting.vector)]
    assert [weight for weight, *_ in meeting.checkins[0]] == [1, 1, 1]
    assert meeting.members == []


def test_a_framework_that_says_how_many_epochs():
    meeting = Meeting(2)
    together(*(partial(in_keras, number, meeting.session(), 2) for number in range(2)))
    assert meeting.terms.total_epochs == 2
    assert [epochs for _, _, epochs, _ in meeting.checkins[-1]] == [2, 2]


@pytest.mark.parametrize("script", [pytorch, in_keras])
def test_when_the_swarm_is_over_the_script_stops(script):
    meeting = Meeting(2, stop_after=4)
    together(*(partial(script, number, meeting.session(), 50) for number in range(2)))
    assert meeting.rounds == 5, "four, and the last one"


@pytest.mark.parametrize("script", [pytorch, in_keras])
def test_adaptive_sync(script):
    held_out = (X[:200], Y[:200])
    meeting = Meeting(2)
    options = {"useAdaptiveSync": True, "adsValData": held_out, "adsValBatchSize": 50}
    if script is pytorch:
        options["lossFunction"] = "CrossEntropyLoss"
    together(*(partial(script, number, meeting.session(), **options) for number in range(2)))
    steps = [checkins[0][1] for checkins in meeting.checkins]
    assert steps[0] == 5
    assert max(steps) > 5
    assert len(meeting.losses) == meeting.rounds
    assert meeting.losses[-1] < meeting.losses[0]
    assert all(figures.loss < meeting.losses[0] for figures in meeting.closed_with)


def test_several_batches_a_call_are_counted():
    """With steps_per_execution, which the PyTorch backend does not have, Keras calls once for several batches."""
    meeting = Meeting(1)
    callback = KerasCallback(5, 1, session=meeting.session())
    callback.set_model(keras.Sequential([keras.layers.Input((64,)), keras.layers.Dense(10)]))
    callback.on_train_begin()
    for epoch in range(2):
        callback.on_epoch_begin(epoch)
        for last in (3, 7, 9):
            callback.on_train_batch_end(last)
        callback.on_epoch_end(epoch)
    callback.on_train_end()
    assert [checkins[0][1] for checkins in meeting.checkins] == [8, 6, 6, 0]


def test_sites_with_other_models_are_told():
    meeting = Meeting(2)

    def other():
        swarm = coterie.SwarmCallback(5, 2, model=nn.Linear(64, 11), session=meeting.session())
        with pytest.raises(LayoutMismatch, match="cannot meet one of layout"):
            swarm.on_train_begin()

    def late():
        until(lambda: meeting.layout is not None)
        other()
        meeting.size = 1
        pytorch(1, meeting.session(), 1)

    together(partial(pytorch, 0, meeting.session(), 1), late)


def test_an_error_on_the_loop_reaches_the_script_that_waits():
    meeting = Meeting(1)
    meeting.merge = lambda members: (_ for _ in ()).throw(MessageError("a peer sent nonsense", where="peer 5"))
    with pytest.raises(MessageError, match="peer 5: a peer sent nonsense"):
        pytorch(0, meeting.session(), minPeers=1)


def test_a_site_that_dies_does_not_hold_the_others_up():
    meeting = Meeting(3)

    def dies():
        session = meeting.session()
        swarm = coterie.SwarmCallback(5, 2, model=nn.Linear(64, 10), session=session)
        swarm.on_train_begin()
        swarm.close()

    found = together(partial(pytorch, 0, meeting.session()), partial(pytorch, 1, meeting.session()), dies)
    assert found[0][1] == found[1][1]
    assert {len(checkins) for checkins in meeting.checkins} == {2}


def test_a_late_site_starts_from_the_last_merge():
    meeting = Meeting(1)

    def late():
        until(lambda: meeting.rounds >= 2)
        seen = []
        model = nn.Linear(64, 10)
        swarm = coterie.SwarmCallback(5, 1, model=model, session=meeting.session())
        swarm.on_train_begin()
        seen.append(torch.cat([model.weight.detach().flatten(), model.bias.detach()]))
        swarm.on_train_end()
        return model, seen[0]

    (first, _), (last, start) = together(partial(pytorch, 0, meeting.session(), minPeers=1), late)
    assert start.abs().max() > 0.2, "not what it drew itself"
    assert torch.equal(first.weight, last.weight)
