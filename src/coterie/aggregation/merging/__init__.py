"""Merges: how the models that peers check in become one, by pieces, in little memory."""

from coterie.aggregation.merging.methods import METHODS, Merged, merge, prepare
from coterie.aggregation.merging.models import Models, Readers, Vectors
from coterie.aggregation.merging.rules import merge_by_rule
from coterie.aggregation.merging.weiszfeld import Search, weiszfeld

__all__ = [
    "METHODS",
    "Merged",
    "Models",
    "Readers",
    "Search",
    "Vectors",
    "merge",
    "merge_by_rule",
    "prepare",
    "weiszfeld",
]
