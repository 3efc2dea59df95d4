"""Reference models: factories ``model(shape, classes, **settings) -> nn.Module``.

``shape`` is that of one input, without the batch; outputs are logits, shape (B, classes), float32. Parameters are drawn
from torch's global generator by torch's own defaults: seed it, or fork it, around the call. Convolutional models keep
their weights channels-last, which CPU kernels prefer. A shape that a model cannot take raises ModelError.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, NoReturn

import torch
from pydantic import Field
from torch import nn

from coterie import registry
from coterie.errors import ModelError

Width = Annotated[int, Field(ge=1, le=1 << 20)]


@registry.models.register("script")
def script(shape: tuple[int, ...], classes: int) -> NoReturn:
    """For protocol swarm: the model of each site's own training script. Raises ModelError: none is built here."""
    raise ModelError(
        "the model of this federation is made by each site's own training script",
        where="model.name",
        remedy="Start the script, with COTERIE_HOME set to the node's home.",
    )


@registry.models.register("softmax")
def softmax(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Multinomial logistic regression: one linear layer on the flattened input."""
    return nn.Sequential(nn.Flatten(), nn.Linear(_features("softmax", shape), classes))


@registry.models.register("mlp")
def mlp(shape: tuple[int, ...], classes: int, *, hidden: Sequence[Width] = (128, 64)) -> nn.Module:
    """Fully connected layers with ReLU between them, on the flattened input.

    ``hidden`` holds the widths of the hidden layers, the first one first; empty gives ``softmax``.
    """
    return nn.Sequential(nn.Flatten(), *_dense(_features("mlp", shape), hidden, classes))


@registry.models.register("cnn")
def cnn(
    shape: tuple[int, ...],
    classes: int,
    *,
    channels: Annotated[Sequence[Width], Field(min_length=1, max_length=3)] = (16, 32),
    hidden: Sequence[Width] = (64,),
) -> nn.Module:
    """A small convolutional network for images of at least 8 x 8.

    For each entry of ``channels`` (1 to 3): 3 x 3 convolution with padding 1, ReLU, 2 x 2 max pooling. Then fully
    connected layers of the widths in ``hidden``. No batch normalisation: averages over peers of its running statistics
    are not those of the averaged model.
    """
    depth, height, width = _image("cnn", shape, 8)
    layers: list[nn.Module] = []
    for count in channels:
        layers += [nn.Conv2d(depth, count, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        depth, height, width = count, height // 2, width // 2
    return _channels_last(*layers, nn.Flatten(), *_dense(depth * height * width, hidden, classes))


@registry.models.register("lenet")
def lenet(shape: tuple[int, ...], classes: int) -> nn.Module:
    """LeNet-5 with ReLU and max pooling: 61,706 parameters for (1, 28, 28) and 10 classes.

    5 x 5 convolutions with 6 (padding 2) and 16 channels, each with 2 x 2 pooling; linear layers of 120, 84 and
    ``classes``. Images of at least 12 x 12. Source: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied
    to document recognition", 1998, section II.B; without its sigmoids, trained pooling and sparse connections.
    """
    depth, height, width = _image("lenet", shape, 12)
    flat = 16 * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2)
    return _channels_last(
        nn.Conv2d(depth, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        *_dense(flat, (120, 84), classes),
    )


@registry.models.register("caffe_lenet")
def caffe_lenet(shape: tuple[int, ...], classes: int) -> nn.Module:
    """The LeNet of Caffe's MNIST example: 431,080 parameters for (1, 28, 28) and 10 classes.

    5 x 5 convolutions with 20 and 50 channels, each with 2 x 2 max pooling and no ReLU; linear layers of 500 (ReLU) and
    ``classes``. Images of at least 16 x 16. Source: Jia et al., "Caffe: convolutional architecture for fast feature
    embedding", 2014; examples/mnist/lenet.prototxt.
    """
    depth, height, width = _image("caffe_lenet", shape, 16)
    flat = 50 * (((height - 4) // 2 - 4) // 2) * (((width - 4) // 2 - 4) // 2)
    return _channels_last(
        nn.Conv2d(depth, 20, 5),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        *_dense(flat, (500,), classes),
    )


def _dense(inputs: int, hidden: Sequence[int], classes: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return [*layers, nn.Linear(inputs, classes)]


def _channels_last(*layers: nn.Module) -> nn.Module:
    whole = nn.Sequential(*layers)
    return whole.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]  # torch: documented


def _features(name: str, shape: tuple[int, ...]) -> int:
    if not shape or min(shape) < 1:
        raise ModelError(
            f"{name!r} cannot take inputs of shape {shape}",
            where="model.name",
            remedy="An input needs at least one feature.",
        )
    return math.prod(shape)


def _image(name: str, shape: tuple[int, ...], least: int) -> tuple[int, int, int]:
    if len(shape) != 3 or shape[0] < 1 or min(shape[1:]) < least:
        raise ModelError(
            f"{name!r} takes images (channels, height, width) of at least {least} x {least}, not shape {shape}",
            where="model.name",
            remedy="Use 'mlp' or 'softmax', which take any shape"
            + (", or 'cnn' for images from 8 x 8." if name != "cnn" else "."),
        )
    return shape[0], shape[1], shape[2]
