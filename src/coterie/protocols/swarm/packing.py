"""A check-in as a peer's store keeps it."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from coterie.protocols.swarm.checkin import Mode
from coterie.protocols.swarm.site import CheckedIn


def packed(checked: CheckedIn | None) -> dict[str, Any] | None:
    """Plain values and the snapshot."""
    if checked is None:
        return None
    return {field.name: getattr(checked, field.name) for field in fields(checked)} | {"mode": checked.mode.value}


def unpacked(values: dict[str, Any] | None) -> CheckedIn | None:
    """The inverse of ``packed``."""
    return None if values is None else CheckedIn(**(values | {"mode": Mode(values["mode"])}))
