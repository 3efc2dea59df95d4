"""A simulation from a spec: data placed, memory shared, peers made; and the figures at its end."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from coterie import data
from coterie.adversary import attackers
from coterie.errors import SpecError
from coterie.layout import Layout
from coterie.protocols import PeerId, Topology
from coterie.runtime.results import PeerMetrics, summary
from coterie.runtime.simulation.clock import VirtualLoop
from coterie.runtime.simulation.federation import Federation
from coterie.runtime.simulation.jobs import Executor, Jobs, Ticket, run_all
from coterie.runtime.simulation.learner import Workplace
from coterie.runtime.simulation.memory import Arena, SharedMemory
from coterie.runtime.simulation.runner import Runner
from coterie.runtime.simulation.work import Arrays, Setup
from coterie.seeds import generator
from coterie.spec import Spec
from coterie.training import Evaluation

Indices: TypeAlias = npt.NDArray[np.int64]
ChooseExecutor: TypeAlias = Callable[[Setup, Runner, float], Executor]
"""(what workers must know, a runner in this process, elements x samples of training) -> who does the jobs."""


@dataclass(frozen=True)
class Placement:
    """Who holds what, after attackers have poisoned their share and the protocol has pooled the data or not."""

    ids: tuple[PeerId, ...]
    numbers: tuple[int, ...]
    """Each peer's number in the spec: an oracle run leaves some out."""
    attackers: frozenset[PeerId]
    labels: Indices
    train: list[Indices]
    validation: list[Indices]
    root: Indices
    topology: Topology


def peer_ids(count: int) -> tuple[PeerId, ...]:
    """Names of simulated peers, in an order that sorts."""
    width = len(str(count - 1))
    return tuple(f"peer-{index:0{width}d}" for index in range(count))


def place(spec: Spec, dataset: data.Dataset) -> Placement:
    """Divide the data among the peers, let attackers poison theirs, leave attackers out of an oracle run."""
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
    labels = dataset.y_train.copy()
    for index in malicious:
        held = np.concatenate([division.train[index], division.validation[index]])
        rng = generator(spec.seed, "attack", index)
        labels[held] = spec.choices["attack"](labels[held], dataset.classes, rng)
    kept = [index for index in range(count) if not (spec.run.oracle and index in malicious)]
    train = [division.train[index] for index in kept]
    validation = [division.validation[index] for index in kept]
    topology = Topology.of(spec, count)
    names = peer_ids(count)
    ids, bad = tuple(names[index] for index in kept), frozenset(names[index] for index in malicious)
    if spec.protocol.component.traits.get("pooled"):
        kept, ids, bad, topology = [0], ("pooled",), frozenset(), Topology([[]])
        train, validation = [np.concatenate(train)], [np.concatenate(validation)]
    elif len(kept) < count:
        topology = topology.induced(kept)
    return Placement(ids, tuple(kept), bad & frozenset(ids), labels, train, validation, division.root, topology)


class Simulation:
    """One run, built and taken down. A context manager: its shared memory ends with it."""

    def __init__(
        self,
        spec: Spec,
        dataset: data.Dataset,
        choose_executor: ChooseExecutor,
        on_record: Callable[[PeerMetrics], None],
        on_round: Callable[[int, list[float], int], None],
        stop: threading.Event | None = None,
    ) -> None:
        parts = place(spec, dataset)
        self._test_samples = len(dataset.y_test)
        self._memory = SharedMemory()
        try:
            setup = _setup(spec, dataset, parts, self._memory)
            self.runner = Runner(spec, setup)
            self._arena = Arena(self._memory, self.layout.size, len(parts.ids))
            self.runner.vectors = self._arena
            initial = self._arena.take()
            self._arena[initial].copy_(self.runner.learner.vector)
            work = self.layout.size * len(parts.ids) * spec.federation.rounds * _samples_a_round(spec, parts.train)
            self._executor = choose_executor(setup, self.runner, work)
        except BaseException:
            self._memory.close()
            raise
        self.loop = VirtualLoop(stop)
        self.jobs = Jobs(self.loop, self._executor)
        self.federation = Federation(
            spec=spec,
            loop=self.loop,
            place=Workplace(spec, self.layout, self._arena, self.jobs, initial),
            topology=parts.topology,
            ids=parts.ids,
            numbers=parts.numbers,
            samples=[len(indices) for indices in parts.train],
            attackers=parts.attackers,
            on_record=on_record,
            on_round=on_round,
        )

    @property
    def layout(self) -> Layout:
        return self.runner.learner.layout

    def __enter__(self) -> Simulation:
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.close()
        self._memory.close()

    def outcome(self) -> dict[str, Any]:
        """Figures of the honest peers' final models, on the whole test set."""
        honest = [member for member in self.federation.members if not member.attacker]
        evaluations: list[Evaluation] = run_all(
            self._executor,
            [Ticket(member.index, member.learner.evaluation(self._test_samples)) for member in honest],
        )
        digest = hashlib.sha256()
        for member in honest:
            digest.update(self._arena[member.learner.block].numpy().astype("<f4", copy=False).data)
        return {
            "accuracy": summary([evaluation.accuracy for evaluation in evaluations]),
            "loss": summary([evaluation.loss for evaluation in evaluations]),
            "virtual_seconds": self.loop.time(),
            "bytes_sent": sum(self.federation.network.bytes_sent.values()),
            "model_hash": digest.hexdigest(),
        }

    def models(self, most: int) -> dict[PeerId, dict[str, Any]]:
        """State dicts of the honest peers' final models, of the first ``most`` of them."""
        honest = [member for member in self.federation.members if not member.attacker]
        found = {}
        for member in honest[:most]:
            learner = self.runner.learner
            learner.bind(self._arena[member.learner.block])
            learner.bound.restore_local(member.learner.local)
            state = learner.bound.module.state_dict()
            found[member.id] = {name: tensor.detach().clone() for name, tensor in state.items()}
        return found


def _setup(spec: Spec, dataset: data.Dataset, parts: Placement, memory: SharedMemory) -> Setup:
    order = generator(spec.seed, "evaluation").permutation(len(dataset.y_test)).astype(np.int64)
    arrays = Arrays(
        x=memory.share(dataset.x_train),
        y=memory.share(parts.labels),
        x_test=memory.share(dataset.x_test),
        y_test=memory.share(dataset.y_test),
        test_order=memory.share(order),
        train=memory.share(np.concatenate(parts.train)),
        train_ends=_ends(parts.train),
        validation=memory.share(np.concatenate(parts.validation)),
        validation_ends=_ends(parts.validation),
        root=memory.share(parts.root),
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


def _samples_a_round(spec: Spec, train: Sequence[Indices]) -> float:
    if spec.local_steps is not None:
        return spec.local_steps * spec.training.batch_size
    return (spec.training.local_epochs or 1) * sum(len(indices) for indices in train) / len(train)
