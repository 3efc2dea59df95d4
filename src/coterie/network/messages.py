"""Typed messages between peers. Each protocol defines its own; all are registered by their tag."""

from __future__ import annotations

from typing import TypeVar

import msgspec


class Message(msgspec.Struct, frozen=True, tag_field="type", tag=True, forbid_unknown_fields=True):
    """Base of all messages. Fields are typed; a field of type ``Snapshot`` travels beside the header, as raw bytes."""


MessageType = type[Message]
M = TypeVar("M", bound=MessageType)
_types: dict[str, MessageType] = {}


def message(kind: M) -> M:
    """Class decorator: make a message type known to the codec, by its tag (the class name)."""
    tag = str(kind.__struct_config__.tag)
    if tag in _types:
        raise ValueError(f"message type {tag} is registered twice")
    _types[tag] = kind
    return kind


def message_types() -> tuple[MessageType, ...]:
    """All registered message types."""
    return tuple(_types.values())


def known_types() -> int:
    """How many message types are registered; none is ever taken back."""
    return len(_types)
