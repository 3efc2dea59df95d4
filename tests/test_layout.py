"""Layouts: vectors meet only if everything about them agrees."""

import hashlib
import struct
from dataclasses import replace

import pytest
import torch

from coterie.errors import LayoutMismatch
from coterie.layout import Layout, Slot, Snapshot, digest_of, element_bytes, is_finite

WEIGHT = Slot("weight", (2, 3), (3, 1), "float32", 0)
BIAS = Slot("bias", (2,), (1,), "float32", 6)
LAYOUT = Layout((WEIGHT, BIAS), size=8, trainable=8)


@pytest.mark.parametrize(("shape", "size"), [((), 1), ((5,), 5), ((2, 3, 4), 24), ((3, 0), 0)])
def test_size_of_a_slot(shape, size):
    assert Slot("x", shape, (1,) * len(shape), "float32", 0).size == size


def test_hash_is_stable():
    """Other versions and other machines compute the same: it is on the wire and in the ledger."""
    assert LAYOUT.hash == "ca9eb9f312a51fb66d6ddfa3d1795c9f3ccdb0eea438b5c9edf7803060eb7a5f"
    assert Layout((WEIGHT, BIAS), size=8, trainable=8).hash == LAYOUT.hash


@pytest.mark.parametrize(
    "other",
    [
        replace(LAYOUT, slots=(BIAS, WEIGHT)),
        replace(LAYOUT, slots=(WEIGHT,)),
        replace(LAYOUT, size=9),
        replace(LAYOUT, trainable=6),
        *(
            replace(LAYOUT, slots=(replace(WEIGHT, **change), BIAS))
            for change in (
                {"name": "weights"},
                {"shape": (3, 2)},
                {"shape": (6,), "stride": (1,)},
                {"stride": (1, 2)},
                {"dtype": "float16"},
                {"offset": 2},
            )
        ),
    ],
)
def test_hash_covers_everything(other):
    assert other.hash != LAYOUT.hash
    LAYOUT.require(LAYOUT.hash, "here")
    with pytest.raises(LayoutMismatch) as caught:
        LAYOUT.require(other.hash, "peer 3, round 4")
    error = caught.value
    assert error.where == "peer 3, round 4"
    assert LAYOUT.hash[:12] in error.what
    assert other.hash[:12] in error.what
    assert "same model" in error.remedy


def test_a_snapshot_must_say_how_it_is_held():
    class Half(Snapshot):
        def tensor(self):
            return torch.zeros(1)

    with pytest.raises(TypeError, match="digest"):
        Half()


def test_elements_are_hashed_in_little_endian_order_wherever_they_lie():
    rows = torch.arange(6, dtype=torch.float32).view(2, 3)
    for elements in (rows[1], rows[:, 1]):
        wanted = struct.pack(f"<{len(elements)}f", *elements.tolist())
        assert bytes(element_bytes(elements)) == wanted
        assert digest_of(elements) == hashlib.sha256(wanted).digest()


@pytest.mark.parametrize(
    ("elements", "finite"),
    [
        ([], True),
        ([1.0, -2.0], True),
        ([3e38, 3e38], True),
        ([3e38, 3e38, float("nan")], False),
        ([0.0, float("inf")], False),
        ([float("inf"), -float("inf")], False),
    ],
)
def test_elements_are_finite_also_where_their_sum_is_not(elements, finite):
    assert is_finite(torch.tensor(elements)) is finite
