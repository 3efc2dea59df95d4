"""Merkle trees over a block's records: RFC 6962, section 2.1, with SHA-256.

    leaf hash        SHA-256(0x00 || leaf)
    node hash        SHA-256(0x01 || left || right)
    of no leaves     SHA-256()

The prefixes keep a node from passing for a leaf (a second preimage). A tree of n leaves splits at the largest power of
two below n, which is the same as pairing neighbours level by level and moving an odd last one up as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from coterie.errors import LedgerError


def tree_hash(leaves: Sequence[bytes]) -> bytes:
    """The Merkle tree hash of ``leaves``, 32 bytes."""
    level = [_leaf(leaf) for leaf in leaves]
    if not level:
        return hashlib.sha256().digest()
    while len(level) > 1:
        level = _above(level)
    return level[0]


def proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The audit path of leaf ``index`` (section 2.1.1): the hashes beside its way to the root, lowest first.

    Raises LedgerError where there is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise LedgerError(f"no leaf {index} in a tree of {len(leaves)}")
    level, path = [_leaf(leaf) for leaf in leaves], []
    while len(level) > 1:
        beside = index ^ 1
        if beside < len(level):
            path.append(level[beside])
        level, index = _above(level), index // 2
    return path


def verify(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether ``path`` proves that ``leaf`` is number ``index`` of the ``size`` leaves under ``root``.

    The path's length follows from index and size; another length proves nothing. ``size`` itself must come from where
    the root comes from: a root does not say how many leaves it has.
    """
    if not 0 <= index < size:
        return False
    found, last, rest = _leaf(leaf), size - 1, list(path)
    while last:
        if index % 2 or index < last:
            if not rest:
                return False
            beside = rest.pop(0)
            found = _node(beside, found) if index % 2 else _node(found, beside)
        index, last = index // 2, last // 2
    return not rest and found == root


def _above(level: list[bytes]) -> list[bytes]:
    paired = [_node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
    return paired + level[len(level) - len(level) % 2 :]


def _leaf(leaf: bytes) -> bytes:
    return hashlib.sha256(b"\0" + leaf).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()
