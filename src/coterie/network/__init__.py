"""How bytes reach a peer: typed messages, their encoding, and what a transport must offer."""

from coterie.network.codec import Codec, Envelope, Frame, MemorySnapshot
from coterie.network.messages import Message, message
from coterie.network.transport import Transport

__all__ = ["Codec", "Envelope", "Frame", "MemorySnapshot", "Message", "Transport", "message"]
