"""Importing this module fills the registries: every built-in component is then known by its name."""

from coterie import adversary, aggregation, data, protocols, training

__all__ = ["adversary", "aggregation", "data", "protocols", "training"]
