"""What has been checked in this process already: no signature, and no block's records, are checked twice.

A signature check takes about 50 microseconds, a final block among n voters up to 3 n of them, and most arrive twice:
as votes first, in certificates later. What is remembered is the digest of key, purpose, content and signature together,
so nothing else passes for it. Simulated peers in one process share one memory.
"""

from __future__ import annotations

import hashlib
import struct
from collections import OrderedDict

from coterie.identity import PeerId, verify

_MOST_SIGNATURES = 1 << 16
_MOST_BLOCKS = 32


class Signatures:
    """A bounded memory: the oldest is forgotten, and is checked again when it comes again."""

    def __init__(self) -> None:
        self._good: OrderedDict[bytes, None] = OrderedDict()
        self._blocks: OrderedDict[tuple[bytes, bytes], object] = OrderedDict()

    def verify(self, signer: PeerId, purpose: str, content: bytes, signature: bytes) -> bool:
        """Whether ``signer`` signed ``content`` for ``purpose``; see ``coterie.identity.verify``."""
        text = f"{signer} {purpose}".encode()
        mark = hashlib.sha256(struct.pack(">II", len(text), len(signature)) + text + signature + content).digest()
        if mark in self._good:
            return True
        if not verify(signer, purpose, content, signature):
            return False
        self._good[mark] = None
        if len(self._good) > _MOST_SIGNATURES:
            self._good.popitem(last=False)
        return True

    def recall(self, key: tuple[bytes, bytes]) -> object:
        """What is remembered of a block, by the ids of its epoch's state and of the block itself; None for nothing."""
        return self._blocks.get(key)

    def remember(self, key: tuple[bytes, bytes], checked: object) -> None:
        """What was found out about a block."""
        self._blocks[key] = checked
        if len(self._blocks) > _MOST_BLOCKS:
            self._blocks.popitem(last=False)
