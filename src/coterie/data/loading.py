"""From the component a spec names to a checked dataset."""

from __future__ import annotations

from pathlib import Path

from coterie.data.dataset import Dataset, admit
from coterie.registry import Component, guarded


def load(component: Component, data_dir: Path | None) -> Dataset:
    """The dataset of ``component`` (``spec.dataset``), checked, as float32 features and int64 labels.

    A built-in one is called with what followed its colon and with ``data_dir``, the folder to look for files in first.
    A user's own factory is called with no arguments and returns a Dataset, ``(x_train, y_train)`` or
    ``(x_train, y_train, x_test, y_test)``. Where there is no test set, 20 % of the samples, stratified by class and the
    same whatever the seed, become one.

    Raises DataError for data that cannot be used, PluginError for a factory that fails.
    """
    with guarded(component, "data.dataset"):
        produced = component.function() if component.file else component.function(component.argument, data_dir)
    return admit(component.name, produced)
