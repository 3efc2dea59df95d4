"""For each framework, what ``conformance.check`` asks for: an adapter of a new model, and one step of its training."""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from coterie.training.frameworks import Functions, adapter_for

X, Y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
FEW = (X[:200], Y[:200])


def torch_module():
    return nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 10))


def pytorch(module=torch_module, dtype=torch.float32):
    torch.manual_seed(0)
    model = module().to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step():
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.from_numpy(X[:32]).to(dtype)), torch.from_numpy(Y[:32])).backward()
        optimizer.step()

    return adapter_for(model, Functions(loss="CrossEntropyLoss", metric="accuracy")), step


def keras(dtype="float32"):
    import keras

    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(16, "relu"), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
    model = keras.Sequential([keras.layers.Input((64,)), *layers, keras.layers.Dense(10, "softmax")])
    if dtype != "float32":
        policy = keras.dtype_policies.DTypePolicy(dtype)
        model = keras.Sequential([keras.layers.Input((64,)), keras.layers.Dense(10, "softmax", dtype=policy)])
    model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
    return adapter_for(model, Functions(metric="accuracy")), lambda: model.train_on_batch(X[:32], Y[:32])


def sgd():
    from sklearn.linear_model import SGDClassifier

    model = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.001, random_state=0)
    return _scikit(model)


def perceptron_layers():
    from sklearn.neural_network import MLPClassifier

    return _scikit(MLPClassifier(8, solver="sgd", learning_rate_init=0.001, random_state=0))


def regressor():
    from sklearn.linear_model import SGDRegressor

    model = SGDRegressor(learning_rate="constant", eta0=0.001, random_state=0).partial_fit(X[:20], Y[:20] / 10)
    return adapter_for(model), lambda: model.partial_fit(X[:32], Y[:32] / 10)


def _scikit(model):
    model.partial_fit(X[:20], Y[:20], classes=range(10))
    return adapter_for(model, Functions(metric="accuracy")), lambda: model.partial_fit(X[:32], Y[:32])


def tiny_bert():
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        num_labels=10,
    )
    return BertForSequenceClassification(config)


def lora(model=None, **options):
    from peft import LoraConfig, get_peft_model

    settings = {"r": 2, "target_modules": ["query", "value"], "modules_to_save": ["classifier"], **options}
    return get_peft_model(model or tiny_bert(), LoraConfig(task_type="SEQ_CLS", **settings))


def samples(count=40):
    """Digits as sentences: each pixel's brightness, 0 to 16, is a word."""
    words = (X[:count] * 16).astype(np.int64)
    return [{"input_ids": words[i], "labels": int(Y[i])} for i in range(count)]


def huggingface(mode="full"):
    model = lora() if mode == "peft" else tiny_bert()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)

    def step():
        words = torch.from_numpy((X[:16] * 16).astype(np.int64))
        optimizer.zero_grad()
        model(input_ids=words, labels=torch.from_numpy(Y[:16])).loss.backward()
        optimizer.step()

    return adapter_for(model, Functions(metric="accuracy"), hf_mode=mode), step
