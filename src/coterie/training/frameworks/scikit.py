"""scikit-learn estimators that learn by ``partial_fit``: linear models and multi-layer perceptrons.

Before the first ``partial_fit`` such an estimator has no weights, and no shape of them: call it once, on a few samples
with ``classes=`` all classes of the federation, before ``on_train_begin``. The dtype of the data decides that of the
weights, which is in the layout: sites that fit float64 cannot meet sites that fit float32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator, is_classifier, is_regressor

from coterie.errors import DataError, ModelError, SpecError, StorageReplaced, near_miss
from coterie.layout import Layout
from coterie.training.frameworks.base import Figures, Functions, ModelAdapter, array_of, dense_layout, users_measure

Scorer = Callable[[Any, Any, Any], float]
"""``scorer(estimator, x, y) -> float``, as scikit-learn has them."""
_LOSSES = ("log_loss", "hinge_loss", "mean_squared_error", "mean_absolute_error")


class ScikitAdapter(ModelAdapter):
    """SGDClassifier, SGDRegressor, Perceptron, PassiveAggressive*, MLPClassifier, MLPRegressor, and others like them.

    The vector holds ``coef_`` and ``intercept_``, or the lists ``coefs_`` and ``intercepts_``; counters and optimizer
    state stay. The layout names the classes, in their order: estimators that number them differently cannot meet.
    Validation data: (x, y). ``lossFunction``: "log_loss", "hinge_loss", "mean_squared_error", "mean_absolute_error", or
    a callable (estimator, x, y); by default the first that the estimator can have. ``metricFunction``: a scorer's name
    such as "accuracy" or "roc_auc", or a callable (estimator, x, y).
    """

    platform: ClassVar[str] = "SKLEARN"

    def __init__(self, model: Any, functions: Functions | None = None) -> None:
        super().__init__(model, functions)
        if not isinstance(model, BaseEstimator):
            raise ModelError("it is no scikit-learn estimator", where=self.where, remedy="Pass model=<your estimator>.")
        self._loss = self._loss_scorer()
        self._metric = self._metric_scorer()
        self._layout: Layout | None = None

    def check_platform(self) -> None:
        if not hasattr(self.model, "partial_fit"):
            raise ModelError("it has no partial_fit", where=self.where, remedy="Use SGDClassifier, for example.")
        if getattr(self.model, "average", False):
            raise ModelError(
                "with average it keeps two sets of weights",
                where=self.where,
                remedy="Set average=False; peers average.",
            )
        linear = hasattr(self.model, "coef_") and hasattr(self.model, "intercept_")
        if not linear and not hasattr(self.model, "coefs_"):
            if hasattr(self.model, "n_features_in_"):
                raise ModelError(
                    "it has no coef_ and intercept_: its state cannot be averaged",
                    where=self.where,
                    remedy="Use a linear model.",
                )
            raise ModelError(
                "it has no weights before the first partial_fit",
                where=self.where,
                remedy="Call partial_fit on a few samples, with classes= all classes, before on_train_begin.",
            )

    @property
    def layout(self) -> Layout:
        if self._layout is None:
            self.check_platform()
            labels = getattr(self.model, "classes_", None)
            tag = "" if labels is None else f" of {_digest(labels)}"
            arrays = self._arrays()
            entries = [(name + tag, array.shape, str(array.dtype)) for name, array in arrays]
            self._layout = dense_layout(entries, len(entries), self.where)
        return self._layout

    def _arrays(self) -> list[tuple[str, Any]]:
        """The weights where they are now: some estimators replace an array at each ``partial_fit``."""
        model = self.model
        if hasattr(model, "coefs_"):
            named = [(f"coefs_.{i}", each) for i, each in enumerate(model.coefs_)]
            named += [(f"intercepts_.{i}", each) for i, each in enumerate(model.intercepts_)]
        else:
            named = [("coef_", model.coef_), ("intercept_", model.intercept_)]
        for name, array in named:
            if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
                raise ModelError(
                    f"{name} is a {type(array).__name__}, not an array of floats",
                    where=self.where,
                    remedy="Call densify(), and set fit_intercept=True.",
                )
        return named

    def _checked(self, vector: torch.Tensor) -> list[tuple[Any, Any]]:
        self.check_vector(vector)
        arrays = self._arrays()
        found = [(array.shape, str(array.dtype)) for _, array in arrays]
        if found != [(slot.shape, slot.dtype) for slot in self.layout.slots]:
            raise StorageReplaced(
                "its weights changed their shape or dtype",
                where=self.where,
                remedy="Do not fit it anew, or on data of another dtype, while it is in a swarm.",
            )
        return [(array, array_of(vector, slot)) for (_, array), slot in zip(arrays, self.layout.slots, strict=True)]

    def save_weights(self, vector: torch.Tensor) -> None:
        for array, view in self._checked(vector):
            np.copyto(view, array, casting="same_kind")

    def load_weights(self, vector: torch.Tensor) -> None:
        for array, view in self._checked(vector):
            np.copyto(array, view)

    def unpack_validation(self, data: Any, batch_size: int | None) -> Iterable[Any]:
        if not isinstance(data, tuple | list) or len(data) != 2:
            raise DataError(
                f"{type(data).__name__} is no validation data", where="adsValData", remedy="Give it a tuple (x, y)."
            )
        x, y = data
        lengths = [each.shape[0] if getattr(each, "shape", ()) else len(each) for each in (x, y)]
        if lengths[0] != lengths[1] or not lengths[0]:
            raise DataError(
                f"{lengths[0]} samples and {lengths[1]} targets",
                where="adsValData",
                remedy="Give it as many of one as of the other, at least one.",
            )
        return [(x, y)]  # whole: scorers such as roc_auc are no means over batches

    def evaluate(self, batches: Iterable[Any]) -> Figures:
        ((x, y),) = batches
        loss = self._scored(self._loss, x, y, "lossFunction")
        return Figures(loss, self._scored(self._metric, x, y, "metricFunction"))

    def _scored(self, scorer: Scorer | None, x: Any, y: Any, where: str) -> float | None:
        if scorer is None:
            return None
        with users_measure(where, "(estimator, x, y) and returns a number"):
            return float(scorer(self.model, x, y))

    def _loss_scorer(self) -> Scorer | None:
        loss = self.functions.loss
        if loss is None and is_classifier(self.model):
            loss = "log_loss" if hasattr(self.model, "predict_proba") else "hinge_loss"
        elif loss is None and is_regressor(self.model):
            loss = "mean_squared_error"
        if loss is None:
            return None
        if not isinstance(loss, str):
            return partial(loss, **self.functions.loss_args)
        if loss not in _LOSSES:
            raise SpecError(f"there is no loss {loss!r}", where="lossFunction", remedy=near_miss(loss, _LOSSES))
        return partial(_loss_of, name=loss, args=dict(self.functions.loss_args))

    def _metric_scorer(self) -> Scorer | None:
        from sklearn.metrics import get_scorer, get_scorer_names

        metric = self.functions.metric
        if metric is None or not isinstance(metric, str):
            return None if metric is None else partial(metric, **self.functions.metric_args)
        if metric not in get_scorer_names():
            raise SpecError(
                f"scikit-learn has no scorer {metric!r}",
                where="metricFunction",
                remedy=near_miss(metric, get_scorer_names()),
            )
        if self.functions.metric_args:
            raise SpecError("a scorer's name takes none", where="metricFunctionArgs", remedy="Pass a scorer instead.")
        scorer: Scorer = get_scorer(metric)
        return scorer


def _loss_of(estimator: Any, x: Any, y: Any, name: str, args: dict[str, Any]) -> float:
    from sklearn import metrics

    if name == "log_loss":
        return float(metrics.log_loss(y, estimator.predict_proba(x), labels=estimator.classes_, **args))
    if name == "hinge_loss":
        return float(metrics.hinge_loss(y, estimator.decision_function(x), labels=estimator.classes_, **args))
    return float(getattr(metrics, name)(y, estimator.predict(x), **args))


def _digest(labels: Any) -> str:
    """How many classes, and the first 8 hex digits of the SHA-256 of them in their order."""
    names = repr([array.tolist() for array in labels] if isinstance(labels, list) else labels.tolist())
    return f"{len(labels)} classes {hashlib.sha256(names.encode()).hexdigest()[:8]}"
