"""A short name beside a peer id: easy to read aloud, not a secure identifier."""

from __future__ import annotations

import hashlib

from coterie.identity.keys import PeerId

_FIRST = """
amber brave bright calm civil clear crisp dapper early eager fair fleet fond frank gentle glad
golden grand hardy hazel honest humble jolly keen kind lively loyal lucid mellow merry mild neat
""".split()  # noqa: SIM905 - a list of words is easier to read without quotes
_SECOND = """
badger beaver bison camel condor crane curlew dolphin eagle egret falcon ferret finch gannet gecko heron
ibex jackal kestrel lemur lynx magpie marmot otter panda plover puffin raven robin salmon stoat walrus
""".split()  # noqa: SIM905 - as above


def short_name(peer: PeerId) -> str:
    """Such as ``calm-otter-3fa9``: 26 bits of SHA-256 of the id. Anybody can make a key with the same one."""
    digest = hashlib.sha256(peer.encode()).digest()
    return f"{_FIRST[digest[0] % 32]}-{_SECOND[digest[1] % 32]}-{digest[2:4].hex()}"
