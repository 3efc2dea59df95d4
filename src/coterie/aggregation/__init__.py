"""How many vectors become one: the door ``aggregate``, and the rules of the registry ``rules``."""

from __future__ import annotations

from coterie.aggregation import centres, coordinates, gates, krum, learned, means, mixing, spectral, trust
from coterie.aggregation.interface import Aggregate, Context, Judge, Rule, State, aggregate
from coterie.aggregation.weights import metropolis_weights

__all__ = [
    "Aggregate",
    "Context",
    "Judge",
    "Rule",
    "State",
    "aggregate",
    "centres",
    "coordinates",
    "gates",
    "krum",
    "learned",
    "means",
    "metropolis_weights",
    "mixing",
    "spectral",
    "trust",
]
