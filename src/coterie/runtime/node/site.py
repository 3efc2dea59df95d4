"""One peer's model, data and memory on this machine: what a real peer works with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch

from coterie import data
from coterie.errors import SpecError
from coterie.identity import PeerId
from coterie.layout import Layout, digest_of
from coterie.runtime.node.home import NodeTable
from coterie.runtime.node.jobs import ThreadJobs
from coterie.runtime.node.store import StateStore
from coterie.runtime.work.learner import JobLearner, Workplace
from coterie.runtime.work.memory import Arena, SharedMemory
from coterie.runtime.work.placement import Placement, share
from coterie.runtime.work.runner import Runner, layout_for
from coterie.spec import Spec
from coterie.training import Evaluation

_ROWS = 8
"""Vectors in a piece of memory; more pieces are taken as needed."""
FinalModel: TypeAlias = tuple[Evaluation, str, dict[str, Any]]
"""Its figures on the whole test set, the SHA-256 (hex) of its vector, and its state dict."""


def part_of(parts: Placement, number: int) -> Placement:
    """What peer ``number`` of a divided data set holds, and nothing of the others."""
    if number not in parts.numbers:
        raise SpecError(
            f"there is no peer {number} in this run", where="part", remedy=f"There are {len(parts.numbers)} of them."
        )
    index = parts.numbers.index(number)
    return replace(
        parts,
        ids=(parts.ids[index],),
        numbers=(number,),
        train=[parts.train[index]],
        validation=[parts.validation[index]],
    )


def data_here(spec: Spec, table: NodeTable) -> tuple[data.Dataset, Layout]:
    """The data that a node with these settings trains on, and the layout of the model that the spec makes for them.

    Raises DataError, ModelError, PluginError or SpecError where they cannot be had.
    """
    source = spec if table.dataset is None else spec.with_values({"data.dataset": table.dataset})
    dataset = data.load(source.dataset, None)
    return dataset, layout_for(spec, dataset)


@dataclass
class Site:
    """``close`` gives its memory back."""

    spec: Spec
    dataset: data.Dataset
    layout: Layout
    runner: Runner
    jobs: ThreadJobs
    learner: JobLearner
    store: StateStore
    _arena: Arena
    _memory: SharedMemory

    @classmethod
    def open(cls, spec: Spec, part: Placement, peer: PeerId, founders: Sequence[PeerId], folder: Path) -> Site:
        """``part``: one peer's data; ``founders``: members from the start; ``folder``: where the peer keeps its state.

        Raises ModelError, PluginError or SpecError where the model cannot be built.
        """
        memory = SharedMemory()
        try:
            setup = replace(share(spec, part, memory), founders=frozenset(founders))
            runner = Runner(spec, setup)
            layout = runner.learner.layout
            arena = Arena(memory, layout.size, _ROWS, travels=True)
            runner.vectors = arena
            initial = arena.take()
            arena[initial].copy_(runner.learner.vector)
        except BaseException:
            memory.close()
            raise
        place = Workplace(spec, layout, arena, initial)
        store = StateStore(folder, arena, layout.hash)
        jobs = place.jobs = ThreadJobs(runner, store.settle)
        learner = JobLearner(place, 0, peer, len(part.train[0]), 0.0)
        return cls(spec, part.dataset, layout, runner, jobs, learner, store, arena, memory)

    def close(self) -> None:
        self.jobs.close()
        self.store.close()
        self._memory.close()

    @property
    def vector(self) -> torch.Tensor:
        """The learner's present vector, shape (layout.size,), float32. Read only."""
        return self._arena[self.learner.block]

    async def final(self) -> FinalModel:
        """The final model."""
        samples = len(self.dataset.y_test)
        evaluation: Evaluation = await self.jobs.run(0, self.learner.evaluation(samples), 0.0)
        digest = digest_of(self.vector).hex()
        return evaluation, digest, self.runner.state_dict(self.vector, self.learner.local)
