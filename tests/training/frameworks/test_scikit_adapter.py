"""scikit-learn estimators: what they hold, when they hold nothing yet, and figures by its own scorers."""

import numpy as np
import pytest
import torch
from sklearn.cluster import MiniBatchKMeans
from sklearn.linear_model import LogisticRegression, Perceptron, SGDClassifier, SGDOneClassSVM, SGDRegressor
from sklearn.metrics import accuracy_score, hinge_loss, log_loss, mean_squared_error
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier, MLPRegressor

from coterie.errors import DataError, ModelError, SpecError
from coterie.training.frameworks import Functions, adapter_for

X = np.random.default_rng(0).normal(size=(90, 4))
Y = np.arange(90) % 3
DATA = (X, Y)


def saved(adapter):
    vector = torch.full((adapter.layout.size,), torch.nan)
    adapter.save_weights(vector)
    return vector


@pytest.mark.parametrize("kind", [SGDClassifier, Perceptron, MLPClassifier])
def test_what_was_loaded_predicts(kind):
    """Two estimators with the same vector are the same classifier."""
    one, other = (kind(random_state=seed).partial_fit(X, Y, classes=[0, 1, 2]) for seed in (1, 2))
    first, second = adapter_for(one), adapter_for(other)
    vector = saved(first)
    exact = vector.clone()
    first.load_weights(exact)
    second.load_weights(vector)
    assert np.array_equal(one.predict(X), other.predict(X))
    other.partial_fit(X, Y)
    assert not torch.equal(saved(second), vector)


def test_the_layout_names_the_classes():
    """coef_ of a three-class problem has one shape whatever the classes are, and rows in their order."""
    letters = SGDClassifier().partial_fit(X, np.array(list("abc"))[Y], classes=list("abc"))
    numbers, again, more = (SGDClassifier().partial_fit(X, Y + i, classes=[i, 1 + i, 2 + i]) for i in (0, 0, 1))
    first, same, other, fourth = (adapter_for(each).layout.hash for each in (numbers, again, more, letters))
    assert first == same
    assert len({first, other, fourth}) == 3


@pytest.mark.parametrize("estimator", [SGDClassifier(), SGDRegressor(), Perceptron(), MLPClassifier(), MLPRegressor()])
def test_before_the_first_partial_fit_it_says_what_to_do(estimator):
    for attempt in (lambda adapter: adapter.check_platform(), lambda adapter: adapter.layout):
        with pytest.raises(ModelError, match="no weights before the first partial_fit") as caught:
            attempt(adapter_for(estimator))
        assert caught.value.remedy.startswith("Call partial_fit on a few samples, with classes=")


@pytest.mark.parametrize(
    ("estimator", "says"),
    [
        (LogisticRegression(), "it has no partial_fit"),
        (SGDClassifier(average=True), "with average it keeps two sets of weights"),
        (GaussianNB().partial_fit(X, Y, classes=[0, 1, 2]), "it has no coef_"),
        (SGDOneClassSVM().partial_fit(X), "it has no coef_ and intercept_"),
        (MiniBatchKMeans(3).partial_fit(X), "it has no coef_"),
    ],
)
def test_estimators_that_cannot_be_held(estimator, says):
    with pytest.raises(ModelError, match=says):
        adapter_for(estimator).check_platform()


def test_sparse_coefficients_are_refused():
    adapter = adapter_for(SGDClassifier().partial_fit(X, Y, classes=[0, 1, 2]))
    vector = saved(adapter)
    adapter.model.sparsify()
    with pytest.raises(ModelError, match=r"coef_ is a csr_(matrix|array), not an array .*densify"):
        adapter.load_weights(vector)


def figures(estimator, functions=None, data=DATA):
    adapter = adapter_for(estimator, functions)
    return adapter.evaluate(adapter.unpack_validation(data, None))


def test_losses_are_scikit_learns():
    probable = SGDClassifier(loss="log_loss").partial_fit(X, Y, classes=[0, 1, 2])
    found = figures(probable, Functions(metric="accuracy"))
    assert found.loss == pytest.approx(log_loss(Y, probable.predict_proba(X)))
    assert found.metric == accuracy_score(Y, probable.predict(X))
    margin = SGDClassifier().partial_fit(X, Y, classes=[0, 1, 2])
    assert figures(margin).loss == pytest.approx(hinge_loss(Y, margin.decision_function(X)))
    line = SGDRegressor().partial_fit(X, Y)
    assert figures(line).loss == pytest.approx(mean_squared_error(Y, line.predict(X)))
    one_class = (X[Y == 1], Y[Y == 1])
    assert figures(probable, data=one_class).loss > 0, "held-out data of one class alone still have a loss"
    assert figures(margin, Functions(loss=lambda estimator, x, y: len(x))).loss == 90.0


@pytest.mark.parametrize("data", [3, (X,), (X, Y[:4]), (X[:0], Y[:0])])
def test_wrong_validation_data(data):
    with pytest.raises(DataError, match="adsValData"):
        figures(SGDRegressor().partial_fit(X, Y), data=data)


def test_wrong_functions():
    line = SGDRegressor().partial_fit(X, Y)
    with pytest.raises(SpecError, match=r"lossFunction: there is no loss 'log_los'\. Did you mean 'log_loss'"):
        adapter_for(line, Functions(loss="log_los"))
    with pytest.raises(SpecError, match=r"scikit-learn has no scorer 'acuracy'\. Did you mean 'accuracy'"):
        adapter_for(line, Functions(metric="acuracy"))
    with pytest.raises(SpecError, match="lossFunction: it raised AttributeError"):
        figures(line, Functions(loss="log_loss"))
