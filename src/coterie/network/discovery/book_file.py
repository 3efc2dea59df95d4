"""The address book on disk: a JSON file, replaced whole. It may be lost: everything in it can be found again."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from coterie.errors import CoterieError
from coterie.files import write_file, writing
from coterie.identity import is_peer_id
from coterie.network.addresses import Address
from coterie.network.discovery.announcement import Announcement
from coterie.network.discovery.book import AddressBook, Entry, Source

SCHEMA = "coterie.addresses/1"
_log = logging.getLogger(__name__)


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    peer: str
    address: str
    source: Source
    said: float
    teller: str | None
    worked: float | None
    failed: float | None
    failures: int


class _File(msgspec.Struct, forbid_unknown_fields=True):
    schema: str
    announcements: list[bytes]
    addresses: list[_Line]


def save_book(book: AddressBook, path: Path) -> None:
    """Write the book, its configured addresses too. Raises OutputError."""
    lines = [
        _Line(peer, str(address), e.source, e.said, e.teller, e.worked, e.failed, e.failures)
        for peer, entries in sorted(book.entries.items())
        for address, e in sorted(entries.items())
    ]
    announcements = [announcement.encode() for _, announcement in sorted(book.announcements.items())]
    content = msgspec.json.encode(_File(SCHEMA, announcements, lines))
    with writing(path, "the address book"):
        write_file(path, msgspec.json.format(content, indent=1) + b"\n", mode=0o600)


def load_book(book: AddressBook, path: Path, genesis: bytes, now: float) -> None:
    """Fill ``book`` from a file, as far as it can be read; a warning is logged where it cannot.

    What the operator had configured counts as hearsay now: what is configured today is said anew. Announcements are
    checked as those from elsewhere, so one that is too old, or a file of another federation, is left out. ``now``:
    seconds since 1970; what claims to be of the future is taken as of now.
    """
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
    except FileNotFoundError:
        return
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        _log.warning("%s: the address book cannot be read and is begun anew: %s", path, error)
        return
    if file.schema != SCHEMA:
        _log.warning("%s: the address book is of schema %.40r, not %r, and is begun anew", path, file.schema, SCHEMA)
        return
    left_out = 0
    for data in file.announcements:
        try:
            book.announced(Announcement.decode(data, genesis, now), now)
        except CoterieError:
            left_out += 1
    for line in file.addresses:
        try:
            _enter(book, line, now)
        except CoterieError:
            left_out += 1
    if left_out:
        _log.warning("%s: %d entries of the address book are out of date or not valid, and left out", path, left_out)


def _enter(book: AddressBook, line: _Line, now: float) -> None:
    address = Address.parse(line.address)
    if not is_peer_id(line.peer):
        return
    book.heard(line.peer, address, line.teller, min(line.said, now))
    entry: Entry | None = book.entries.get(line.peer, {}).get(address)
    if entry is not None:
        entry.worked = None if line.worked is None else min(line.worked, now)
        entry.failed = None if line.failed is None else min(line.failed, now)
        entry.failures = max(0, line.failures)
