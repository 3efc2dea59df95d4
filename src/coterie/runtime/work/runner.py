"""The code that does a job: a function of its inputs alone, the same in any worker.

Randomness comes from the spec's seed and what the job says of itself, so the bits of an outcome do not depend on which
worker did it, nor on what that worker did before.
"""

from __future__ import annotations

import pickle
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from coterie import registry
from coterie import spec as specs
from coterie.adversary import craft, targets
from coterie.aggregation import Context, aggregate, metropolis_weights
from coterie.data import Dataset
from coterie.errors import CoterieError, LayoutMismatch, PluginError, RunError, SpecError
from coterie.layout import Layout, digest_of
from coterie.runtime.work.descriptions import (
    AggregateJob,
    AggregateOutcome,
    AttackJob,
    ClearJob,
    CopyJob,
    DigestJob,
    EvaluateJob,
    FitJob,
    FitOutcome,
    Job,
    JudgeJob,
    MergeJob,
    Setup,
)
from coterie.runtime.work.memory import SharedArray, Vectors
from coterie.runtime.work.merging import merged
from coterie.runtime.work.tickets import Ticket
from coterie.seeds import derive, generator
from coterie.spec import Choice, Spec
from coterie.training import Evaluation, FitState, Learner, Tally, VectorModule
from coterie.training.optimizers import learning_rate, update_velocity
from coterie.training.vector import LocalState


def build_module(spec: Spec, data_shape: tuple[int, ...], classes: int) -> nn.Module:
    """The spec's model with its initial values, which the seed decides. Its factory may take no arguments."""
    torch.manual_seed(derive(spec.seed, "model"))
    choice = spec.choices["model"]
    try:
        module = choice(data_shape, classes) if choice.component.takes_arguments else choice()
    except CoterieError:
        raise
    except Exception as error:
        raise PluginError(
            f"the model cannot be built: {type(error).__name__}: {error}",
            where="model.name",
            remedy=f"It is called for samples of shape {data_shape} and {classes} classes.",
        ) from error
    if not isinstance(module, nn.Module):
        raise PluginError(
            f"the model is a {type(module).__name__}", where="model.name", remedy="Return a torch.nn.Module."
        )
    return module


def layout_for(spec: Spec, dataset: Dataset) -> Layout:
    """The layout of the spec's model for these data. Raises as ``build_module``, and ModelError."""
    return VectorModule(build_module(spec, dataset.shape, dataset.classes)).layout


