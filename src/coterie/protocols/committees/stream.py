"""Uniform numbers from a beacon, the same for everybody: SHA-512 in counter mode, with no bias to small numbers."""

from __future__ import annotations

import hashlib
import struct
from typing import Protocol, TypeVar

T = TypeVar("T")


class Numbers(Protocol):
    """Where uniform numbers come from."""

    def below(self, bound: int) -> int:
        """A number from 0 to ``bound`` - 1, each with the same chance; ``bound`` is at least 1."""


class Stream:
    """The numbers that one ``beacon`` gives for one ``role``. Those of two roles have nothing to do with each other.

    Block i is SHA-512("coterie committee" || length of role || role || SHA-512(beacon) || i), with the length in 2
    bytes and i in 8, big-endian. A number takes the fewest bytes that hold bound - 1, and of them, big-endian, as many
    of the first bits as that has; it is taken again where it is not below the bound.
    """

    def __init__(self, beacon: bytes, role: str) -> None:
        name = role.encode()
        self._begin = hashlib.sha512(b"coterie committee" + struct.pack(">H", len(name)) + name)
        self._begin.update(hashlib.sha512(beacon).digest())
        self._blocks, self._bytes = 0, b""

    def below(self, bound: int) -> int:
        bits = (bound - 1).bit_length()
        size = (bits + 7) // 8
        while True:
            number = int.from_bytes(self._take(size), "big") >> (8 * size - bits)
            if number < bound:
                return number

    def _take(self, size: int) -> bytes:
        while len(self._bytes) < size:
            block = self._begin.copy()
            block.update(struct.pack(">Q", self._blocks))
            self._blocks, self._bytes = self._blocks + 1, self._bytes + block.digest()
        taken, self._bytes = self._bytes[:size], self._bytes[size:]
        return taken


def shuffled(items: list[T], numbers: Numbers) -> list[T]:
    """The items in a uniform order (Fisher and Yates)."""
    order = list(items)
    for last in range(len(order) - 1, 0, -1):
        other = numbers.below(last + 1)
        order[last], order[other] = order[other], order[last]
    return order
