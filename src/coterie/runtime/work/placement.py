"""Who holds which data: divided among the peers, scaled, poisoned by attackers; then shared with who works on it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from coterie import data
from coterie.adversary import attackers, falsifies
from coterie.errors import PluginError, SpecError
from coterie.protocols import PeerId, Topology
from coterie.registry import guarded
from coterie.runtime.work.descriptions import Arrays, Setup
from coterie.runtime.work.memory import SharedMemory
from coterie.seeds import generator
from coterie.spec import Choice, Spec

Indices: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Placement:
    """Who holds what, after attackers have poisoned their share and the protocol has pooled the data or not."""

    dataset: data.Dataset
    """Scaled as the peers have agreed."""
    ids: tuple[PeerId, ...]
    numbers: tuple[int, ...]
    """Each peer's number in the spec: an oracle run leaves some out."""
    attackers: frozenset[PeerId]
    labels: Indices
    train: list[Indices]
    validation: list[Indices]
    root: Indices
    topology: Topology
    falsified: tuple[tuple[Indices, Floats], ...] = ()
    """Samples that attackers have changed: their positions, all an attacker's own, and what is there instead."""


def peer_ids(count: int) -> tuple[PeerId, ...]:
    """Names of simulated peers, in an order that sorts."""
    width = len(str(count - 1))
    return tuple(f"peer-{index:0{width}d}" for index in range(count))


def require_root(spec: Spec) -> None:
    """Raise SpecError where something that the spec names needs a public root sample and there is none."""
    for component in (spec.protocol.component, spec.choices["aggregation"].component):
        if component.traits.get("root") and spec.data.root == 0:
            raise SpecError(
                f"{component.name} needs a public root sample, and the spec keeps none",
                where="data.root",
                remedy="Set it above 0, e.g. to 100.",
            )


def place(spec: Spec, dataset: data.Dataset) -> Placement:
    """Divide the data among the peers, scale it, let attackers poison theirs, leave them out of an oracle run."""
    count = spec.federation.peers
    for fault in spec.faults.partitions:
        for number in (number for group in fault.groups for number in group):
            if number >= count:
                raise SpecError(
                    f"there is no peer {number}",
                    where="faults.partitions",
                    remedy=f"Number the peers from 0 to {count - 1}.",
                )
    division = data.divide(spec, dataset)
    malicious = attackers(spec)
    kept = [index for index in range(count) if not (spec.run.oracle and index in malicious)]
    held = [np.concatenate([division.train[index], division.validation[index]]) for index in range(count)]
    dataset = data.scale(dataset, [held[index] for index in kept], spec.data.scaling)
    labels, falsified = dataset.y_train.copy(), []
    kind = falsifies(spec.choices["attack"].component) if malicious else ""
    for index in malicious:
        rows, rng = held[index], generator(spec.seed, "attack", index)
        if kind == "labels":
            labels[rows] = _mislabel(spec.choices["attack"], labels[rows], dataset.classes, rng)
        elif kind == "samples":
            falsified.append((rows, _falsify(spec.choices["attack"], dataset.x_train[rows], labels[rows], rng)))
    train = [division.train[index] for index in kept]
    validation = [division.validation[index] for index in kept]
    topology = Topology.of(spec, count)
    names = peer_ids(count)
    ids, bad = tuple(names[index] for index in kept), frozenset(names[index] for index in malicious)
    if spec.protocol.component.traits.get("pooled"):
        kept, ids, bad, topology = [0], ("pooled",), frozenset(), Topology([[]])
        train, validation = [np.concatenate(train)], [np.concatenate(validation)]
    elif spec.protocol.component.traits.get("root"):
        require_root(spec)
        kept, ids, bad, topology = [0], ("root",), frozenset(), Topology([[]])
        train, validation = [division.root], [division.root[:0]]
    elif len(kept) < count:
        topology = topology.induced(kept)
    return Placement(
        dataset=dataset,
        ids=ids,
        numbers=tuple(kept),
        attackers=bad & frozenset(ids),
        labels=labels,
        train=train,
        validation=validation,
        root=division.root,
        topology=topology,
        falsified=tuple(falsified),
    )


def _mislabel(attack: Choice, labels: Indices, classes: int, rng: np.random.Generator) -> Indices:
    """An attacker's labels, falsified; checked, as the attack may be a user's."""
    with guarded(attack.component, "attack.kind"):
        changed = np.asarray(attack(labels, classes, rng))
    if changed.shape != labels.shape or changed.dtype.kind not in "iu" or ((changed < 0) | (changed >= classes)).any():
        raise PluginError(
            f"the attack returned {changed.dtype} of shape {changed.shape}, or what is no class",
            where=f"attack.kind = {attack.component.name!r}",
            remedy=f"Return labels, whole numbers in 0..{classes - 1}, of shape {labels.shape}.",
        )
    return changed.astype(np.int64)


def _falsify(attack: Choice, samples: Floats, labels: Indices, rng: np.random.Generator) -> Floats:
    """An attacker's samples, falsified; checked, as the attack may be a user's."""
    with guarded(attack.component, "attack.kind"):
        changed = np.asarray(attack(samples, labels, rng))
    if changed.shape != samples.shape or changed.dtype.kind not in "buif" or not np.isfinite(changed).all():
        raise PluginError(
            f"the attack returned {changed.dtype} of shape {changed.shape}, or what is not finite",
            where=f"attack.kind = {attack.component.name!r}",
            remedy=f"Return finite numbers of shape {samples.shape}.",
        )
    return changed.astype(np.float32)


def share(spec: Spec, parts: Placement, memory: SharedMemory) -> Setup:
    """What workers must know, with the data in shared memory."""
    dataset = parts.dataset
    order = generator(spec.seed, "evaluation").permutation(len(dataset.y_test)).astype(np.int64)
    used = np.unique(np.concatenate([*parts.train, *parts.validation, parts.root]))  # a cap leaves most samples out
    x = memory.share(dataset.x_train[used])
    for positions, samples in parts.falsified:
        held = np.isin(positions, used)
        x.open()[np.searchsorted(used, positions[held])] = samples[held]
    arrays = Arrays(
        x=x,
        y=memory.share(parts.labels[used]),
        x_test=memory.share(dataset.x_test),
        y_test=memory.share(dataset.y_test),
        test_order=memory.share(order),
        train=memory.share(np.searchsorted(used, np.concatenate(parts.train))),
        train_ends=_ends(parts.train),
        validation=memory.share(np.searchsorted(used, np.concatenate(parts.validation))),
        validation_ends=_ends(parts.validation),
        root=memory.share(np.searchsorted(used, parts.root)),
    )
    return Setup(
        tables=dict(spec.given),
        base=str(Path(spec.base).resolve()),
        search_path=tuple(sys.path),
        data_shape=dataset.shape,
        classes=dataset.classes,
        arrays=arrays,
        founders=frozenset(parts.ids),
        numbers=parts.numbers,
        spec_hash=spec.hash,
    )


def _ends(pieces: Sequence[Indices]) -> tuple[int, ...]:
    return tuple(np.cumsum([len(piece) for piece in pieces]).tolist())
