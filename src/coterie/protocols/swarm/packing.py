"""A check-in as a peer's store keeps it: plain values, its model apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from coterie.layout import Snapshot
from coterie.protocols.swarm.checkin import Mode
from coterie.protocols.swarm.site import CheckedIn


def packed(checked: CheckedIn | None) -> dict[str, Any] | None:
    """All but the snapshot."""
    if checked is None:
        return None
    plain = {field.name: getattr(checked, field.name) for field in fields(checked) if field.name != "snapshot"}
    return plain | {"mode": checked.mode.value}


def unpacked(values: dict[str, Any] | None, model: Callable[[bytes], Snapshot | None]) -> CheckedIn | None:
    """The inverse of ``packed``; None where ``model`` does not have the snapshot of this hash."""
    snapshot = model(values["digest"]) if values is not None else None
    if values is None or snapshot is None:
        return None
    return CheckedIn(snapshot, **(values | {"mode": Mode(values["mode"])}))
