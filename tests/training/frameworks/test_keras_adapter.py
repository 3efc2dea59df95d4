"""Keras models as vectors: names that do not depend on the process, figures as Keras computes them, any backend."""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import conformance_makers
import keras
import numpy as np
import pytest
import torch

from coterie.errors import DataError, ModelError, SpecError, StorageReplaced
from coterie.training.frameworks import Functions, adapter_for, conformance

X = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
Y = np.arange(60) % 3


def model(loss="sparse_categorical_crossentropy"):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(7, "relu", kernel_regularizer="l2"), keras.layers.BatchNormalization()]
    made = keras.Sequential([keras.layers.Input((5,)), *layers, keras.layers.Dropout(0.5), keras.layers.Dense(3)])
    made.add(keras.layers.Softmax())
    if loss:
        made.compile("sgd", loss, metrics=["accuracy"])
    return made


def saved(adapter):
    vector = torch.full((adapter.layout.size,), torch.nan)
    adapter.save_weights(vector)
    return vector


def test_the_second_model_of_a_process_has_the_layout_of_the_first():
    """In a notebook a cell is run twice, and Keras calls its layers dense_2 and dense_3."""
    first, second = model(), model()
    assert first.weights[0].path != second.weights[0].path
    assert adapter_for(first).layout.hash == adapter_for(second).layout.hash


def test_the_vector_holds_the_weights_as_keras_gives_them():
    made = model()
    found = saved(adapter_for(made))
    order = [*made.trainable_weights, *made.non_trainable_weights]
    wanted = np.concatenate([np.asarray(each.numpy()).ravel() for each in order])
    assert np.array_equal(found.numpy(), wanted)
    assert len(wanted) == 5 * 7 + 7 + 4 * 7 + 7 * 3 + 3


def test_the_optimizer_goes_on_from_what_was_loaded():
    one, other = model(), model()
    for each in (one, other):
        each.optimizer.build(each.trainable_variables)
    adapter = adapter_for(one)
    vector = torch.rand(adapter.layout.size, generator=torch.Generator().manual_seed(1))
    adapter.load_weights(vector)
    values = [
        vector[slot.offset : slot.offset + slot.size].reshape(slot.shape).numpy() for slot in adapter.layout.slots
    ]
    by_path = dict(zip([v.path for v in [*other.trainable_weights, *other.non_trainable_weights]], values, strict=True))
    other.set_weights([by_path[v.path] for v in other.weights])
    for each in (one, other):
        keras.utils.set_random_seed(2)
        each.train_on_batch(X, Y)
    assert torch.equal(saved(adapter), saved(adapter_for(other)))


def test_loss_and_metric_are_those_of_evaluate():
    made = model()
    loss, accuracy = made.evaluate(X, Y, verbose=0)
    adapter = adapter_for(made, Functions(metric="accuracy"))
    made.train_on_batch(X, Y)
    running = made.get_metrics_result()
    adapter_before = saved(adapter)
    found = adapter.evaluate(adapter.unpack_validation((X, Y), 16))
    assert made.get_metrics_result() == running, "the figures of fit's progress bar are not disturbed"
    assert torch.equal(saved(adapter), adapter_before)
    fresh = adapter_for(model(), Functions(metric="accuracy"))
    found = fresh.evaluate(fresh.unpack_validation((X, Y), 16))
    assert found.loss == pytest.approx(loss, rel=1e-5)
    assert found.metric == pytest.approx(accuracy)


@pytest.mark.parametrize(
    "loss",
    ["SparseCategoricalCrossentropy", "sparse_categorical_crossentropy", keras.losses.SparseCategoricalCrossentropy()],
)
def test_a_loss_by_name(loss):
    adapter = adapter_for(model(loss=None), Functions(loss=loss, metric="sparse_categorical_accuracy"))
    found = adapter.evaluate(adapter.unpack_validation((X, Y), None))
    outputs = adapter.model.predict(X, verbose=0)
    assert found.loss == pytest.approx(-np.log(outputs[np.arange(60), Y]).mean(), rel=1e-5)
    assert found.metric == pytest.approx((outputs.argmax(1) == Y).mean())


def test_several_outputs_have_a_loss_and_no_metric():
    inputs = keras.layers.Input((5,))
    made = keras.Model(inputs, [keras.layers.Dense(3, "softmax")(inputs), keras.layers.Dense(1)(inputs)])
    made.compile("sgd", ["sparse_categorical_crossentropy", "mse"])
    data = (X, [Y, X[:, :1]])
    adapter = adapter_for(made)
    found = adapter.evaluate(adapter.unpack_validation(data, 16))
    assert found.loss == pytest.approx(made.evaluate(*data, verbose=0)[0], rel=1e-5)
    measured = adapter_for(made, Functions(metric="accuracy"))
    with pytest.raises(SpecError, match="metricFunction: it needs outputs and targets of one tensor each, not a list"):
        measured.evaluate(measured.unpack_validation(data, 16))


def test_the_short_names_that_compile_takes():
    adapter = adapter_for(model(loss=None), Functions(loss="mse", metric="mae"))
    data = (X, X[:, :3])
    found, outputs = adapter.evaluate(adapter.unpack_validation(data, 16)), adapter.model.predict(X, verbose=0)
    assert found.loss == pytest.approx(((outputs - X[:, :3]) ** 2).mean(), rel=1e-5)
    assert found.metric == pytest.approx(abs(outputs - X[:, :3]).mean(), rel=1e-5)


class Parts(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return X[index * 15 : index * 15 + 15], Y[index * 15 : index * 15 + 15]


@pytest.mark.parametrize("data", [[X, Y], Parts(), torch.utils.data.DataLoader(list(zip(X, Y, strict=True)), 15)])
def test_forms_of_validation_data(data):
    adapter = adapter_for(model())
    found = [adapter.evaluate(adapter.unpack_validation(each, 15)).loss for each in (data, (X, Y))]
    assert found[0] == pytest.approx(found[1], rel=1e-6)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (3, "int is no validation data"),
        ((X,), "a tuple of 1"),
        ((X, Y[:3]), "of different lengths"),
        ((X[:0], Y[:0]), "empty"),
        (iter([(X, Y)]), "no validation data"),
    ],
)
def test_wrong_validation_data(data, says):
    with pytest.raises(DataError, match=says):
        adapter_for(model()).unpack_validation(data, None)


def test_what_cannot_be_used():
    with pytest.raises(ModelError, match="it has no weights yet"):
        adapter_for(keras.Sequential([keras.layers.Dense(2)])).check_platform()
    with pytest.raises(SpecError, match=r"no 'MeanSquaredEror'\. Did you mean 'MeanSquaredError'"):
        adapter_for(model(), Functions(loss="MeanSquaredEror"))
    made = model()
    adapter = adapter_for(made)
    vector = saved(adapter)
    made.layers[0].trainable = False
    with pytest.raises(StorageReplaced):
        adapter.load_weights(vector)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_the_way_through_numpy_that_other_backends_take(dtype):
    def make():
        adapter, step = conformance_makers.keras(dtype)
        adapter._on_torch = False
        return adapter, step

    conformance.check(make)
    direct, _ = conformance_makers.keras(dtype)
    assert torch.equal(saved(make()[0]), saved(direct))
