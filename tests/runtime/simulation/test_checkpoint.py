"""What a checkpoint can hold comes back as it was."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coterie.errors import PluginError
from coterie.runtime.work.memory import Arena, SharedMemory, SharedSnapshot
from coterie.runtime.work.packing import Packer, Unpacker

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
KEYS = st.integers() | st.text() | st.tuples(st.integers(), st.text())
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(KEYS, inner),
    max_leaves=20,
)


def there_and_back(value: Any, arena: Arena) -> Any:
    packer = Packer(arena, "run.checkpoint_every")
    wire = msgspec.msgpack.decode(msgspec.msgpack.encode(packer.pack(value, "a test")))
    copies = {name: tensor.clone() for name, tensor in packer.tensors.items()}
    return Unpacker(arena, "hash", copies).unpack(wire)


def types(value: Any) -> Any:
    """The value with the type of each part beside it: 1 == True == 1.0, but they are not the same."""
    if isinstance(value, dict):
        return [(types(key), types(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [types(item) for item in value]
    return type(value), value


@given(VALUES)
def test_plain_values_come_back_with_their_types(value: Any) -> None:
    arena = Arena(SharedMemory(), 4, 2)
    assert types(there_and_back(value, arena)) == types(value)


def test_tensors_arrays_and_numpy_scalars() -> None:
    arena = Arena(SharedMemory(), 4, 2)
    given = {
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "columns": torch.arange(6.0).view(2, 3).t(),
        "empty": torch.zeros(0, 3),
        "counts": np.array([[1, 2], [3, 4]], dtype=np.uint8),
        "share": np.float32(0.1),
        "many": np.int64(2**40),
    }
    back = there_and_back(given, arena)
    for key, value in given.items():
        assert type(back[key]) is type(value)
        assert back[key].dtype == value.dtype
        assert back[key].shape == value.shape
        assert bool((back[key] == value).all())


def test_a_snapshot_held_twice_is_one_again() -> None:
    arena = Arena(SharedMemory(), 4, 8)
    snapshot = SharedSnapshot(arena, "hash")
    snapshot.tensor().copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    back = there_and_back({"vector": snapshot, "again": [snapshot]}, arena)
    assert back["vector"] is back["again"][0]
    assert back["vector"].block != snapshot.block
    assert back["vector"].tensor().tolist() == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("value", [{1, 2}, object(), [lambda: 0], {"a": 1 + 2j}, np.array(["text"]), range(3)])
def test_what_it_cannot_hold_is_named(value: Any) -> None:
    with pytest.raises(PluginError, match="cannot be saved"):
        Packer(Arena(SharedMemory(), 4, 2), "here").pack(value, "the store of peer-3")
