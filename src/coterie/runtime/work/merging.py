"""The merge of protocol swarm as a job: the same wherever it is done, so no peer's own data may decide."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from coterie.aggregation.merging import Vectors, merge, merge_by_rule
from coterie.errors import SpecError
from coterie.layout import Layout
from coterie.runtime.work.descriptions import MergeJob
from coterie.spec import Spec


def merged(
    job: MergeJob, vectors: Mapping[str, torch.Tensor], base: torch.Tensor, spec: Spec, layout: Layout
) -> torch.Tensor:
    """The merge of ``vectors``, each (size,), by name in the job's order; ``base``: the last merged one.

    Raises SpecError for a rule that judges models by data, and what ``coterie.aggregation.merging`` raises.
    """
    models = Vectors(vectors)
    if job.method != "rule":
        return merge(models, job.weights, job.method).vector
    outcome = merge_by_rule(
        spec.choices["aggregation"],
        models,
        job.weights,
        base=base.clone(),
        layout=layout,
        samples=job.samples,
        round=job.round,
        rounds=spec.federation.rounds,
        judge=_Nobody(),
    )
    return outcome.vector


class _Nobody:
    """In place of a judge."""

    def loss(self, vector: torch.Tensor) -> float:
        raise _refusal()

    def gradient(self, vector: torch.Tensor) -> torch.Tensor:
        raise _refusal()

    def root_gradient(self, vector: torch.Tensor) -> torch.Tensor:
        raise _refusal()

    def training_outputs(self, vector: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raise _refusal()


def _refusal() -> SpecError:
    return SpecError(
        "this rule judges models by one peer's data, and a merge must come out the same whoever makes it",
        where="aggregation.rule",
        remedy="Take one that looks at the models alone, or a swarm.merge_method.",
    )
