"""What records and blocks share: canonical msgpack. Each value has one encoding, and whoever reads it checks that.

Bytes read here come from other peers. Lengths, types and limits are checked, and any fault is a LedgerError.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec

from coterie.errors import LedgerError

Hash = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
"""SHA-256."""
Key = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
"""A peer id. Whether it is a point of the curve is seen when a signature is checked."""
Signature = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
Time = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
"""Milliseconds since 1970, by the author's clock: its word."""
Height = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]

T = TypeVar("T")


def pack(value: Any) -> bytes:
    """The one encoding of ``value``. Raises LedgerError for what msgpack cannot hold."""
    try:
        return _encoder.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise LedgerError(f"this cannot be encoded: {error}") from None


def parse(decoder: msgspec.msgpack.Decoder[T], data: bytes, what: str, most: int) -> T:
    """The value in ``data``, at most ``most`` bytes. Raises LedgerError, which says ``what`` was expected."""
    if len(data) > most:
        raise LedgerError(f"{what} of {len(data)} bytes is too long", remedy=f"At most {most} are read.")
    try:
        value = decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise LedgerError(f"not {what}: {error}") from None
    if _encoder.encode(value) != data:
        raise LedgerError(f"{what} is not encoded canonically")
    return value


_encoder = msgspec.msgpack.Encoder(order="sorted")