@dataclass
class Runner:
    """Does jobs, one after another. One lives in each worker, or in the parent if there are no workers."""

    spec: Spec
    setup: Setup
    vectors: Vectors = field(init=False)
    _scratch: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        arrays = self.setup.arrays
        self.x, self.y = _tensor(arrays.x), _tensor(arrays.y)
        self._x_test, self._y_test = _tensor(arrays.x_test), _tensor(arrays.y_test)
        self._test_order = _tensor(arrays.test_order)
        self.train = _pieces(arrays.train, arrays.train_ends)
        self._validation = _pieces(arrays.validation, arrays.validation_ends)
        self._root = _tensor(arrays.root)
        self._targets = targets(self.spec)
        self._tests: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._foreign_code = any(component.file for component in self.spec.components)
        module = build_module(self.spec, self.setup.data_shape, self.setup.classes)
        exact = self.spec.run.exact_kernels
        self.learner = Learner(module, self.spec.loss.function, self.spec.training, exact_kernels=exact)
        self.vectors = Vectors(self.learner.layout.size)
        self._scratch = torch.empty(0, self.vectors.size)

    @classmethod
    def start(cls, setup: Setup) -> Runner:
        """In a fresh process: read the spec again, load the plug-ins, build the model."""
        sys.path[:] = [*setup.search_path]
        torch.set_num_threads(1)
        spec = specs.check(setup.tables, Path(setup.base))
        if spec.hash != setup.spec_hash:
            raise PluginError(
                "a file that the spec names has changed since the run began", remedy="Run again, and leave it alone."
            )
        runner = cls(spec, setup)
        if runner.learner.layout.hash != setup.layout_hash:
            raise LayoutMismatch(
                "the model that was built here has another layout than the one of the run",
                where="model.name",
                remedy="A model's factory must build the same shapes every time; randomness, if any, comes from torch.",
            )
        return runner

    def begin(self, tickets: Sequence[Ticket]) -> None:
        """Do the jobs at once, in this process."""
        for ticket in tickets:
            (outcome,) = self.lane([ticket.job])
            if isinstance(outcome, AggregateOutcome):
                outcome = _as_sent(outcome)
            ticket.finish(outcome)

    def hungry(self) -> bool:
        """Never: what is begun is done at once."""
        return False

    def finish(self, ticket: Ticket) -> None:
        """Nothing is left to do: ``begin`` did it."""

    def lane(self, lane: Sequence[Job]) -> list[Any]:
        """The outcome of each job, in order; an error is an outcome, and that of all jobs after it too."""
        outcomes: list[Any] = []
        for job in lane:
            try:
                outcomes.append(self._run(job))
            except Exception as error:
                outcomes += [located(error, job, self)] * (len(lane) - len(outcomes))
                break
        return outcomes

    def _run(self, job: Job) -> Any:
        match job:
            case FitJob():
                return self._fit(job)
            case AggregateJob():
                return self._aggregate(job)
            case AttackJob():
                return self._attack(job)
            case EvaluateJob():
                self.seed("evaluate", job.peer, job.samples)
                return self.learner_in(self.vectors[job.vector], job.local).evaluate(
                    *self.test_set(job.samples), self.tally()
                )
            case CopyJob():
                self.vectors[job.target].copy_(self.vectors[job.source])
                return None
            case ClearJob():
                self.vectors[job.target].zero_()
                return None
            case MergeJob():
                self._merge(job)
                return None
            case DigestJob():
                return digest_of(self.vectors[job.vector])
            case JudgeJob():
                if not len(self._validation[job.peer]):
                    return None
                self.seed("judge", job.peer, 0)
                return self.learner_in(self.vectors[job.vector], job.local).evaluate(*self.held_out(job.peer))

    def _fit(self, job: FitJob) -> FitOutcome:
        base = self.vectors[job.source]
        self.vectors[job.target].copy_(base)
        trainable = self.learner.layout.trainable
        state = FitState(
            velocity=None if job.velocity is None else self.vectors[job.velocity][:trainable],
            optimizer=[self.vectors[block][:trainable] for block in job.optimizer],
            count=job.count,
        )
        seed = self.seed("fit", job.peer, job.round)
        report = self.learner_in(self.vectors[job.target], job.local).fit(
            self.x,
            self.y,
            self.train[job.peer],
            steps=self.steps_of(job),
            lr=self.learning_rate(job.round),
            seed=seed,
            state=state,
            base=base,
        )
        return FitOutcome(report, state.count, self.learner.bound.local_state())

    def _aggregate(self, job: AggregateJob) -> AggregateOutcome:
        rule = (
            self.spec.choices["aggregation"]
            if job.rule is None
            else Choice(registry.rules.resolve(job.rule, self.spec.base, "rule"), {})
        )
        own, base = self.vectors[job.own], self.vectors[job.base]
        own_rule = bool(rule.component.file)
        if own_rule:  # it may draw from any generator, and write into what it is given
            self.seed("aggregate", job.peer, job.round)
            own, base = own.clone(), base.clone()
        vectors = [self.vectors[block] for block in job.received]
        received = vectors if rule.component.traits.get("linear") else self._rows(vectors)
        context = Context(
            base=base,
            layout=self.learner.layout,
            round=job.round,
            rounds=self.spec.federation.rounds,
            graph_weights=metropolis_weights(job.degrees[0], [max(degree, 1) for degree in job.degrees[1:]]),
            founders=self.setup.founders,
            **job.context,
        )
        outcome = aggregate(rule, own, received, context, job.state, _Judge(self, job, seeded=own_rule))
        if own_rule:  # it may remember these very rows: the next job gets others
            self._scratch = torch.empty(0, self.vectors.size)
        if job.velocity is not None:
            update_velocity(
                self.vectors[job.velocity],
                base,
                outcome.vector,
                lr=self.learning_rate(job.round),
                steps=job.steps,
                beta=self.spec.training.quasi_global_momentum,
            )
        self.vectors[job.target].copy_(outcome.vector)
        return AggregateOutcome(outcome.weights, outcome.trust, outcome.state, outcome.refused)

    def _merge(self, job: MergeJob) -> None:
        self.seed("merge", 0, job.round)  # the same, whoever leads
        models = {name: self.vectors[block] for name, block in zip(job.names, job.sources, strict=True)}
        self.vectors[job.target].copy_(merged(job, models, self.vectors[job.base], self.spec, self.learner.layout))

    def _attack(self, job: AttackJob) -> None:
        self.seed("attack", job.peer, job.round)
        crafted = craft(
            self.spec.choices["attack"],
            self.vectors[job.own],
            self.vectors[job.base],
            [self.vectors[block] for block in job.others],
            job.attackers,
            generator(self.spec.seed, "craft", self.setup.numbers[job.peer], job.round),
        )
        self.vectors[job.target].copy_(crafted)

    def learner_in(self, vector: torch.Tensor, local: LocalState | None) -> Learner:
        """The learner, its module living in ``vector``; ``local``: the buffers that do not travel."""
        self.learner.bind(vector)
        self.learner.bound.restore_local(local)
        return self.learner

    def state_dict(self, vector: torch.Tensor, local: LocalState | None) -> dict[str, torch.Tensor]:
        """A copy of the module's state in ``vector``."""
        module = self.learner_in(vector, local).bound.module
        return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    def tally(self) -> Tally:
        """What counts the figures of one evaluation beside loss and accuracy."""
        return Tally(self._targets)

    def learning_rate(self, round: int) -> float:
        """The step size of a round."""
        return learning_rate(self.spec.training, round, self.spec.federation.rounds)

    def steps_of(self, job: FitJob) -> int | None:
        """How many minibatches a fit does; None for whole epochs."""
        return self.spec.local_steps if job.steps is None else job.steps

    def seed_of(self, purpose: str, peer: int, number: int) -> int:
        """The seed of one job."""
        return derive(self.spec.seed, purpose, self.setup.numbers[peer], number)

    def seed(self, purpose: str, peer: int, number: int) -> int:
        """Seed the global generators for one job: torch's, and where user's code may draw from them, all others.

        Jobs run on the CPU: ``torch.manual_seed`` would queue a stack trace a call for each device that is not there.
        """
        seed = self.seed_of(purpose, peer, number)
        torch.default_generator.manual_seed(seed)
        if self._foreign_code:
            np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002 - the global one is meant
            random.seed(seed)
        return seed

    def _rows(self, vectors: Sequence[torch.Tensor]) -> torch.Tensor:
        """A matrix of copies, good until the next one."""
        if self._scratch.shape[0] < len(vectors):
            self._scratch = torch.empty(len(vectors), self.vectors.size)
        rows = self._scratch[: len(vectors)]
        for row, vector in zip(rows, vectors, strict=True):
            row.copy_(vector)
        return rows

    def test_set(self, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The first ``samples`` of the test set."""
        if samples not in self._tests:
            chosen = self._test_order[:samples]
            whole = samples >= len(self._test_order)
            self._tests[samples] = (
                (self._x_test, self._y_test) if whole else (self._x_test[chosen], self._y_test[chosen])
            )
        return self._tests[samples]

    def held_out(self, peer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The peer's held-out part. Raises SpecError if there is none."""
        return self._select(self._validation[peer], "data.validation", "this rule judges vectors on held-out data")

    def training(self, peer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The peer's own training data."""
        return self.x[self.train[peer]], self.y[self.train[peer]]

    def root(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The public root sample. Raises SpecError if there is none."""
        return self._select(self._root, "data.root", "this rule needs a public root sample")

    def _select(self, positions: torch.Tensor, key: str, why: str) -> tuple[torch.Tensor, torch.Tensor]:
        if not len(positions):
            raise SpecError(f"{why}, and the spec keeps none", where=key, remedy="Set it above 0.")
        return self.x[positions], self.y[positions]


@dataclass
class _Judge:
    """Loss, gradient and outputs for rules, on one peer's data or on the root sample."""

    runner: Runner
    job: AggregateJob
    seeded: bool
    """Whether the global generators have this job's seed; they need it where a module draws at evaluation."""

    def loss(self, vector: torch.Tensor) -> float:
        evaluation: Evaluation = self._learner(vector).evaluate(*self.runner.held_out(self.job.peer))
        return evaluation.loss

    def gradient(self, vector: torch.Tensor) -> torch.Tensor:
        return self._learner(vector).gradient(*self.runner.held_out(self.job.peer))

    def root_gradient(self, vector: torch.Tensor) -> torch.Tensor:
        return self._learner(vector).gradient(*self.runner.root())

    def training_outputs(self, vector: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = self.runner.training(self.job.peer)
        return self._learner(vector).outputs(x), y

    def _learner(self, vector: torch.Tensor) -> Learner:
        if not self.seeded:
            self.runner.seed("aggregate", self.job.peer, self.job.round)
            self.seeded = True
        return self.runner.learner_in(vector, self.job.local)


def _tensor(shared: SharedArray) -> torch.Tensor:
    return torch.from_numpy(shared.open())


def _pieces(shared: SharedArray, ends: Sequence[int]) -> list[torch.Tensor]:
    whole = _tensor(shared)
    return [whole[start:end] for start, end in zip((0, *ends), ends, strict=False)]


def _as_sent(outcome: AggregateOutcome) -> AggregateOutcome:
    """The outcome as it would come out of a worker's pipe: what the rule remembers holds on to no memory of the run."""
    try:
        sent: AggregateOutcome = pickle.loads(pickle.dumps(outcome, protocol=5))  # noqa: S301 - our own
    except Exception as error:
        raise PluginError(
            f"what the rule remembers cannot be sent: {type(error).__name__}: {error}",
            where="aggregation.rule",
            remedy="Keep numbers, strings, tensors, and lists and dicts of such.",
        ) from error
    return sent


def located(error: Exception, job: Job, runner: Runner) -> Exception:
    """The error with the peer and the round it happened at; a PluginError where a user's model or loss is to blame."""
    if isinstance(error, CoterieError) and error.where.startswith("peer"):
        return error
    place = f"peer {job.peer}" + (
        f", round {job.round}" if isinstance(job, FitJob | AggregateJob | AttackJob | MergeJob) else ""
    )
    if isinstance(error, CoterieError):
        error.where = f"{place}: {error.where}".removesuffix(": ")
        return error
    what = f"{type(error).__name__}: {error}"
    own = [c.name for c in (runner.spec.choices["model"].component, runner.spec.loss) if c.file]
    if own and isinstance(job, FitJob | EvaluateJob):
        return PluginError(
            what,
            where=place,
            remedy=f"Check that the model and the loss ({' and '.join(own)}) take this data: samples of shape "
            f"{runner.setup.data_shape} and {runner.setup.classes} classes.",
        )
    return RunError(what, where=place, remedy="Check that the model and the loss take this data.")
