"""Reading rows from an SQLite file that SQLite itself can no longer read: each leaf page on its own.

A page of a table's leaf holds whole rows, or their beginnings and the number of a page where they go on (file format:
https://www.sqlite.org/fileformat2.html, sections 1.5, 1.6 and 2.1). So rows can be had from any intact leaf, whatever
has become of the pages above it, and nothing else in the file need be believed. What comes out may be old, double or
nonsense: the caller takes only what is signed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_LEAF = 0x0D
_CELL = struct.Struct(">H")
_NUMBER = struct.Struct(">I")
_FILE_HEADER, _PAGE_HEADER = 100, 8


def last_columns(path: Path, page_bytes: int, most: int) -> Iterator[tuple[int, bytes]]:
    """Each row's id and last column, where that is a blob; rows longer than ``most`` bytes are passed over.

    Rows come by page. Never raises for what is in the file. Raises OSError.
    """
    with path.open("rb") as file:
        for number in range(1, path.stat().st_size // page_bytes + 1):
            page = _page(file, number, page_bytes)
            for row, payload in _payloads(file, page, _FILE_HEADER if number == 1 else 0, most):
                column = _last_column(payload)
                if column is not None:
                    yield row, column


def _page(file: BinaryIO, number: int, page_bytes: int) -> bytes:
    file.seek((number - 1) * page_bytes)
    return file.read(page_bytes)


def _payloads(file: BinaryIO, page: bytes, header: int, most: int) -> Iterator[tuple[int, bytes]]:
    """The rows of a page that looks like a table's leaf."""
    if page[header] != _LEAF:
        return
    (cells,) = _CELL.unpack_from(page, header + 3)
    first = header + _PAGE_HEADER
    for position in range(first, min(first + 2 * cells, len(page) - 1), 2):
        (start,) = _CELL.unpack_from(page, position)
        length, at = _varint(page, start)
        row, at = _varint(page, at)
        if 0 < length <= most:
            payload = _payload(file, page, at, length)
            if payload is not None:
                yield row, payload


def _payload(file: BinaryIO, page: bytes, at: int, length: int) -> bytes | None:
    """A row of ``length`` bytes that begins ``at`` in ``page`` and may go on in overflow pages (section 1.6)."""
    here = _local(length, len(page))
    payload = page[at : at + here]
    if len(payload) < here:
        return None
    where = page[at + here : at + here + _NUMBER.size]
    while len(payload) < length:
        if len(where) < _NUMBER.size or where == bytes(_NUMBER.size):
            return None
        more = _page(file, _NUMBER.unpack(where)[0], len(page))
        where, payload = more[: _NUMBER.size], payload + more[_NUMBER.size :]
    return payload[:length]


def _local(length: int, usable: int) -> int:
    """How much of a row is in the leaf itself."""
    if length <= usable - 35:
        return length
    least = (usable - 12) * 32 // 255 - 23
    best = least + (length - least) % (usable - 4)
    return best if best <= usable - 35 else least


def _last_column(payload: bytes) -> bytes | None:
    """A row is a header, the columns' types, and then the columns (section 2.1)."""
    end, at = _varint(payload, 0)
    if end > len(payload):
        return None
    before, kind = 0, 0
    while at < end:
        before += _column_bytes(kind)
        kind, at = _varint(payload, at)
    if kind < 12 or kind % 2:
        return None
    column = payload[end + before :]
    return column if len(column) == _column_bytes(kind) else None


def _column_bytes(kind: int) -> int:
    if kind < 12:
        return (0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0)[kind]
    return (kind - 12) // 2


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of one to nine bytes, and where it ends; zeros follow the end of ``data``."""
    value = 0
    for position in range(at, at + 8):
        byte = data[position] if position < len(data) else 0
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, position + 1
    return value << 8 | (data[at + 8] if at + 8 < len(data) else 0), at + 9
