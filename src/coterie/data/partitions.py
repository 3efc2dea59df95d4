"""How training samples are divided among peers.

A partition is ``f(dataset, peers, rng, *, settings) -> list of peers index arrays`` over 0 .. n - 1, int64, disjoint.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from coterie.data.dataset import Array, Dataset, Integers
from coterie.errors import DataError
from coterie.registry import partitions

MINIMUM = 2
"""Samples every peer must get: one to train on and one to hold out."""
REDRAWS = 100
"""How often ``dirichlet`` draws before it gives up."""
Concentration = Annotated[float, Field(ge=1e-3, le=1e6)]


@partitions.register("iid")
def iid(dataset: Dataset, peers: int, rng: np.random.Generator) -> list[Integers]:
    """Every peer draws from the same distribution: a shuffle cut into parts whose sizes differ by one at most."""
    return np.array_split(rng.permutation(len(dataset.y_train)), peers)


@partitions.register("dirichlet")
def dirichlet(dataset: Dataset, peers: int, rng: np.random.Generator, *, alpha: Concentration = 0.5) -> list[Integers]:
    """For each class, the shares of the peers are drawn from Dir(alpha): the smaller alpha, the more they differ.

    Peer i's share of class c is Beta(alpha, alpha (peers - 1)), of mean 1 / peers and variance
    ``(1/peers)(1 - 1/peers) / (alpha peers + 1)``, rounded to whole samples. All classes are drawn again, up to 100
    times, until every peer has 2 samples; then DataError. Hsu, Qi and Brown (arXiv 1909.06335) introduced Dirichlet
    draws of labels; drawing for each class over the peers is Yurochkin et al. (arXiv 1905.12022).
    """
    by_class = _by_class(dataset.y_train)
    sizes = np.array([len(members) for members in by_class])
    served = 0
    for _ in range(REDRAWS):
        cuts = _cuts(rng.dirichlet(np.full(peers, alpha), size=len(sizes)), sizes)
        counts = np.diff(cuts, axis=1)
        enough = int((counts.sum(axis=0) >= MINIMUM).sum())
        if enough == peers:
            break
        served = max(served, enough)
    else:
        raise DataError(
            f"every peer needs {MINIMUM} samples, one to train on and one to hold out, but in the best of {REDRAWS} "
            f"draws with alpha = {alpha:g} only {served} of {peers} peers got them from the {sizes.sum()} samples",
            where="data.partition",
            remedy="Raise data.alpha, lower federation.peers, or use the partition 'iid' or 'quantity'.",
        )
    pieces = [np.split(rng.permutation(members), bounds[1:-1]) for members, bounds in zip(by_class, cuts, strict=True)]
    return [np.concatenate(held) for held in zip(*pieces, strict=True)]


@partitions.register("labels")
def labels(
    dataset: Dataset, peers: int, rng: np.random.Generator, *, labels_per_peer: Annotated[int, Field(ge=1)] = 2
) -> list[Integers]:
    """Every peer holds samples of exactly so many labels.

    Peer after peer takes the labels with the fewest holders so far, ties broken at random, so the numbers of holders
    differ by one at most and every label is held where ``peers x labels_per_peer`` reaches the number of labels. A
    label's samples are split evenly among its holders. After McMahan et al. (arXiv 1602.05629), whose shards of
    sorted labels give a peer up to so many.

    Raises DataError for more labels a peer than there are, and for a label with fewer samples than holders.
    """
    by_class = _by_class(dataset.y_train)
    if labels_per_peer > len(by_class):
        raise DataError(
            f"{labels_per_peer} labels a peer, but the training data has {len(by_class)}",
            where="data.labels_per_peer",
            remedy="Lower it.",
        )
    holders: list[list[int]] = [[] for _ in by_class]
    for peer in rng.permutation(peers):
        order = np.lexsort((rng.random(len(by_class)), np.array([len(held) for held in holders])))
        for chosen in order[:labels_per_peer]:
            holders[chosen].append(int(peer))
    parts: list[list[Integers]] = [[] for _ in range(peers)]
    for members, held_by in zip(by_class, holders, strict=True):
        if len(members) < len(held_by):
            raise DataError(
                f"label {dataset.y_train[members[0]]} has {len(members)} samples for {len(held_by)} peers",
                where="data.partition",
                remedy="Lower data.labels_per_peer or federation.peers.",
            )
        if held_by:
            pieces = np.array_split(rng.permutation(members), len(held_by))
            for peer, piece in zip(rng.permutation(held_by), pieces, strict=True):
                parts[peer].append(piece)
    return [np.concatenate(held) for held in parts]


@partitions.register("quantity")
def quantity(dataset: Dataset, peers: int, rng: np.random.Generator, *, alpha: Concentration = 0.5) -> list[Integers]:
    """Every peer draws from the same distribution, but peers have more or less: sizes are drawn from Dir(alpha).

    Each peer gets 2 samples, and its share of the rest, rounded. Quantity skew of Li et al. (arXiv 2102.02079).
    """
    count = len(dataset.y_train)
    rest = max(0, count - MINIMUM * peers)
    cuts = _cuts(rng.dirichlet(np.full(peers, alpha), size=1), np.array([rest]))[0] + MINIMUM * np.arange(peers + 1)
    return np.split(rng.permutation(count), cuts[1:-1])


@partitions.register("files")
def files(dataset: Dataset, peers: int, rng: np.random.Generator) -> list[Integers]:
    """Every peer holds the samples of one file, in the sorted order of files: real sites stay what they are.

    Raises DataError where the dataset does not come from files, and where their number is not that of the peers.
    """
    if dataset.groups is None:
        raise DataError(
            f"the dataset {dataset.name} does not come from several files",
            where="data.partition",
            remedy="Use 'csv:FOLDER' as the dataset, or another partition.",
        )
    parts = _by_class(dataset.groups)
    if len(parts) != peers:
        raise DataError(
            f"{len(parts)} files with training samples for {peers} peers",
            where="data.partition",
            remedy=f"Set federation.peers = {len(parts)}, or use another partition.",
        )
    return parts


def _by_class(values: Array) -> list[Integers]:
    """The indices of each value that occurs, in order of values; each sorted."""
    order = np.argsort(values, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(values[order])) + 1)


def _cuts(shares: Array, sizes: Integers) -> Integers:
    """Where to cut ``sizes`` (k,) things into ``shares`` (k, peers): (k, peers + 1) int64, from 0 to the size."""
    ends = np.rint(np.cumsum(shares, axis=1) * sizes[:, None]).astype(np.int64)
    ends[:, -1] = sizes
    return np.concatenate([np.zeros((len(sizes), 1), dtype=np.int64), np.minimum(ends, sizes[:, None])], axis=1)
