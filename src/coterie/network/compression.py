"""Snapshots with fewer bytes on the wire: a chunk of float32 elements at a time, so that neither end holds more.

    none   little-endian float32, 4 bytes an element
    fp16   IEEE 754 binary16, 2 bytes. For |x| in [2^-14, 65504] the error is at most |x| 2^-11, below that 2^-25.
           Finite values beyond 65504 become 65504 with their sign; infinities and NaN stay what they are.
    int8   1 byte, and a float32 scale for each block of 256: s = max |x| / 127 of the block, q = round(x / s). The
           error is at most (1 + 2^-16) s / 2 + 2^-142. Values that are not finite become NaN; they do not count for
           the scale.
    zstd   lossless: the four bytes of all elements apart, then Zstandard (RFC 8878) at level 1.

A chunk's decoded size is known before it is decoded, and nothing beyond it is ever written: there is no bomb.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from coterie.errors import MessageError, RunError
from coterie.network.codec import CHUNK_BYTES
from coterie.network.extra import is_there, require

Compression: TypeAlias = Literal["none", "fp16", "int8", "zstd"]
Elements: TypeAlias = npt.NDArray[np.float32]

CHUNK_ELEMENTS = CHUNK_BYTES // 4
BLOCK = 256
_HALF_MOST = np.float32(65504)
_NOT_FINITE = -128
_ZSTD_LEVEL = 1


@dataclass(frozen=True)
class Encoding:
    """A way to write a chunk of at most ``CHUNK_ELEMENTS`` elements."""

    name: Compression
    code: int
    """Names it on the wire."""
    lossy: bool
    exact: Callable[[int], int] | None
    """Bytes of so many elements; None where that depends on them."""
    encode: Callable[[Elements], bytes]
    """The bytes of ``elements``, shape (n,)."""
    decode: Callable[[bytes, Elements], None]
    """Write the elements into an array of their number, or raise MessageError."""

    def admits(self, nbytes: int, elements: int) -> bool:
        """Whether a chunk of so many elements may have so many bytes."""
        if self.exact is not None:
            return nbytes == self.exact(elements)
        return 0 < nbytes <= 4 * elements + (4 * elements >> 7) + 64


def encoding(name: Compression) -> Encoding:
    """The encoding of this name. Raises NetworkError where the library it needs is not installed."""
    if name == "zstd":
        require("zstandard", "compression zstd")
    return _NAMES[name]


def encodings(names: Sequence[str] | None = None) -> tuple[Encoding, ...]:
    """Those that this process can decode; of them only the ones in ``names``, if given. Unknown names are skipped."""
    there = [e for e in _ALL if e.name != "zstd" or is_there("zstandard")]
    return tuple(e for e in there if names is None or e.name in names)


def _encode_half(elements: Elements) -> bytes:
    with np.errstate(over="ignore"):
        half = elements.astype("<f2")
    beyond = np.isinf(half) & np.isfinite(elements)
    if beyond.any():
        half[beyond] = np.copysign(_HALF_MOST, elements[beyond]).astype("<f2")
    return half.tobytes()


def _decode_half(data: bytes, out: Elements) -> None:
    out[:] = np.frombuffer(data, dtype="<f2")


def _blocks(elements: int) -> int:
    return -(-elements // BLOCK)


def _encode_int8(elements: Elements) -> bytes:
    blocks = np.zeros((_blocks(len(elements)), BLOCK), dtype=np.float32)
    blocks.reshape(-1)[: len(elements)] = elements
    broken = ~np.isfinite(blocks)
    any_broken = bool(broken.any())
    if any_broken:
        blocks[broken] = 0
    # In double precision: neither the quotient nor 127 times the scale overflows.
    scales = (np.abs(blocks).max(axis=1) / np.float64(127)).astype("<f4")
    inverse = np.divide(1.0, scales, out=np.zeros(len(scales)), where=scales > 0, dtype=np.float64)
    steps = np.clip(np.rint(blocks * inverse[:, None]), -127, 127).astype(np.int8)
    if any_broken:
        steps[broken] = _NOT_FINITE
    data: bytes = scales.tobytes() + steps.reshape(-1)[: len(elements)].tobytes()
    return data


def _decode_int8(data: bytes, out: Elements) -> None:
    count = _blocks(len(out))
    scales = np.frombuffer(data, dtype="<f4", count=count)
    if not (np.isfinite(scales) & (scales >= 0)).all():
        raise MessageError("a scale is not a finite number of at least 0")
    steps = np.frombuffer(data, dtype=np.int8, offset=4 * count)
    values = np.repeat(scales.astype(np.float64), BLOCK)[: len(out)] * steps
    np.clip(values, -np.finfo(np.float32).max, np.finfo(np.float32).max, out=values)
    out[:] = values
    out[steps == _NOT_FINITE] = np.nan


def _encode_zstd(elements: Elements) -> bytes:
    import zstandard

    planes = np.ascontiguousarray(elements.astype("<f4", copy=False).view(np.uint8).reshape(-1, 4).T)
    return bytes(zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(planes.data))


def _decode_zstd(data: bytes, out: Elements) -> None:
    import zstandard

    try:
        # The library believes the size that a frame states, whatever else it is told.
        if zstandard.get_frame_parameters(data).content_size != 4 * len(out):
            raise MessageError("a compressed chunk is not of its stated size")
        decompressor = zstandard.ZstdDecompressor(max_window_size=2 * CHUNK_BYTES)
        planes = decompressor.decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise MessageError(f"not a compressed chunk: {error}") from None
    if len(planes) != 4 * len(out):
        raise MessageError("a compressed chunk is not of its stated size")
    out.view(np.uint8).reshape(-1, 4)[:] = np.frombuffer(planes, dtype=np.uint8).reshape(4, -1).T


def _decode_none(data: bytes, out: Elements) -> None:
    out[:] = np.frombuffer(data, dtype="<f4")


_ALL = (
    Encoding("none", 0, False, lambda n: 4 * n, lambda x: x.astype("<f4", copy=False).tobytes(), _decode_none),
    Encoding("fp16", 1, True, lambda n: 2 * n, _encode_half, _decode_half),
    Encoding("int8", 2, True, lambda n: n + 4 * _blocks(n), _encode_int8, _decode_int8),
    Encoding("zstd", 3, False, None, _encode_zstd, _decode_zstd),
)
_NAMES = {e.name: e for e in _ALL}
_CODES = {e.code: e for e in _ALL}


def by_code(code: int) -> Encoding | None:
    """The encoding that a frame names, if this process can decode it."""
    found = _CODES.get(code)
    return found if found in encodings() else None


if sys.byteorder != "little":
    raise RunError("this machine is big-endian", where="coterie.network", remedy="Use a little-endian one.")
