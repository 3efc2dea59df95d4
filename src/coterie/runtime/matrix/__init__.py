"""Rules by attacks by splits, over seeds: many small runs, and the tables that compare them."""

from coterie.runtime.matrix.run import is_matrix, run_matrix, write_tables

__all__ = ["run_matrix", "is_matrix", "write_tables"]
