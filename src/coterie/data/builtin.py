"""The two small datasets that come with scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from coterie.data.dataset import Dataset, Floats, Integers, split_test
from coterie.registry import datasets


@datasets.register("digits")
def digits(argument: str, data_dir: Path | None) -> tuple[Floats, Integers]:
    """Handwritten digits, 1,797 images of 8 x 8 in 10 classes; comes with scikit-learn.

    Returns x (1797, 1, 8, 8) float32, pixels / 16, and y (1797,) int64. Source: Alpaydin and Kaynak, UCI, 1998.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return (bunch.images / 16.0).astype(np.float32)[:, None], bunch.target.astype(np.int64)


@datasets.register("breast_cancer")
def breast_cancer(argument: str, data_dir: Path | None) -> Dataset:
    """Breast cancer Wisconsin, 569 rows of 30 features, benign or malignant; comes with scikit-learn.

    Features are scaled as ``data.scaling`` says. Source: Wolberg, Street and Mangasarian, UCI, 1995.
    """
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    labels = bunch.target.astype(np.int64)
    kept, test = split_test(labels, "breast_cancer")
    return Dataset("breast_cancer", bunch.data[kept], labels[kept], bunch.data[test], labels[test], 2, unscaled=True)
