"""Rules by attacks by splits, over seeds: many small runs, and the tables that compare them."""

from coterie.runtime.matrix.run import run_matrix

__all__ = ["run_matrix"]
