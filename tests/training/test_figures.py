"""The attack rate and the area under the ROC curve."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import nn

from coterie.spec import TrainingTable
from coterie.training import Learner, Tally
from coterie.training.figures import area_under_roc


@given(st.lists(st.tuples(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 3.0]), st.booleans()), min_size=2, max_size=40))
def test_the_area_is_that_of_scikit_learn(pairs):
    scores, positive = np.array([s for s, _ in pairs]), np.array([p for _, p in pairs])
    found = area_under_roc(scores, positive)
    if positive.all() or not positive.any():
        assert found is None
    else:
        assert found == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)


def test_the_area_by_hand():
    # pairs (positive, negative): 3 > 1, 3 > 2, 2 = 2 counts half, 2 > 1: 3.5 of 4
    assert area_under_roc(np.array([3.0, 2.0, 1.0, 2.0]), np.array([True, True, False, False])) == 3.5 / 4
    assert area_under_roc(np.array([np.nan, 1.0]), np.array([True, False])) is None


def one_hot(classes, n):
    return torch.eye(n)[torch.tensor(classes)]


def test_the_attack_rate_counts_attacked_classes_alone():
    tally = Tally({1: 7, 2: 0})
    y = torch.tensor([1, 1, 1, 2, 3, 7])
    tally.add(one_hot([7, 1, 7, 0, 7, 7], 10), y)
    assert tally.attack_rate == 3 / 4
    tally.add(one_hot([1, 0], 10), torch.tensor([1, 2]))
    assert tally.attack_rate == 4 / 6
    assert tally.auc is None


@pytest.mark.parametrize("targets", [None, {}, {5: 1}])
def test_no_attacked_sample_no_rate(targets):
    tally = Tally(targets)
    tally.add(one_hot([1, 2], 3), torch.tensor([1, 2]))
    assert tally.attack_rate is None


def test_an_evaluation_keeps_the_tally_over_its_chunks():
    torch.manual_seed(0)
    module = nn.Linear(4, 2)
    learner = Learner(module, nn.functional.cross_entropy, TrainingTable())
    x, y = torch.randn(600, 4), torch.randint(0, 2, (600,))
    plain, kept = learner.evaluate(x, y), learner.evaluate(x, y, Tally({1: 0}))
    assert (plain.attack_rate, plain.auc) == (None, None)
    assert (plain.loss, plain.accuracy) == (kept.loss, kept.accuracy)
    with torch.no_grad():
        outputs = module(x)
    assert kept.attack_rate == pytest.approx(float((outputs.argmax(1)[y == 1] == 0).float().mean()))
    probability = torch.softmax(outputs.double(), 1)[:, 1]
    assert kept.auc == pytest.approx(roc_auc_score(y, probability), abs=1e-9)
