"""Merkle trees against published vectors and against the definition in RFC 6962, section 2.1, by recursion."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.errors import LedgerError
from coterie.ledger import merkle

# the vectors that the reference implementation of certificate transparency tests itself with
LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
PATHS = {
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
    (0, 1): [],
}
trees = st.lists(st.binary(max_size=40), min_size=1, max_size=40)


def split(size):
    """The largest power of two below ``size``."""
    half = 1
    while half * 2 < size:
        half *= 2
    return half


def root_by_definition(leaves):
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    half = split(len(leaves))
    return hashlib.sha256(b"\x01" + root_by_definition(leaves[:half]) + root_by_definition(leaves[half:])).digest()


def path_by_definition(leaves, index):
    if len(leaves) == 1:
        return []
    half = split(len(leaves))
    if index < half:
        return [*path_by_definition(leaves[:half], index), root_by_definition(leaves[half:])]
    return [*path_by_definition(leaves[half:], index - half), root_by_definition(leaves[:half])]


@pytest.mark.parametrize("size", range(9))
def test_published_roots(size):
    assert merkle.tree_hash(LEAVES[:size]).hex() == ROOTS[size]


@pytest.mark.parametrize(("index", "size"), PATHS)
def test_published_paths(index, size):
    assert [node.hex() for node in merkle.proof(LEAVES[:size], index)] == PATHS[index, size]


@settings(deadline=None)
@given(trees, st.data())
def test_roots_and_paths_are_those_of_the_definition(leaves, data):
    root = merkle.tree_hash(leaves)
    assert root == root_by_definition(leaves)
    index = data.draw(st.integers(0, len(leaves) - 1))
    path = merkle.proof(leaves, index)
    assert path == path_by_definition(leaves, index)
    assert merkle.verify(leaves[index], index, len(leaves), path, root)


@settings(deadline=None)
@given(st.integers(1, 40), st.data())
def test_a_proof_is_of_one_leaf_at_one_place_in_one_tree(size, data):
    leaves = [bytes([number]) for number in range(size)]
    root, index = merkle.tree_hash(leaves), data.draw(st.integers(0, size - 1))
    path = merkle.proof(leaves, index)
    for other in range(-1, size + 2):
        assert merkle.verify(leaves[index], other, size, path, root) == (other == index)
    for leaf in (b"", leaves[index] + b"\0", leaves[index - 1] if size > 1 else b"x"):
        assert not merkle.verify(leaf, index, size, path, root)
    assert not merkle.verify(leaves[index], index, size, path, merkle.tree_hash([*leaves, b"more"]))
    assert not merkle.verify(leaves[index], index, size, [*path, bytes(32)], root)
    assert not merkle.verify(leaves[index], index, 0, path, root)
    if path:
        assert not merkle.verify(leaves[index], index, size, path[:-1], root)
        assert not merkle.verify(leaves[index], index, size, path[1:], root)
        at, bit = data.draw(st.integers(0, len(path) - 1)), data.draw(st.integers(0, 255))
        node = bytearray(path[at])
        node[bit // 8] ^= 1 << bit % 8
        assert not merkle.verify(leaves[index], index, size, [*path[:at], bytes(node), *path[at + 1 :]], root)
        assert not merkle.verify(leaves[index], index, size, [*path[:at], path[at] + b"\0", *path[at + 1 :]], root)


def test_a_node_does_not_pass_for_a_leaf():
    """The second preimage that the prefixes prevent: a leaf made of two hashes would have the same root."""
    hashes = [hashlib.sha256(b"\x00" + leaf).digest() for leaf in LEAVES[:4]]
    nodes = [hashlib.sha256(b"\x01" + hashes[i] + hashes[i + 1]).digest() for i in (0, 2)]
    root = merkle.tree_hash(LEAVES[:4])
    for forged in ([hashes[0] + hashes[1], hashes[2] + hashes[3]], nodes, [nodes[0] + nodes[1]]):
        assert merkle.tree_hash(forged) != root
    assert not merkle.verify(hashes[0] + hashes[1], 0, 2, [nodes[1]], root)
    assert not merkle.verify(b"\x01" + hashes[0] + hashes[1], 0, 2, [nodes[1]], root)


@pytest.mark.parametrize("index", [-1, 3])
def test_there_is_no_proof_of_a_leaf_that_is_not_there(index):
    with pytest.raises(LedgerError, match="no leaf"):
        merkle.proof([b"a", b"b", b"c"], index)
