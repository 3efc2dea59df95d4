"""A simulation from a spec: data placed, memory shared, peers made; and the figures at its end."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from coterie import data
from coterie.layout import Layout, element_bytes
from coterie.protocols import PeerId
from coterie.runtime._result import final_figures
from coterie.runtime.results import PeerMetrics
from coterie.runtime.simulation.federation import Federation
from coterie.runtime.work.descriptions import Setup
from coterie.runtime.work.learner import Workplace
from coterie.runtime.work.memory import Arena, SharedMemory
from coterie.runtime.work.placement import Indices, place, share
from coterie.runtime.work.runner import Runner
from coterie.runtime.work.tickets import Executor, Ticket, run_all
from coterie.spec import Spec
from coterie.training import Evaluation

ChooseExecutor: TypeAlias = Callable[[Setup, Runner, float], Executor]
"""(what workers must know, a runner in this process, elements x samples of training) -> who does the jobs."""


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
            setup = share(spec, parts, self._memory)
            self.runner = Runner(spec, setup)
            self.arena = Arena(self._memory, self.layout.size, len(parts.ids))
            """The memory that holds all vectors."""
            self.runner.vectors = self.arena
            initial = self.arena.take()
            self.arena[initial].copy_(self.runner.learner.vector)
            work = self.layout.size * len(parts.ids) * spec.federation.rounds * _samples_a_round(spec, parts.train)
            setup = replace(setup, layout_hash=self.layout.hash)
            self._executor = choose_executor(setup, self.runner, work)
            self.federation = Federation(
                spec=spec,
                executor=self._executor,
                place=Workplace(spec, self.layout, self.arena, initial),
                topology=parts.topology,
                ids=parts.ids,
                numbers=parts.numbers,
                samples=[len(indices) for indices in parts.train],
                attackers=parts.attackers,
                on_record=on_record,
                on_round=on_round,
                stop=stop or threading.Event(),
            )
        except BaseException:
            self._memory.close()
            raise

    @property
    def layout(self) -> Layout:
        return self.runner.learner.layout

    def __enter__(self) -> Simulation:
        return self

    def __exit__(self, *_: object) -> None:
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
            digest.update(element_bytes(self.arena[member.learner.block]))
        return {
            **final_figures([(one.accuracy, one.loss, one.auc, one.attack_rate) for one in evaluations]),
            "virtual_seconds": self.federation.now,
            "bytes_sent": sum(self.federation.network.bytes_sent.values()),
            "model_hash": digest.hexdigest(),
        }

    def models(self, most: int) -> Iterator[tuple[PeerId, dict[str, Any]]]:
        """State dicts of the honest peers' final models, of the first ``most`` of them; each is made in its turn."""
        honest = [member for member in self.federation.members if not member.attacker]
        for member in honest[:most]:
            yield member.id, self.runner.state_dict(self.arena[member.learner.block], member.learner.local)


def _samples_a_round(spec: Spec, train: Sequence[Indices]) -> float:
    if spec.local_steps is not None:
        return spec.local_steps * spec.training.batch_size
    return (spec.training.local_epochs or 1) * sum(len(indices) for indices in train) / len(train)
