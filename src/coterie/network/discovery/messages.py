"""What members tell each other of addresses. Limits are in the types: the codec refuses what exceeds them."""

from __future__ import annotations

from typing import Annotated

import msgspec

from coterie.network.addresses import MOST_CHARACTERS
from coterie.network.discovery.announcement import MOST_BYTES
from coterie.network.messages import Message, message

MOST_ANNOUNCEMENTS = 64
MOST_HEARD = 64


class Heard(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The teller's word that it dialled ``peer`` at ``address`` and found it."""

    peer: Annotated[str, msgspec.Meta(min_length=64, max_length=64)]
    address: Annotated[str, msgspec.Meta(max_length=MOST_CHARACTERS)]


@message
class Addresses(Message, frozen=True):
    """Addresses of members, of the teller among them. ``Discovery.tell`` makes one, ``Discovery.told`` checks one."""

    announcements: Annotated[
        tuple[Annotated[bytes, msgspec.Meta(max_length=MOST_BYTES)], ...], msgspec.Meta(max_length=MOST_ANNOUNCEMENTS)
    ]
    """Each as ``Announcement.encode`` gives it."""
    heard: Annotated[tuple[Heard, ...], msgspec.Meta(max_length=MOST_HEARD)]
