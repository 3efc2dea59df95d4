"""The data of each site in these examples: a part of a public data set. Yours would be files of your own."""

from functools import cache

import numpy as np
from sklearn.datasets import load_digits

from coterie.data.credit import credit as credit_table
from coterie.data.mnist import mnist as mnist_images

CREDIT = ((3500, 0.001), (4000, 0.002), (2500, 0.015), (1000, 0.5))
"""Of each site: its samples, and what share of them are defaults."""


def mnist(site, sites=3, samples=None):
    """Every ``sites``-th image from number ``site`` on: x (n, 1, 28, 28) float32 and y (n,) int64, and the test set.

    ``site`` None: the images of all sites.
    """
    x, y, x_test, y_test = _images()
    if site is None:
        site, sites, samples = 0, 1, None if samples is None else samples * sites
    return x[site::sites][:samples], y[site::sites][:samples].astype(np.int64), x_test, y_test.astype(np.int64)


@cache
def _images():
    return mnist_images("", None)


def credit(site, seed=0):
    """One of four very unequal sites: x (n, 23) float32 of about unit size, y (n,) int64, and the test set.

    ``site`` None: the clients of all sites. ``seed`` draws who is at which site; most clients are at none.
    """
    table = credit_table("", None)
    middle, spread = np.median(table.x_train, axis=0), table.x_train.std(axis=0)
    random = np.random.default_rng(seed)
    kinds = [random.permutation(np.flatnonzero(table.y_train == label)) for label in (0, 1)]
    positives = [round(size * share) for size, share in CREDIT]
    negatives = [size - positive for (size, _), positive in zip(CREDIT, positives, strict=True)]
    parts = []
    for kind, counts in zip(kinds, (negatives, positives), strict=True):
        first, last = (0, len(counts)) if site is None else (site, site + 1)
        parts.append(kind[sum(counts[:first]) : sum(counts[:last])])
    chosen = random.permutation(np.concatenate(parts))
    x, x_test = (((each - middle) / spread).astype(np.float32) for each in (table.x_train[chosen], table.x_test))
    return x, table.y_train[chosen], x_test, table.y_test


def digits(site, sites=3):
    """Every ``sites``-th of the 8 x 8 digits: x (n, 64) float32 from 0 to 1, y (n,) int64, and a test set of 360."""
    x, y = load_digits(return_X_y=True)
    x, y = (x / 16).astype(np.float32), y.astype(np.int64)
    return x[360 + site :: sites], y[360 + site :: sites], x[:360], y[:360]
