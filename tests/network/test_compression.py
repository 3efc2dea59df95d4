"""Each encoding against numpy's own arithmetic in double precision, and its bounds as stated."""

import contextlib
import struct

import numpy as np
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from coterie.errors import MessageError
from coterie.network.compression import BLOCK, CHUNK_ELEMENTS, by_code, encoding, encodings

NAMES = ["none", "fp16", "int8", "zstd"]
FLOATS = hnp.arrays(
    np.float32, st.integers(1, 3 * BLOCK), elements=st.floats(width=32, allow_nan=True, allow_infinity=True)
)
FINITE = hnp.arrays(
    np.float32, st.integers(1, 3 * BLOCK), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
)
MOST, LEAST = np.finfo(np.float32).max, np.float32(2**-149)


def there_and_back(name, elements):
    kind = encoding(name)
    data = kind.encode(elements)
    assert kind.admits(len(data), len(elements))
    out = np.full(len(elements), 7.0, dtype=np.float32)
    kind.decode(data, out)
    return out, len(data)


@pytest.mark.parametrize("name", ["none", "zstd"])
@settings(max_examples=60, deadline=None)
@given(elements=FLOATS)
def test_lossless_ones_keep_every_bit(name, elements):
    out, _ = there_and_back(name, elements)
    assert out.tobytes() == elements.tobytes()


@settings(max_examples=200, deadline=None)
@given(FLOATS)
@example(np.array([65504, 65519.99, 65520, 1e38, -1e38, np.inf, -np.inf, np.nan, 0, -0.0, 2**-24, 2**-25, 1e-40], "f4"))
def test_half_precision_is_within_its_bound(elements):
    out, nbytes = there_and_back("fp16", elements)
    assert nbytes == 2 * len(elements)
    exact = elements.astype(np.float64)
    finite = np.isfinite(exact)
    assert np.array_equal(np.isnan(out), np.isnan(exact))
    assert np.array_equal(out[np.isinf(exact)], elements[np.isinf(exact)])
    large = finite & (np.abs(exact) > 65504)
    assert np.array_equal(out[large], np.copysign(65504, exact[large]))
    within = finite & ~large
    error = np.abs(out[within].astype(np.float64) - exact[within])
    bound = np.where(np.abs(exact[within]) >= 2.0**-14, np.abs(exact[within]) * 2.0**-11, 2.0**-25)
    assert (error <= bound).all()


@settings(max_examples=200, deadline=None)
@given(FINITE)
@example(np.array([MOST, -MOST, 1], "f4"))
@example(np.array([LEAST, 0, -3 * LEAST], "f4"))
@example(np.linspace(-MOST, MOST, 600, dtype=np.float32))
@example(np.zeros(1, "f4"))
def test_eight_bits_are_within_half_a_scale(elements):
    out, nbytes = there_and_back("int8", elements)
    assert nbytes == len(elements) + 4 * -(-len(elements) // BLOCK)
    for start in range(0, len(elements), BLOCK):
        exact = elements[start : start + BLOCK].astype(np.float64)
        scale = np.abs(exact).max() / 127
        error = np.abs(out[start : start + BLOCK].astype(np.float64) - exact)
        assert error.max() <= (1 + 2.0**-16) * scale / 2 + 2.0**-142


@settings(max_examples=100, deadline=None)
@given(FLOATS)
def test_what_is_not_finite_is_nan_after_eight_bits_and_harms_no_other(elements):
    out, _ = there_and_back("int8", elements)
    finite = np.isfinite(elements)
    assert np.array_equal(np.isnan(out), ~finite)
    alone, _ = there_and_back("int8", np.where(finite, elements, np.float32(0)))
    assert np.array_equal(out[finite], alone[finite])


def test_eight_bits_by_hand():
    elements = np.array([1.27, -0.635, 0.004, 0.0], dtype=np.float32)
    data = encoding("int8").encode(elements)
    assert data == struct.pack("<f", np.float32(np.float64(elements[0]) / 127)) + bytes([127, 256 - 64, 0, 0])


def test_trained_weights_get_smaller():
    elements = (np.random.default_rng(1).standard_normal(CHUNK_ELEMENTS) * 0.05).astype(np.float32)
    sizes = {name: there_and_back(name, elements)[1] for name in NAMES}
    assert sizes["fp16"] == sizes["none"] / 2
    assert sizes["int8"] == pytest.approx(sizes["none"] / 4, rel=0.02)
    assert sizes["zstd"] < 0.95 * sizes["none"]


def test_noise_fits_what_a_chunk_may_have():
    bits = np.random.default_rng(2).integers(0, 1 << 32, CHUNK_ELEMENTS, dtype=np.uint32)
    out, nbytes = there_and_back("zstd", bits.view(np.float32))
    assert out.tobytes() == bits.tobytes()
    assert nbytes > 0.99 * bits.nbytes


def test_a_chunk_of_another_length_is_not_admitted():
    for name, right in (("none", 40), ("fp16", 20), ("int8", 14)):
        assert [n for n in range(60) if encoding(name).admits(n, 10)] == [right]
    assert not encoding("zstd").admits(0, 10)
    assert not encoding("zstd").admits(4 * CHUNK_ELEMENTS + 8192 + 65, CHUNK_ELEMENTS)


def test_bombs_and_noise_are_refused():
    out = np.empty(10, dtype=np.float32)
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    nameless = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(40))
    for data in (bomb, nameless, b"", b"noise" * 4, encoding("zstd").encode(out) + b"x"):
        with pytest.raises(MessageError):
            encoding("zstd").decode(data, out)
    lying = bytearray(zstandard.ZstdCompressor().compress(bytes(41)))
    lying[5] = 40  # the size that the frame states
    with pytest.raises(MessageError):
        encoding("zstd").decode(bytes(lying), out)
    for scale in (float("nan"), float("inf"), -1.0):
        with pytest.raises(MessageError, match="scale"):
            encoding("int8").decode(struct.pack("<f", scale) + bytes(10), out)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80))
def test_noise_never_raises_anything_else(data):
    out = np.empty(8, dtype=np.float32)
    for name in NAMES:
        kind = encoding(name)
        if kind.admits(len(data), 8):
            with contextlib.suppress(MessageError):
                kind.decode(data, out)


def test_encodings_by_name_and_number():
    assert [e.name for e in encodings()] == NAMES
    assert [e.name for e in encodings(["int8", "unheard of", "none"])] == ["none", "int8"]
    assert [by_code(code).name for code in range(4)] == NAMES
    assert by_code(4) is None
    assert [encoding(name).lossy for name in NAMES] == [False, True, True, False]
