"""Keras 3 models, on any backend: weights are read from and assigned to the model's variables.

Optimizers hold the variables, so an assignment reaches them. Variables are named by their place in the model and not by
their path: ``dense_7`` says only how many layers this process has made before, and another site's says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch

from coterie.errors import DataError, ModelError, SpecError, StorageReplaced, near_miss
from coterie.layout import Layout
from coterie.training.frameworks.base import (
    DEFAULT_BATCH,
    Figures,
    Functions,
    ModelAdapter,
    array_of,
    dense_layout,
    one_array,
    users_measure,
)
from coterie.training.frameworks.extras import require
from coterie.training.frameworks.pytorch import bound
from coterie.training.vector import view_of


class KerasAdapter(ModelAdapter):
    """A built ``keras.Model``: its weights of floating dtypes, trainable ones first. Seeds and counters stay.

    Validation data: a tuple (inputs, targets[, sample weights]) of arrays, or lists or dicts of arrays; or what
    yields such batches each time it is gone through: a PyDataset, a tf.data.Dataset, a DataLoader.
    ``lossFunction``: a name of ``keras.losses`` or a callable (targets, outputs); by default the compiled loss, with
    penalties. ``metricFunction``: "accuracy", a name of ``keras.metrics``, a Metric, or a callable (targets, outputs)
    that is given the whole validation set at once.
    """

    platform: ClassVar[str] = "KERAS"

    def __init__(self, model: Any, functions: Functions | None = None) -> None:
        super().__init__(model, functions)
        self._keras = require("keras", "keras")
        self._on_torch = self._keras.backend.backend() == "torch"
        self._loss = self._named("losses", self.functions.loss, "lossFunction")
        self._metric = self._named("metrics", self.functions.metric, "metricFunction")
        self._layout: Layout | None = None

    def check_platform(self) -> None:
        if not isinstance(self.model, self._keras.Model):
            raise ModelError("it is no Keras model", where=self.where, remedy="Pass model=<your keras.Model>.")
        if not self.model.weights:
            raise ModelError(
                "it has no weights yet", where=self.where, remedy="Build it: give it an Input, or call build()."
            )

    @property
    def layout(self) -> Layout:
        if self._layout is None:
            names = [f"{index}.{variable.name}" for index, variable in enumerate(self._variables())]
            entries = zip(names, *zip(*map(_form, self._variables()), strict=True), strict=True) if names else ()
            trainable = sum(map(self._floats, self.model.trainable_weights))
            self._layout = dense_layout(entries, trainable, self.where)
        return self._layout

    def _floats(self, variable: Any) -> bool:
        return bool(self._keras.backend.is_float_dtype(variable.dtype))

    def _variables(self) -> list[Any]:
        weights = [*self.model.trainable_weights, *self.model.non_trainable_weights]
        return [variable for variable in weights if self._floats(variable)]

    def _checked(self, vector: torch.Tensor) -> list[Any]:
        """The variables in the layout's order. Raises StorageReplaced where they are no longer of this layout."""
        self.check_vector(vector)
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()  # during an epoch of the JAX trainer the variables do not hold the state
        variables = self._variables()
        forms = [(slot.shape, slot.dtype) for slot in self.layout.slots]
        if [_form(variable) for variable in variables] != forms:
            raise StorageReplaced(
                "its weights are no longer those it had at the beginning",
                where=self.where,
                remedy="Add, remove, freeze and convert layers before training, not during it.",
            )
        return variables

    def save_weights(self, vector: torch.Tensor) -> None:
        for variable, slot in zip(self._checked(vector), self.layout.slots, strict=True):
            if self._on_torch:
                view_of(vector, slot).copy_(variable.value.detach())
            else:
                array = self._keras.ops.convert_to_numpy(variable)
                np.copyto(array_of(vector, slot), array, casting="unsafe")

    def load_weights(self, vector: torch.Tensor) -> None:
        for variable, slot in zip(self._checked(vector), self.layout.slots, strict=True):
            if self._on_torch:
                with torch.no_grad():
                    variable.value.copy_(view_of(vector, slot))
            else:
                variable.assign(array_of(vector, slot).copy())  # JAX and TensorFlow may keep the array they are given

    def unpack_validation(self, data: Any, batch_size: int | None) -> Iterable[Any]:
        if isinstance(data, tuple | list):
            if len(data) not in (2, 3):
                raise DataError(
                    f"a tuple of {len(data)}", where="adsValData", remedy="Give it (inputs, targets[, sample weights])."
                )
            return _Slices(self._keras.tree, tuple(data), batch_size or DEFAULT_BATCH)
        if isinstance(data, self._keras.utils.PyDataset):
            return _Batches(data)
        if not hasattr(data, "__iter__") or isinstance(data, Iterator | str | dict | np.ndarray):
            raise DataError(
                f"{type(data).__name__} is no validation data",
                where="adsValData",
                remedy="Give it (inputs, targets), or a data set that can be gone through many times.",
            )
        batches: Iterable[Any] = data
        return batches

    def evaluate(self, batches: Iterable[Any]) -> Figures:
        compiled = self._loss is None and self.model.compiled
        if self._loss is None and not compiled and self._metric is None:
            return Figures()
        total, samples = 0.0, 0
        kept: list[tuple[Any, Any]] = []
        mode = self.model.training if self._on_torch else False
        with torch.no_grad():
            try:
                if self._on_torch:
                    self.model.eval()
                for batch in batches:
                    x, y, weights = self._keras.utils.unpack_x_y_sample_weight(batch)
                    outputs = self.model(x, training=False)
                    count = len(self._keras.tree.flatten(y)[0])
                    if self._loss is not None:
                        total += count * self._mean(self._loss, y, outputs, "lossFunction")
                    elif compiled:
                        loss = self.model.compute_loss(x=x, y=y, y_pred=outputs, sample_weight=weights, training=False)
                        total += count * self._number(loss)
                    if self._metric is not None:
                        for found in (outputs, y):
                            one_array(found, not self._keras.tree.is_nested(found))
                        kept.append((self._array(y), self._array(outputs)))
                    samples += count
            finally:
                if self._on_torch:
                    self.model.train(mode)
        if not samples:
            raise DataError("it is empty", where="adsValData", remedy="Give it at least one sample.")
        metric = None
        if self._metric is not None:
            targets, predicted = (np.concatenate(parts) for parts in zip(*kept, strict=True))
            metric = self._mean(self._metric_for(targets, predicted), targets, predicted, "metricFunction")
        return Figures(total / samples if self._loss is not None or compiled else None, metric)

    def _array(self, tensor: Any) -> Any:
        return np.asarray(self._keras.ops.convert_to_numpy(tensor))

    def _number(self, tensor: Any) -> float:
        return float(self._array(tensor).mean())

    def _mean(self, measure: Any, targets: Any, outputs: Any, where: str) -> float:
        with users_measure(where, "(targets, outputs) and returns a scalar, or one for each sample"):
            if isinstance(measure, self._keras.metrics.Metric):
                measure.reset_state()
            return self._number(measure(targets, outputs))

    def _named(self, module: str, function: Any, where: str) -> Any:
        """The loss or metric that is meant, with its arguments. Raises SpecError for an unknown name."""
        args = self.functions.loss_args if module == "losses" else self.functions.metric_args
        if isinstance(function, str):
            known = vars(getattr(self._keras, module))
            if function.lower() in ("accuracy", "acc") and module == "metrics":
                return "accuracy"
            found = known.get(function)
            if function.startswith("_") or not callable(found):
                try:
                    found = known["get"](function)  # "mse", as compile() takes it
                except ValueError:
                    names = [name for name, value in known.items() if callable(value)]
                    remedy = near_miss(function, names)
                    raise SpecError(f"keras.{module} has no {function!r}", where=where, remedy=remedy) from None
            function = found
        if isinstance(function, self._keras.metrics.Metric | self._keras.losses.Loss) and not args:
            return function
        return bound(function, args, f"{where}Args")

    def _metric_for(self, targets: Any, outputs: Any) -> Any:
        if self._metric != "accuracy":
            return self._metric
        if outputs.shape[-1] == 1:
            return _binary_accuracy
        same = targets.shape == outputs.shape
        metrics = self._keras.metrics
        return metrics.categorical_accuracy if same else metrics.sparse_categorical_accuracy


def _binary_accuracy(targets: Any, outputs: Any) -> Any:
    return ((outputs.reshape(-1) > 0.5) == (targets.reshape(-1) > 0.5)).mean()


def _form(variable: Any) -> tuple[tuple[int, ...], str]:
    return tuple(variable.shape), str(variable.dtype)


class _Batches:
    """The batches of a PyDataset, as often as wanted."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def __iter__(self) -> Iterator[Any]:
        return (self._data[index] for index in range(self._data.num_batches))


class _Slices:
    """Arrays, cut into batches: views, no copies."""

    def __init__(self, tree: Any, data: tuple[Any, ...], size: int) -> None:
        self._tree, self._data, self._size = tree, data, size
        lengths = {len(part) if hasattr(part, "__len__") else -1 for part in tree.flatten(data)}
        length = lengths.pop() if len(lengths) == 1 else -1
        if length < 1:
            raise DataError(
                "inputs and targets are empty or of different lengths",
                where="adsValData",
                remedy="Give it arrays of as many samples each.",
            )
        self._length = length

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, self._length, self._size):
            yield self._tree.map_structure(partial(_slice, start=start, stop=start + self._size), self._data)


def _slice(array: Any, start: int, stop: int) -> Any:
    return array[start:stop]
