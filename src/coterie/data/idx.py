"""The IDX format, in which MNIST and its relatives are published.

Two zero bytes, the element type, the number of axes, each length as a big-endian 32-bit integer, then the elements.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from coterie.errors import DataError

_UNSIGNED_BYTE = 0x08
_LARGEST = 2**34
_DAMAGED = "Get the file again: it is damaged or of another format."


def read_idx(path: Path, axes: int) -> npt.NDArray[np.uint8]:
    """The uint8 array with so many ``axes`` in the IDX file at ``path``, gzipped or not.

    Raises DataError naming ``path`` for a file that cannot be read, is cut short, goes on after its last element, is
    of another type than unsigned byte, or has another number of axes.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else path.open("rb") as file:
            magic = file.read(4)
            if len(magic) < 4 or magic[:2] != b"\0\0":
                raise DataError("this is not an IDX file", where=str(path), remedy=_DAMAGED)
            if magic[2] != _UNSIGNED_BYTE or magic[3] != axes:
                raise DataError(
                    f"elements of type 0x{magic[2]:02x} on {magic[3]} axes; expected 0x08 (unsigned byte) on {axes}",
                    where=str(path),
                    remedy="Check that the files are not mixed up.",
                )
            lengths = file.read(4 * axes)
            shape = tuple(int.from_bytes(lengths[i : i + 4], "big") for i in range(0, len(lengths), 4))
            size = math.prod(shape)
            if len(lengths) < 4 * axes or size > _LARGEST:
                raise DataError("its header is damaged", where=str(path), remedy=_DAMAGED)
            content = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:  # gzip.BadGzipFile is an OSError
        raise DataError(f"cannot be read: {error}", where=str(path), remedy=_DAMAGED) from None
    if len(content) != size:
        extent = "goes on after" if len(content) > size else f"ends {size - len(content)} bytes before"
        raise DataError(f"the file {extent} the last element of {shape}", where=str(path), remedy=_DAMAGED)
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)
