"""Swarm learning from a training script of your own: a callback, and what it says to the federation.

``coterie.SwarmCallback`` for loops of your own, ``coterie.swarm.keras.SwarmCallback`` for Keras's ``fit``, and
``coterie.swarm.hf.SwarmCallback`` for the Hugging Face Trainer.
"""

from coterie.swarm.callback import SwarmCallback
from coterie.swarm.session import CheckIn, Merged, Session, Terms

__all__ = ["SwarmCallback", "Session", "Terms", "CheckIn", "Merged"]
