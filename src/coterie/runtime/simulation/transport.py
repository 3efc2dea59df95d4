"""An in-memory network with latency, bandwidth, loss, partitions and dead peers.

A frame waits until the sender's uplink is free, takes its length over the bandwidth, and arrives a latency later.
Lengths are those of the wire format; nothing is copied. A frame to a peer that is down fails as a refused connection
would; a lost or partitioned one just never arrives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from coterie.network import Frame
from coterie.network.transport import Receiver
from coterie.runtime.simulation.clock import VirtualLoop
from coterie.spec import NetworkTable, PartitionFault

_BITS = 8


@dataclass
class SimulatedNetwork:
    """The wires between all peers of a simulation. ``begin`` comes before anything is sent."""

    table: NetworkTable
    partitions: Sequence[PartitionFault]
    loop: VirtualLoop = field(init=False)
    random: Random = field(init=False)
    bytes_sent: dict[str, int] = field(default_factory=dict)
    frames_sent: int = 0
    _receivers: dict[str, Receiver] = field(default_factory=dict)
    _free_at: dict[str, float] = field(default_factory=dict)
    _groups: list[tuple[float, float, dict[str, int]]] = field(default_factory=list)

    def begin(self, loop: VirtualLoop, dice: Random) -> None:
        """Start afresh in another loop: nobody is connected and nothing is under way; the counters go on."""
        self.loop, self.random = loop, dice
        self._receivers, self._free_at = {}, {}

    def name_groups(self, ids: Mapping[int, str]) -> None:
        """Learn which peers the numbers in the spec's partitions mean; those in no group are together in one more."""
        for fault in self.partitions:
            side = {ids[i]: number for number, group in enumerate(fault.groups) for i in group if i in ids}
            self._groups.append((fault.at, fault.at + fault.seconds, side))

    def connect(self, peer: str, receiver: Receiver) -> Endpoint:
        """Bring a peer up; frames go to ``receiver``."""
        self._receivers[peer] = receiver
        self.bytes_sent.setdefault(peer, 0)
        return Endpoint(self, peer)

    def disconnect(self, peer: str) -> None:
        """The peer is down; frames to it fail."""
        self._receivers.pop(peer, None)

    def post(self, sender: str, to: str, frame: Frame, failed: Callable[[], None]) -> None:
        now, nbytes = self.loop.time(), frame.nbytes
        self.bytes_sent[sender] += nbytes
        self.frames_sent += 1
        sent = max(now, self._free_at.get(sender, 0.0)) + nbytes * _BITS / (self.table.bandwidth_mbps * 1e6)
        self._free_at[sender] = sent
        latency = self.table.latency_ms / 1e3 * (1 + self.table.jitter * self.random.random())
        if self.table.loss and self.random.random() < self.table.loss:
            return
        self.loop.at(sent + latency, self._arrive, sender, to, frame, failed)

    def _arrive(self, sender: str, to: str, frame: Frame, failed: Callable[[], None]) -> None:
        if self._parted(sender, to):
            return
        receiver = self._receivers.get(to)
        if receiver is None:
            failed()
        else:
            receiver(sender, frame)

    def _parted(self, one: str, other: str) -> bool:
        now = self.loop.time()
        return any(start <= now < end and side.get(one, -1) != side.get(other, -1) for start, end, side in self._groups)


@dataclass(frozen=True)
class Endpoint:
    """One peer's end of the simulated network."""

    network: SimulatedNetwork
    peer: str

    def post(self, to: str, frame: Frame, failed: Callable[[], None]) -> None:
        self.network.post(self.peer, to, frame, failed)

    def since_bytes(self, peer: str) -> float:
        return float("inf")  # frames come whole

    @property
    def bytes_sent(self) -> int:
        return self.network.bytes_sent[self.peer]
