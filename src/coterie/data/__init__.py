"""Datasets, and how they are divided among peers.

``load`` gives the dataset a spec names; ``divide`` says which training samples each peer holds; ``scale`` gives tables
a scale that peers can agree on. Datasets and partitions are registered components: a user's own factory or partition
stands beside the built-in ones.
"""

from __future__ import annotations

from coterie.data import arrays, builtin, cifar, credit, mnist, partitions, script, tables
from coterie.data.dataset import Dataset
from coterie.data.division import Division, divide
from coterie.data.loading import load
from coterie.data.scaling import scale
from coterie.data.sources import CoterieDataWarning

__all__ = ["Dataset", "load", "Division", "divide", "scale", "CoterieDataWarning"]

del arrays, builtin, cifar, credit, mnist, partitions, script, tables  # imported to register what they hold
