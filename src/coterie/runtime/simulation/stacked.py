"""Fits and evaluations of many peers at once on one device; every other job is done as in a run without workers.

Waiting jobs that are alike (same round, same number and sizes of minibatches) are cut into chunks of a fixed size, a
last one filled up with copies of its first job: the kernels always see the same shapes, so that a job's bits do not
depend on its company. Modules that cannot be stacked (see ``Stack.works``) leave everything to the plain runner.

Written for CUDA; it has been tested on the CPU only, by running it there on the device "cpu".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from coterie.errors import SpecError
from coterie.runtime.work.descriptions import EvaluateJob, FitJob, FitOutcome
from coterie.runtime.work.memory import Block
from coterie.runtime.work.runner import Runner, located
from coterie.runtime.work.tickets import Ticket
from coterie.spec import Spec
from coterie.training import Evaluation, FitReport
from coterie.training.learner import EVALUATION_BATCH, require_finite
from coterie.training.optimizers import state_rows
from coterie.training.stack import Stack

_CHUNK = 64
_PROBE = 8
"""Samples that a module is tried on."""

Batches = tuple[torch.Tensor, ...]


def chosen_device(spec: Spec) -> torch.device | None:
    """The device that ``compute.device`` means; None for the CPU. Raises SpecError for one that is not there."""
    wanted, there = spec.compute.device, torch.cuda.is_available()
    if wanted == "cuda" and spec.run.exact_kernels:
        raise SpecError(
            "run.exact_kernels asks for plain autograd, peer by peer, which is not done on cuda",
            where="compute.device",
            remedy="Set one of the two.",
        )
    if wanted == "cuda" and not there:
        raise SpecError(
            "torch finds no CUDA device here",
            where="compute.device",
            remedy="Set it to 'auto' or 'cpu', or install a build of PyTorch for your device.",
        )
    return torch.device("cuda") if wanted != "cpu" and there and not spec.run.exact_kernels else None


class StackedExecutor:
    """Does the jobs of one run in this process: alike ones together on ``device``, ``chunk`` at a time."""

    def __init__(self, runner: Runner, device: torch.device, chunk: int = _CHUNK) -> None:
        self._runner, self._device, self._chunk = runner, device, chunk
        self._x, self._y = runner.x.to(device), runner.y.to(device)
        self._tests: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        learner = runner.learner
        self._stack = Stack(learner.bound.module, learner.layout, runner.spec.loss.function, runner.spec.training)
        self.stacks = self._stack.works(self._x[:_PROBE], self._y[:_PROBE], learner.vector.to(device))
        """Whether the module can be stacked."""

    def begin(self, tickets: Sequence[Ticket]) -> None:
        """Do the jobs at once: those of one lane in order; lanes touch nothing in common."""
        if not self.stacks:
            self._runner.begin(tickets)
            return
        lanes: dict[int, deque[Ticket]] = {}
        for ticket in tickets:
            lanes.setdefault(ticket.lane, deque()).append(ticket)
        while lanes:
            together: dict[Any, list[Ticket]] = {}
            for lane, waiting in list(lanes.items()):
                while waiting and not isinstance(waiting[0].job, FitJob | EvaluateJob):
                    self._runner.begin([waiting.popleft()])
                if waiting:
                    ticket = waiting.popleft()
                    together.setdefault(self._key(ticket.job), []).append(ticket)
                else:
                    del lanes[lane]
            for group in together.values():
                for start in range(0, len(group), self._chunk):
                    self._do(group[start : start + self._chunk])

    def hungry(self) -> bool:
        """Never: what is begun is done at once."""
        return False

    def finish(self, ticket: Ticket) -> None:
        """Nothing is left to do: ``begin`` did it."""

    def _key(self, job: FitJob | EvaluateJob) -> object:
        """Jobs with the same key can be done together."""
        if isinstance(job, EvaluateJob):
            return job.samples
        samples, table = len(self._runner.train[job.peer]), self._runner.spec.training
        batch, steps = min(table.batch_size, samples), self._runner.steps_of(job)
        length = samples if steps is None else None
        return job.round, job.count, batch, steps, length, job.velocity is None, len(job.optimizer)

    def _do(self, group: Sequence[Ticket]) -> None:
        jobs = [ticket.job for ticket in group]
        padded = jobs + [jobs[0]] * (self._chunk - len(jobs))
        try:
            outcomes = self._fit(padded, len(jobs)) if isinstance(jobs[0], FitJob) else self._evaluate(padded)
        except Exception as error:
            outcomes = [error] * len(padded)
        for ticket, outcome in zip(group, outcomes, strict=False):
            ticket.finish(located(outcome, ticket.job, self._runner) if isinstance(outcome, Exception) else outcome)

    def _fit(self, jobs: Sequence[FitJob], real: int) -> list[Any]:
        """Outcomes of the first ``real`` jobs; the others are padding, and nothing of theirs is kept."""
        runner, table, first = self._runner, self._runner.spec.training, jobs[0]
        trainable = runner.learner.layout.trainable
        vectors = self._rows([job.source for job in jobs])
        velocities = [job.velocity for job in jobs if job.velocity is not None]
        velocity = self._rows(velocities)[:, :trainable] if velocities else None
        kept = table.optimizer_state == "keep"
        if kept:
            states = [
                self._rows(blocks)[:, :trainable] for blocks in zip(*[job.optimizer for job in jobs], strict=True)
            ]
        else:
            states = [vectors.new_zeros(len(jobs), trainable) for _ in range(state_rows(table))]
        count = first.count if kept else 0
        orders = [self._order(job) for job in jobs]
        losses = self._stack.fit(
            vectors,
            self._batches(orders),
            lr=runner.learning_rate(first.round),
            count=count,
            velocity=velocity,
            states=states,
        )
        for row, state in enumerate(states if kept else ()):
            for job, values in zip(jobs[:real], state[:real].cpu(), strict=True):
                runner.vectors[job.optimizer[row]][:trainable].copy_(values)
        outcomes: list[Any] = []
        ends = vectors[:real].cpu(), losses[:real].double().mean(1).tolist()
        for job, vector, means in zip(jobs[:real], *ends, strict=True):
            runner.vectors[job.target].copy_(vector)
            try:
                require_finite(means, vector)
                report = FitReport(means, losses.shape[1])
                outcomes.append(FitOutcome(report, count + losses.shape[1], None))
            except Exception as error:
                outcomes.append(error)
        return outcomes

    def _order(self, job: FitJob) -> Batches:
        """Positions of the fit's minibatches, the same as of ``Learner.fit``."""
        positions, seed = self._runner.train[job.peer], self._runner.seed_of("fit", job.peer, job.round)
        steps = self._runner.steps_of(job)
        return tuple(positions[batch] for batch in self._runner.learner.batches(len(positions), steps, seed))

    def _batches(self, orders: Sequence[Batches]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for step in zip(*orders, strict=True):
            positions = torch.stack(step).to(self._device)
            yield self._x[positions], self._y[positions]

    def _evaluate(self, jobs: Sequence[EvaluateJob]) -> list[Any]:
        samples = jobs[0].samples
        if samples not in self._tests:
            x, y = self._runner.test_set(samples)
            self._tests[samples] = x.to(self._device), y.to(self._device)
        x, y = self._tests[samples]
        vectors = self._rows([job.vector for job in jobs])
        tallies = [self._runner.tally() for _ in jobs]
        loss, right = vectors.new_zeros(len(jobs), dtype=torch.float64), torch.zeros(len(jobs), dtype=torch.int64)
        for start in range(0, len(y), EVALUATION_BATCH):
            end = start + EVALUATION_BATCH
            part_x, part_y = x[start:end].clone(), y[start:end]  # a module may write into it
            means, outputs = self._stack.evaluate(vectors, part_x, part_y)
            loss += means.double() * len(part_y)
            right += (outputs.argmax(2) == part_y).sum(1).cpu()
            for tally, found in zip(tallies, outputs.cpu(), strict=True):
                tally.add(found, part_y.cpu())
        return [
            Evaluation(total / len(y), answers / len(y), len(y), tally.attack_rate, tally.auc)
            for total, answers, tally in zip(loss.tolist(), right.tolist(), tallies, strict=True)
        ]

    def _rows(self, blocks: Sequence[Block]) -> torch.Tensor:
        """Copies of the blocks as rows on the device."""
        return torch.stack([self._runner.vectors[block] for block in blocks]).to(self._device)
