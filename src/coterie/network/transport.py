"""What carries frames between peers. The simulation and real connections each bring one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from coterie.network.codec import Frame

Receiver = Callable[[str, Frame], None]
"""Called with the id of the sender, which the transport vouches for, and the frame."""


class Transport(Protocol):
    """One peer's end of the network."""

    def post(self, to: str, frame: Frame, failed: Callable[[], None]) -> None:
        """Send a frame; it may be lost. ``failed`` is called if it is known not to have arrived."""
        ...

    def since_bytes(self, peer: str) -> float:
        """Seconds since bytes of a snapshot that ``peer`` sends came in; infinite where that is not known.

        While one is on its way, other frames of that peer wait.
        """
        ...

    @property
    def bytes_sent(self) -> int:
        """Bytes this peer has put on the wire so far."""
        ...
