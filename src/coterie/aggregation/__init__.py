"""How many vectors become one: the door ``aggregate``, and the rules of the registry ``rules``."""

from __future__ import annotations

from coterie.aggregation import means, trust
from coterie.aggregation.interface import Aggregate, Context, Judge, Rule, State, aggregate
from coterie.aggregation.weights import metropolis_weights

__all__ = ["Aggregate", "Context", "Judge", "Rule", "State", "aggregate", "means", "metropolis_weights", "trust"]
