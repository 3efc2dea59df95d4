"""Announcements: what a peer signed is read back, and nothing else is read."""

import hashlib
import hmac
import struct

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey, VerifyKey

from coterie.errors import MessageError, NetworkError
from coterie.identity import Identity
from coterie.network.codec import WIRE_VERSION
from coterie.network.discovery import Address, Announcement, Rendezvous, dht_seed
from coterie.network.discovery.announcement import MOST_BYTES, MOST_ENDPOINTS, SKEW_SECONDS, VALID_SECONDS
from coterie.network.discovery.dht import MOST_RECORD_BYTES
from coterie.network.discovery.table import signing_key

GENESIS, OTHER_GENESIS = b"g" * 32, b"h" * 32
ONE, TWO = Identity.from_seed(b"1" * 32), Identity.from_seed(b"2" * 32)
NOW = 1_800_000_000.0
ENDPOINTS = (Address.parse("hospital.example:7000"), Address.parse("[2001:db8::7]:7001"))


def make(identity=ONE, genesis=GENESIS, endpoints=ENDPOINTS, sequence=5, time=NOW):
    return Announcement.make(identity, genesis, endpoints, sequence, time)


def hkdf(key, info, length):
    """RFC 5869 with SHA-256 and no salt."""
    extracted = hmac.digest(bytes(32), key, "sha256")
    output, block = b"", b""
    for counter in range(1, 9):
        block = hmac.digest(extracted, block + info + bytes([counter]), "sha256")
        output += block
    return output[:length]


def resigned(announcement, identity=ONE, genesis=GENESIS, **changes):
    """The announcement with changes, signed properly: what a faulty or lying peer may send. Signed by another path."""
    changed = msgspec.structs.replace(announcement, **changes)
    fields = [getattr(changed, name) for name in changed.__struct_fields__[:-1]]
    framed = b"coterie" + struct.pack(">H", 7) + b"address" + genesis + msgspec.msgpack.encode(fields)
    seed = {ONE.id: b"1" * 32, TWO.id: b"2" * 32}[identity.id]
    return msgspec.structs.replace(changed, signature=SigningKey(seed).sign(framed).signature)


def refused(data, why, genesis=GENESIS, now=NOW):
    with pytest.raises(MessageError, match=why):
        Announcement.decode(data, genesis, now)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 65535), min_size=1, max_size=MOST_ENDPOINTS, unique=True), st.integers(0, (1 << 53) - 1))
def test_round_trip(ports, sequence):
    endpoints = [Address.of("a.example", port) for port in ports]
    sent = make(endpoints=endpoints, sequence=sequence)
    read = Announcement.decode(sent.encode(), GENESIS, NOW)
    assert read == sent
    assert (read.peer, read.addresses, read.sequence) == (ONE.id, tuple(endpoints), sequence)
    assert (read.wire_version, read.time) == (WIRE_VERSION, int(NOW * 1000))
    assert len(sent.encode()) <= MOST_BYTES


def test_signed_as_the_docstring_says():
    sent = make()
    assert resigned(sent) == sent
    VerifyKey(sent.dht_key)
    assert sent.dht_key == bytes(SigningKey(dht_seed(ONE, GENESIS)).verify_key)


def test_of_another_federation_or_another_peer():
    data = make().encode()
    refused(data, "not signed", genesis=OTHER_GENESIS)
    forged = msgspec.structs.replace(make(identity=TWO), peer=ONE.id)
    refused(forged.encode(), "not signed")
    refused(resigned(make(), TWO).encode(), "not signed")


def test_age():
    data = make().encode()
    for now in (NOW - SKEW_SECONDS, NOW + VALID_SECONDS):
        assert Announcement.decode(data, GENESIS, now).sequence == 5
    for now in (NOW - SKEW_SECONDS - 1, NOW + VALID_SECONDS + 1):
        refused(data, "too old, or of the future", now=now)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_mutation_is_read(data):
    sent = make().encode()
    where = data.draw(st.integers(0, len(sent) - 1))
    how = data.draw(st.sampled_from(["flip", "cut", "insert", "double"]))
    if how == "flip":
        changed = sent[:where] + bytes([sent[where] ^ data.draw(st.integers(1, 255))]) + sent[where + 1 :]
    elif how == "cut":
        changed = sent[:where]
    elif how == "insert":
        changed = sent[:where] + data.draw(st.binary(min_size=1, max_size=4)) + sent[where:]
    else:
        changed = sent + sent[where:]
    if changed != sent:
        refused(changed, "announcement")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=1100))
