"""MNIST (LeCun, Cortes and Burges, 1998), from local files or downloaded once."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from coterie.data.dataset import Array
from coterie.data.idx import read_idx
from coterie.data.sources import PublishedFile, obtain
from coterie.errors import DataError
from coterie.registry import datasets

MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
FILES = (
    PublishedFile(
        "train-images-idx3-ubyte.gz", "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609", 9_912_422
    ),
    PublishedFile(
        "train-labels-idx1-ubyte.gz", "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c", 28_881
    ),
    PublishedFile(
        "t10k-images-idx3-ubyte.gz", "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6", 1_648_877
    ),
    PublishedFile(
        "t10k-labels-idx1-ubyte.gz", "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6", 4_542
    ),
)
MEAN, DEVIATION = 0.1307, 0.3081
"""Of the training pixels / 255."""


@datasets.register("mnist")
def mnist(argument: str, data_dir: Path | None) -> tuple[Array, ...]:
    """Handwritten digits, 60,000 + 10,000 images of 28 x 28 in 10 classes; downloaded where there is no local copy.

    Returns x_train (60000, 1, 28, 28) float32, ``(pixel / 255 - 0.1307) / 0.3081``, y_train, x_test and y_test.
    Raises DataError for files that are damaged or cannot be had. Source: http://yann.lecun.com/exdb/mnist.
    """
    paths = obtain("mnist", FILES, MIRRORS, data_dir)
    train_images, train_labels, test_images, test_labels = (paths[file.name] for file in FILES)
    return _images(train_images), read_idx(train_labels, 1), _images(test_images), read_idx(test_labels, 1)


def _images(path: Path) -> Array:
    pixels = read_idx(path, 3)
    if pixels.shape[1:] != (28, 28):
        raise DataError(
            f"images of {pixels.shape[1]} x {pixels.shape[2]}, not 28 x 28", where=str(path), remedy="Use MNIST's own."
        )
    images = pixels.astype(np.float32)[:, None]
    images /= np.float32(255)
    images -= np.float32(MEAN)
    images /= np.float32(DEVIATION)
    return images
