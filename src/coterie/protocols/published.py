"""What peers publish and pull: the two messages, and what the ledger records of a model."""

from __future__ import annotations

from typing import Annotated

import msgspec

from coterie.layout import Snapshot
from coterie.network import Message, message

LATEST = -1
"""Instead of a round's number: the last there is, of whatever round."""
Natural = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
Channel = Annotated[str, msgspec.Meta(max_length=32)]


@message
class Pull(Message, frozen=True):
    """Ask for what the other has published on a channel in this round or, where that is gone, later.

    The reply waits for the round. ``LATEST`` asks for the last publication there is, and waits for the first.
    """

    round: Annotated[int, msgspec.Meta(ge=LATEST, lt=1 << 32)]
    channel: Channel


@message
class Model(Message, frozen=True):
    """What a peer has published: its vector, on how many training samples, and its degree in the graph.

    Samples and degree are the sender's word; a rule that uses them trusts it.
    """

    round: Natural
    channel: Channel
    vector: Snapshot
    samples: Natural
    degree: Natural


def content_of(model: Model) -> dict[str, str | int]:
    """What the ledger records of a published model."""
    return {"channel": model.channel, "round": model.round, "vector": model.vector.digest().hex()}


def serves(pull: Message, model: Model) -> bool:
    """Whether this model answers the pull."""
    return isinstance(pull, Pull) and pull.channel == model.channel and pull.round <= model.round
