"""Who holds what: the training samples of every peer, their held-out parts, and the public root sample."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coterie import seeds
from coterie.data.dataset import Dataset, Integers
from coterie.data.partitions import MINIMUM
from coterie.errors import DataError, PluginError
from coterie.registry import Component, guarded
from coterie.spec import Spec


@dataclass(frozen=True, eq=False)
class Division:
    """Indices into ``x_train``, int64 and sorted. No index occurs twice, over all peers and the root sample."""

    train: tuple[Integers, ...]
    """For each peer, what it trains on; never empty."""
    validation: tuple[Integers, ...]
    """For each peer, its held-out part; empty only where ``data.validation`` is 0."""
    root: Integers
    """The public, class-balanced sample taken away before the division; may be empty."""


def divide(spec: Spec, dataset: Dataset) -> Division:
    """Divide the training samples of ``dataset`` among the peers of ``spec``.

    The root sample goes first; the partition divides the rest; of each peer's part at most ``samples_per_peer`` stay,
    drawn at random; of these ``round(validation x n)``, at least 1 where the share is not 0 and never all, are held
    out. Every draw comes from the spec's seed.

    Raises DataError where a class is too small for the root sample and where a peer would end with fewer than 2
    samples, PluginError where a user's own partition fails or does not return disjoint indices.
    """
    peers, table = spec.federation.peers, spec.data
    root = _root(dataset, table.root, spec.seed)
    rest = np.setdiff1d(np.arange(len(dataset.y_train), dtype=np.int64), root, assume_unique=True)
    if len(rest) < MINIMUM * peers:
        raise DataError(
            f"{peers} peers need at least {MINIMUM} samples each, but there are {len(rest)} training samples"
            + (f" beside the root sample of {len(root)}" if len(root) else ""),
            where="federation.peers",
            remedy="Lower federation.peers or data.root, or use more data.",
        )
    choice = spec.choices["data"]
    rng = seeds.generator(spec.seed, "data", "partition")
    available = _only(dataset, rest, with_samples=bool(choice.component.file))
    with guarded(choice.component, "data.partition"):
        parts = choice(available, peers, rng)
    train, validation = [], []
    for peer, part in enumerate(_checked(choice.component, parts, peers, len(rest))):
        mixed = seeds.generator(spec.seed, "data", "peer", peer).permutation(rest[part])[: table.samples_per_peer]
        if len(mixed) < MINIMUM:
            raise DataError(
                f"peer {peer} ends with {len(mixed)} of the {len(rest)} samples; it needs {MINIMUM}",
                where="data.samples_per_peer" if len(part) >= MINIMUM else "data.partition",
                remedy="Raise data.samples_per_peer."
                if len(part) >= MINIMUM
                else "Lower federation.peers, use more data, or use another partition.",
            )
        held_out = 0
        if table.validation > 0:
            held_out = min(max(1, int(table.validation * len(mixed) + 0.5)), len(mixed) - 1)
        validation.append(np.sort(mixed[:held_out]))
        train.append(np.sort(mixed[held_out:]))
    return Division(tuple(train), tuple(validation), root)


def _root(dataset: Dataset, size: int, seed: int) -> Integers:
    """``size`` training indices, ``size // classes`` of each class, one more of the first ``size % classes``."""
    rng = seeds.generator(seed, "data", "root")
    chosen = [np.zeros(0, dtype=np.int64)]
    for label in range(dataset.classes if size else 0):
        wanted = size // dataset.classes + (label < size % dataset.classes)
        members = np.flatnonzero(dataset.y_train == label)
        if len(members) < wanted:
            raise DataError(
                f"a class-balanced sample of {size} needs {wanted} samples of class {label}, which has {len(members)}",
                where="data.root",
                remedy="Lower it.",
            )
        chosen.append(rng.permutation(members)[:wanted])
    return np.sort(np.concatenate(chosen))


def _only(dataset: Dataset, kept: Integers, *, with_samples: bool) -> Dataset:
    """``dataset`` with the training samples ``kept`` alone; without their features, which are large, on request."""
    if len(kept) == len(dataset.y_train):
        return dataset
    groups = None if dataset.groups is None else dataset.groups[kept]
    samples = dataset.x_train[kept] if with_samples else dataset.x_train[:0]
    return dataclasses.replace(dataset, x_train=samples, y_train=dataset.y_train[kept], groups=groups)


def _checked(component: Component, parts: Any, peers: int, samples: int) -> Sequence[Integers]:
    """``parts`` as a partition has to return them; a user's own may not."""
    remedy = "Return one array of indices a peer, each index at most once."
    try:
        arrays = [np.asarray(part) for part in parts]
    except Exception as error:  # a plug-in may return what it pleases
        raise PluginError(f"the partition returned no arrays: {error}", where=component.name, remedy=remedy) from None
    if len(arrays) != peers:
        raise PluginError(f"{len(arrays)} parts for {peers} peers", where=component.name, remedy=remedy)
    used = np.zeros(samples, dtype=bool)
    for peer, part in enumerate(arrays):
        if part.ndim != 1 or (part.size and part.dtype.kind not in "iu"):
            raise PluginError(f"peer {peer} gets {part.dtype} of {part.shape}", where=component.name, remedy=remedy)
        inside = bool(((part >= 0) & (part < samples)).all())
        indices = part.astype(np.int64)
        if not inside or used[indices].any() or len(np.unique(indices)) != len(indices):
            what = "an index given twice" if inside else f"an index outside 0 .. {samples - 1}"
            raise PluginError(f"peer {peer} gets {what}", where=component.name, remedy=remedy)
        used[indices] = True
        arrays[peer] = indices
    return arrays
