"""Calling a user's own component: whatever it raises becomes an error that names it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coterie.errors import CoterieError, PluginError
from coterie.registry import Component, Registry


def is_plugin(component: Component, known: Registry) -> bool:
    """Whether ``component`` is a user's own: its function is not registered."""
    return all(each.function is not component.function for each in known)


def call(component: Component, function: Callable[..., Any], *args: Any) -> Any:
    """``function(*args)`` of a plug-in, with what it raises as a PluginError that names ``component``."""
    try:
        return function(*args)
    except CoterieError:
        raise
    except Exception as error:
        raise PluginError(
            f"it raised {type(error).__name__}: {error}", where=component.name, remedy="Mend that function."
        ) from error