@example(b"")
@example(bytes([0x91]) * 900)
@example(bytes([0xDD, 0xFF, 0xFF, 0xFF, 0xFF]))
def test_no_noise_is_read(data):
    refused(data, "announcement")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"endpoints": ("hospital.example:0",)}, "an address that is none"),
        ({"endpoints": ("HOSPITAL.example:7",)}, "an address that is none"),
        ({"endpoints": ("[2001:0db8::7]:7",)}, "an address that is none"),
        ({"endpoints": ("224.0.0.1:7",)}, "an address that is none"),
        ({"endpoints": ("a.example:7", "a.example:7")}, "twice"),
        ({"endpoints": ()}, "not an announcement"),
        ({"endpoints": tuple(f"a.example:{port}" for port in range(1, MOST_ENDPOINTS + 2))}, "not an announcement"),
        ({"endpoints": ("a" * 260 + ":7",)}, "not an announcement"),
        ({"endpoints": tuple(f"{'a.' * 100}b:{port}" for port in range(1, 6))}, "too long"),
        ({"wire_version": -1}, "not an announcement"),
        ({"wire_version": 1 << 16}, "not an announcement"),
        ({"sequence": 1 << 53}, "not an announcement"),
        ({"sequence": -1}, "not an announcement"),
        ({"time": 1 << 60}, "not an announcement"),
        ({"dht_key": b"k" * 31}, "not an announcement"),
    ],
)
def test_signed_but_wrong(changes, why):
    refused(resigned(make(), **changes).encode(), why)


def test_another_encoding_of_the_same_is_refused():
    sent = make(sequence=5)
    fields = [getattr(sent, name) for name in sent.__struct_fields__]
    body = msgspec.msgpack.encode(fields)
    assert body == sent.encode()
    wide = body.replace(bytes([WIRE_VERSION, 5, 0xCF]), bytes([WIRE_VERSION, 0xCC, 5, 0xCF]))  # 5 as an uint8
    assert len(wide) == len(body) + 1
    assert msgspec.msgpack.decode(wide) == msgspec.msgpack.decode(body)
    refused(wide, "canonically")
    refused(b"\xdc\x00\x07" + body[1:], "canonically")  # array 16


def test_too_many_or_too_long_endpoints_are_the_operators_mistake():
    for endpoints in ([], [Address.of("a.example", port) for port in range(1, MOST_ENDPOINTS + 2)]):
        with pytest.raises(NetworkError, match="do not fit"):
            make(endpoints=endpoints)
    with pytest.raises(NetworkError, match="do not fit"):
        make(endpoints=[Address.of("a" + ".b" * 120, port) for port in range(1, 6)])


def test_a_sealed_announcement_fits_into_an_item():
    rendezvous = Rendezvous(GENESIS)
    sealed = rendezvous.seal(b"x" * MOST_BYTES)
    assert len(sealed) == MOST_RECORD_BYTES
    assert len(str(len(sealed))) + 1 + len(sealed) == 1000  # bencoded


# What is derived


def test_derived_values_against_rfc_5869():
    rendezvous = Rendezvous(GENESIS)
    assert rendezvous.info_hash == hkdf(GENESIS, b"coterie rendezvous info-hash", 20)
    assert rendezvous.salt(b"k" * 32) == hkdf(GENESIS, b"coterie rendezvous salt" + b"k" * 32, 16)
    info = b"coterie" + struct.pack(">H", 8) + b"dht item" + GENESIS
    assert dht_seed(ONE, GENESIS) == hkdf(b"1" * 32, info, 32)


def test_hkdf_here_is_that_of_the_rfc():
    """RFC 5869, appendix A.3."""
    expected = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    assert hkdf(b"\x0b" * 22, b"", 42).hex() == expected


def test_derived_values_differ():
    mine, theirs = Rendezvous(GENESIS), Rendezvous(OTHER_GENESIS)
    seeds = {dht_seed(identity, genesis) for identity in (ONE, TWO) for genesis in (GENESIS, OTHER_GENESIS)}
    assert len(seeds | {b"1" * 32, b"2" * 32}) == 6
    assert len({mine.info_hash, theirs.info_hash}) == 2
    assert len({r.salt(key) for r in (mine, theirs) for key in (b"k" * 32, b"l" * 32)}) == 4
    with pytest.raises(NetworkError):
        Rendezvous(b"short")


def test_what_storing_nodes_see_tells_nothing():
    sealed = [Rendezvous(GENESIS).seal(make().encode()) for _ in range(2)]
    assert sealed[0] != sealed[1]
    for clear in (ONE.id.encode(), bytes.fromhex(ONE.id), b"hospital", GENESIS, make().dht_key):
        assert clear not in sealed[0]


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 10_000), st.integers(1, 255))
def test_seal(record, where, bits):
    rendezvous = Rendezvous(GENESIS)
    sealed = rendezvous.seal(record)
    assert rendezvous.open(sealed) == record
    where %= len(sealed)
    broken = sealed[:where] + bytes([sealed[where] ^ bits]) + sealed[where + 1 :]
    for data, by in (
        (broken, rendezvous),
        (sealed, Rendezvous(OTHER_GENESIS)),
        (sealed[:20], rendezvous),
        (b"", rendezvous),
    ):
        with pytest.raises(MessageError):
            by.open(data)


def test_the_expanded_key_signs_as_the_seed():
    """Against libsodium: the scalar of the expanded key gives the seed's public key (RFC 8032, section 5.1.5)."""
    from nacl.bindings import crypto_scalarmult_ed25519_base_noclamp

    seed = hashlib.sha256(b"seed").digest()
    key = signing_key(seed)
    assert len(key) == 64
    order = (1 << 252) + 27742317777372353535851937790883648493
    scalar = (int.from_bytes(key[:32], "little") % order).to_bytes(32, "little")
    assert crypto_scalarmult_ed25519_base_noclamp(scalar) == bytes(SigningKey(seed).verify_key)
