"""What nodes say to each other beside their protocol: where they stand, and what the federation is about."""

from __future__ import annotations

from typing import Annotated

import msgspec

from coterie.network import Message, message

MOST_SPEC_BYTES = 1 << 18
Round = Annotated[int, msgspec.Meta(ge=-1, lt=1 << 32)]
State = Annotated[str, msgspec.Meta(pattern=r"\A[a-z]{1,16}\Z")]
"""It is shown in the others' status and logs as it is."""


@message
class StandingAsk(Message, frozen=True):
    """Where do you stand?"""


@message
class Standing(Message, frozen=True):
    """``state``: "waiting", "ready", "training", "done", "spare" (the others are enough), "idle" (a script is to train
    here) or "failed"; ``round``: the last one that is over, or -1.

    ``time``: ms since 1970 by the sender's clock.
    """

    state: State
    round: Round
    time: Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]


@message
class ReachAsk(Message, frozen=True):
    """Can you dial me, where I have told you that I listen?"""


@message
class Reach(Message, frozen=True):
    """Whether the sender could."""

    reached: bool


@message
class SpecAsk(Message, frozen=True):
    """Send me the federation's spec."""


@message
class SpecText(Message, frozen=True):
    """The spec as TOML, signed by the founder: nothing of it is believed, nor a file that it names loaded, before."""

    toml: Annotated[str, msgspec.Meta(max_length=MOST_SPEC_BYTES)]
    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]


def signed_spec(federation: bytes, toml: str) -> bytes:
    """What the founder signs for the purpose "spec"."""
    return federation + toml.encode()
