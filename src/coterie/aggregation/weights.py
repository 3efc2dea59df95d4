"""Mixing weights that follow from the graph alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from coterie.errors import SpecError


def metropolis_weights(own_degree: int, neighbour_degrees: Sequence[int]) -> torch.Tensor:
    """Metropolis-Hastings weights of one peer: w_ij = 1 / (1 + max(deg_i, deg_j)), w_ii = 1 - sum_j w_ij.

    ``own_degree`` is deg_i, ``neighbour_degrees`` holds deg_j of the n neighbours heard; returns shape (n + 1,),
    float32, own first. When every peer hears all its neighbours the matrix W is symmetric and doubly stochastic, so
    repeated mixing tends to the plain mean on a connected graph. A neighbour not heard leaves its weight to ``own``.

    Raises SpecError when more neighbours are given than the own degree, or for a degree below 1.
    Source: Xiao, Boyd and Lall, "A scheme for robust distributed sensor fusion based on average consensus", 2005.
    """
    if len(neighbour_degrees) > own_degree or any(degree < 1 for degree in neighbour_degrees):
        raise SpecError(
            f"{len(neighbour_degrees)} neighbours of degrees {list(neighbour_degrees)} do not fit a peer of degree "
            f"{own_degree}",
            where="topology",
            remedy="A degree counts all neighbours of a peer.",
        )
    weights = [1.0 / (1 + max(own_degree, degree)) for degree in neighbour_degrees]
    return torch.tensor([1.0 - sum(weights), *weights], dtype=torch.float32)
