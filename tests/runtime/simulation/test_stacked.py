"""Fits of many peers at once, on the device "cpu": the plain runner's results within rounding, whatever the company."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_federation import simulate, small

from coterie import spec as specs
from coterie.errors import RunError, SpecError, TrainingDiverged
from coterie.runtime.results import PeerMetrics
from coterie.runtime.simulation.stacked import StackedExecutor, chosen_device
from coterie.runtime.work.descriptions import ClearJob, CopyJob, EvaluateJob, FitJob
from coterie.runtime.work.tickets import Ticket
from coterie.spec import Spec
from coterie.training.engine import Engine

CPU = torch.device("cpu")


class Counted(StackedExecutor):
    """Counts the jobs it does stacked."""

    fits = evaluations = chunks = 0

    def _fit(self, jobs: Any, real: int) -> Any:
        self.fits, self.chunks = self.fits + len(set(jobs)), self.chunks + 1
        return super()._fit(jobs, real)

    def _evaluate(self, jobs: Any) -> Any:
        self.evaluations += 1
        return super()._evaluate(jobs)


def run(spec: Spec, chunk: int | None, kind: type[StackedExecutor] = Counted) -> tuple[Any, Any, torch.Tensor, Any]:
    """Figures, records, final vectors, and the executor; plain where ``chunk`` is None."""
    made: list[StackedExecutor] = []

    def executor(setup: Any, runner: Any) -> Any:
        if chunk is None:
            return runner
        made.append(kind(runner, CPU, chunk))
        return made[0]

    records: list[PeerMetrics] = []
    figures, simulation = simulate(spec, records, executor)
    blocks = [member.learner.block for member in simulation.federation.members]
    vectors = torch.stack([simulation.runner.vectors[block] for block in blocks])
    return figures, records, vectors, made[0] if made else None


DIGITS = {
    "data__dataset": "digits",
    "model__name": "cnn",
    "model__channels": [4, 6],
    "model__hidden": [8],
    "training__lr": 0.05,
    "federation__rounds": 2,
}
CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "momentum_kept": {"training__momentum": 0.8, "training__optimizer_state": "keep"},
    "adam_kept": {"training__optimizer": "adam", "training__lr": 0.01, "training__optimizer_state": "keep"},
    "epochs_proximal": {"training__local_epochs": 2, "training__proximal": 0.5},
    "decay_clip": {"training__weight_decay": 0.01, "training__clip": 0.3, "training__momentum": 0.5},
    "mse": {"training__loss": "mse"},
    "cnn": DIGITS,
}


def spec_of(changes: dict[str, Any]) -> Spec:
    """Plain means, which magnify no rounding; epochs in place of steps where ``changes`` say so."""
    plain = small(aggregation__rule="metropolis")
    tables = {name: dict(table) for name, table in plain.given.items()}
    if "training__local_epochs" in changes:
        del tables["training"]["local_steps"]
    return specs.check(tables, plain.base).with_values({key.replace("__", "."): changes[key] for key in changes})


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES.keys())
def test_a_stacked_run_is_the_plain_run_within_rounding(changes: dict[str, Any]) -> None:
    spec = spec_of(changes)
    figures, records, vectors, _ = run(spec, None)
    other_figures, other_records, other_vectors, executor = run(spec, 4)
    assert executor.fits == 6 * spec.federation.rounds
    assert executor.evaluations > 0
    assert float((vectors - other_vectors).norm() / vectors.norm()) < 2e-5
    assert other_figures["loss"]["mean"] == pytest.approx(figures["loss"]["mean"], rel=1e-4)
    assert other_figures["accuracy"]["mean"] == pytest.approx(figures["accuracy"]["mean"], abs=0.005)
    assert [record.round for record in other_records] == [record.round for record in records]
    for record, other in zip(records, other_records, strict=True):
        assert other.loss == pytest.approx(record.loss, rel=1e-4)


class OneByOne(Counted):
    """Never more than one job at a time, the last first."""

    def begin(self, tickets: Any) -> None:
        lanes = sorted({ticket.lane for ticket in tickets}, reverse=True)
        for lane in lanes:
            for ticket in tickets:
                if ticket.lane == lane:
                    super().begin([ticket])


@pytest.mark.parametrize("changes", [CASES["momentum_kept"], DIGITS])
def test_the_bits_do_not_depend_on_the_company(changes: dict[str, Any]) -> None:
    figures, records, vectors, together = run(small(**changes), 4)
    other_figures, other_records, other_vectors, alone = run(small(**changes), 4, OneByOne)
    assert alone.fits == together.fits
    assert alone.chunks > together.chunks
    assert torch.equal(vectors, other_vectors)
    assert figures == other_figures
    assert records == other_records


@pytest.mark.parametrize("kind", ["Statistics", "Dropping", "Branching", "NoisyEvaluation", "Counting", "Half"])
def test_what_cannot_be_stacked_runs_plainly(kind: str) -> None:
    spec = small(model__name=f"stacking.py:{kind}", federation__rounds=2)
    figures, records, vectors, _ = run(spec, None)
    other_figures, other_records, other_vectors, executor = run(spec, 4)
    assert not executor.stacks
    assert executor.fits == executor.evaluations == 0
    assert torch.equal(vectors, other_vectors)
    assert figures == other_figures
    assert records == other_records


def test_a_module_may_write_into_its_input() -> None:
    spec = small(model__name="stacking.py:InPlace", federation__rounds=2, aggregation__rule="metropolis")
    figures, _, vectors, _ = run(spec, None)
    other_figures, _, other_vectors, executor = run(spec, 4)
    assert executor.stacks
    torch.testing.assert_close(vectors, other_vectors, rtol=1e-4, atol=1e-6)
    assert other_figures["loss"]["mean"] == pytest.approx(figures["loss"]["mean"], rel=1e-4)


def test_jobs_of_a_lane_are_done_in_order_whatever_their_kinds_and_rounds() -> None:
    """Peers in different rounds, with fits of different lengths and different jobs around them, given all at once."""
    results: list[tuple[list[Any], torch.Tensor]] = []

    def executor(setup: Any, runner: Any) -> Any:
        arena, initial = runner.vectors, runner.learner.vector.clone()
        for stacked in (False, True):
            made = StackedExecutor(runner, CPU, 4) if stacked else runner
            tickets: list[Ticket] = []
            ends = []
            for peer in range(6):
                start, copy, fitted, end, velocity = (arena.take() for _ in range(5))
                arena[start].copy_(initial)
                for block in (copy, fitted, end, velocity):
                    arena[block].fill_(float("nan"))
                before = [ClearJob(peer, velocity), CopyJob(peer, start, copy)]
                steps = None if peer < 3 else 2 + peer % 2  # a protocol may ask for more or fewer than the spec
                fit = FitJob(peer, 3 * (peer % 3), copy, fitted, velocity, (), 0, None, steps)
                jobs = [*before[: 1 + peer % 2], fit, EvaluateJob(peer, fitted, 50, None), CopyJob(peer, fitted, end)]
                if peer % 2 == 0:
                    arena[copy].copy_(arena[start])
                tickets += [Ticket(peer, job) for job in jobs]
                ends.append(end)
            made.begin(tickets)
            kept = [ticket.result() for ticket in tickets if isinstance(ticket.job, FitJob | EvaluateJob)]
            results.append((kept, torch.stack([arena[end] for end in ends])))
        return runner

    simulate(small(federation__rounds=10), None, executor)
    (plain, vectors), (stacked, other_vectors) = results
    torch.testing.assert_close(vectors, other_vectors, rtol=1e-5, atol=1e-6)
    losses = [[getattr(result, "report", result).loss for result in each] for each in (plain, stacked)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    done = [[result.report.steps for result in each if hasattr(result, "report")] for each in (plain, stacked)]
    assert done == [[3, 3, 3, 3, 2, 3]] * 2


def test_one_diverged_fit_leaves_the_others_of_its_chunk_alone() -> None:
    outcomes: list[Any] = []

    class Poisoned(StackedExecutor):
        def begin(self, tickets: Any) -> None:
            for ticket in tickets:
                if isinstance(ticket.job, FitJob) and ticket.job.peer == 2:
                    self._runner.vectors[ticket.job.source].fill_(float("nan"))
            super().begin(tickets)
            outcomes.extend((ticket.job, ticket.outcome) for ticket in tickets if isinstance(ticket.job, FitJob))

    def executor(setup: Any, runner: Any) -> Any:
        made = Poisoned(runner, CPU, 8)
        arena = runner.vectors
        good, bad = arena.take(), arena.take()
        for block in (good, bad):
            arena[block].copy_(runner.learner.vector)
        velocity = arena.take()
        arena[velocity].zero_()
        jobs = [FitJob(p, 0, bad if p == 2 else good, arena.take(), velocity, (), 0, None) for p in range(4)]
        made.begin([Ticket(job.peer, job) for job in jobs] + [Ticket(5, EvaluateJob(5, good, 20, None))])
        return runner

    simulate(small(federation__rounds=1), None, executor)
    assert len(outcomes) == 4
    for job, outcome in outcomes:
        if job.peer == 2:
            assert isinstance(outcome, TrainingDiverged)
            assert outcome.where == "peer 2, round 0"
        else:
            assert outcome.report.steps == 3


# The choice


def test_cuda_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SpecError, match="CUDA") as caught:
        chosen_device(small(compute__device="cuda"))
    assert caught.value.where == "compute.device"
    assert chosen_device(small(compute__device="auto")) is None
    assert chosen_device(small()) is None


def test_cuda_that_is_there_is_taken_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert chosen_device(small(compute__device="cuda")) == torch.device("cuda")
    assert chosen_device(small(compute__device="auto")) == torch.device("cuda")
    assert chosen_device(small()) is None
    assert chosen_device(small(compute__device="auto", run__exact_kernels=True)) is None
    with pytest.raises(SpecError, match="exact_kernels"):
        chosen_device(small(compute__device="cuda", run__exact_kernels=True))


def test_the_device_is_not_part_of_what_a_federation_is() -> None:
    assert small(compute__device="auto").hash == small().hash


def test_exact_kernels_reach_the_learner(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("the kernels were used")

    monkeypatch.setattr(Engine, "losses", fail)
    monkeypatch.setattr(Engine, "outputs", fail)
    simulate(small(federation__rounds=1, run__exact_kernels=True))
    with pytest.raises(RunError, match="the kernels were used"):
        simulate(small(federation__rounds=1))
