"""Records: one encoding of each, and nothing but what its author has signed is taken."""

import hashlib
import struct

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_worlds import ANN, BOB, signed_by_hand
from nacl.signing import SigningKey

from coterie.errors import LedgerError
from coterie.identity import Identity
from coterie.ledger import Record, canonical
from coterie.ledger.records import MOST_BYTES, MOST_PARENTS

PARENTS = (hashlib.sha256(b"1").digest(), hashlib.sha256(b"2").digest())
RECORD = Record.make(ANN, "round", {"round": 3, "loss": 0.25, "who": ["ann", None, True], "raw": b"\0\xff"}, PARENTS, 5)
BODY = canonical({"a": 1})

leaves = (
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text(max_size=8) | st.binary(max_size=8)
)
leaves |= st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner))
contents = st.dictionaries(st.text(max_size=8), values, max_size=4)
hashes = st.binary(min_size=32, max_size=32)


def by_hand(*, kind="round", author=ANN.id, parents=(), time=5, body=BODY, identity=ANN):
    """A signed record of any fields, as bytes."""
    return signed_by_hand(identity, "record", (kind, author, parents, time, body))


def same(one, other):
    """Equal as content, with -0.0 and 0.0 told apart, and 1, 1.0 and True."""
    return repr(one) == repr(other)


@settings(deadline=None, max_examples=80)
@given(contents, st.sets(hashes, max_size=3), st.integers(0, (1 << 53) - 1))
def test_a_record_comes_back_as_it_was(content, parents, time):
    try:
        record = Record.make(ANN, "a kind", content, parents, time)
    except LedgerError as error:
        assert "nested deeper" in str(error)
        return
    again = Record.decode(record.encode())
    assert again == record
    assert again.encode() == record.encode()
    assert again.id == record.id
    assert same(again.content, dict(sorted(sort_maps(content).items())))
    assert again.parents == tuple(sorted(parents))
    again.check()


def sort_maps(value):
    if isinstance(value, dict):
        return {key: sort_maps(value[key]) for key in sorted(value)}
    return [sort_maps(item) for item in value] if isinstance(value, list) else value


def test_bytes_id_and_signature_are_those_of_the_definition():
    """Put together by hand from the msgpack specification, SHA-256 and Ed25519."""
    seed = bytes(range(32))
    record = Record.make(Identity.from_seed(seed), "round", {"b": 1, "a": -1.5}, [PARENTS[1], PARENTS[0]], 1 << 40)
    author = SigningKey(seed).verify_key.encode().hex().encode()
    body = b"\x82" + b"\xa1a\xcb" + struct.pack(">d", -1.5) + b"\xa1b\x01"
    both = b"".join(b"\xc4\x20" + parent for parent in sorted(PARENTS))
    fields = b"\xa5round" + b"\xd9\x40" + author + b"\x92" + both + b"\xcf" + struct.pack(">Q", 1 << 40)
    fields += b"\xc4" + bytes([len(body)]) + body
    signature = SigningKey(seed).sign(b"coterie\0\6record\x95" + fields).signature
    assert record.encode() == b"\x96" + fields + b"\xc4\x40" + signature
    assert record.id == hashlib.sha256(b"\x95" + fields).digest()


def test_every_bit_counts():
    data = RECORD.encode()
    for position in range(len(data)):
        for bit in range(8):
            mutated = bytearray(data)
            mutated[position] ^= 1 << bit
            with pytest.raises(LedgerError):
                Record.decode(bytes(mutated))


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_every_byte_counts(data):
    good = RECORD.encode()
    position = data.draw(st.integers(0, len(good) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != good[position]))
    with pytest.raises(LedgerError):
        Record.decode(good[:position] + bytes([byte]) + good[position + 1 :])


@settings(deadline=None, max_examples=150)
@given(
    st.binary(max_size=300)
    | st.builds(lambda cut, more: RECORD.encode()[:cut] + more, st.integers(0, 300), st.binary())
)
def test_other_bytes_are_refused(data):
    if data != RECORD.encode():
        with pytest.raises(LedgerError):
            Record.decode(data)


def test_signed_by_hand_is_taken_when_it_is_in_form():
    assert Record.decode(by_hand()).content == {"a": 1}


@pytest.mark.parametrize(
    "body",
    [
        b"\x82\xa1b\x01\xa1a\x01",  # keys not sorted
        b"\x82\xa1a\x01\xa1a\x02",  # a key twice
        b"\x81\xa1a\xcc\x01",  # an integer longer than it must be
        b"\x81\xa1a\xd3" + struct.pack(">q", -1),
        b"\x81\xa1a\xca" + struct.pack(">f", 0.5),  # a 32-bit float
        b"\x81\xa1a\xcb" + struct.pack(">d", float("nan")),
        b"\x81\xa1a\xcb" + struct.pack(">d", float("-inf")),
        b"\x81\xd9\x01a\x01",  # a string with a longer header
        b"\xde\x00\x01\xa1a\x01",  # a map with a longer header
        b"\x81\xa1a\xdc\x00\x00",  # an array with one
        b"\x81\xa1a\xc5\x00\x01x",  # bytes with one
        b"\x81\xa1a\xd6\xff\x00\x00\x00\x01",  # a timestamp
        b"\x81\xa1a\xd4\x01\x00",  # an extension
        b"\x81\x01\x01",  # a key that is no string
        b"\x81\xc4\x01a\x01",
        b"\x81\x90\x01",
        b"\x81\x80\x01",
        b"\x81\xa1\xff\x01",  # no UTF-8
        b"\x81\xa3\xed\xa0\x80\x01",  # a surrogate
        b"\x90",  # no map
        b"\xa1a",
        b"\xc0",
        b"",
        b"\x80\x80",  # something follows
        b"\x81\xa1a",  # it ends too early
        b"\x81\xa1a\xc1",  # a byte that msgpack never uses
        b"\x81\xa1a\xdd\xff\xff\xff\xff",
        b"\x81\xa1a" + b"\x91" * 60000 + b"\x01",
        b"\x81\xa1a" + b"\x91" * 8 + b"\x01",  # one deeper than allowed
    ],
    ids=range(29),
)
def test_other_encodings_of_a_content_are_refused(body):
    with pytest.raises(LedgerError):
        Record.decode(by_hand(body=body))


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": ""},
        {"kind": "x" * 33},
        {"kind": "Round"},
        {"kind": "round\n"},
        {"kind": "\x1b[2J"},
        {"kind": 7},
        {"author": ANN.id.upper()},
        {"author": ANN.id[:-1]},
        {"author": ANN.id + "\n"},
        {"author": "00" * 32},
        {"author": BOB.id},
        {"parents": PARENTS[::-1] if PARENTS[0] < PARENTS[1] else PARENTS},
        {"parents": (PARENTS[0], PARENTS[0])},
        {"parents": (b"short",)},
        {"parents": tuple(n.to_bytes(32, "big") for n in range(MOST_PARENTS + 1))},
        {"parents": None},
        {"time": -1},
        {"time": 1 << 53},
        {"time": 5.0},
        {"time": True},
        {"body": None},
        {"body": canonical({"a": b"x" * (MOST_BYTES - 8)}) + b"x" * 9},
    ],
    ids=range(22),
)
def test_fields_out_of_bounds_are_refused_though_signed(fields):
    with pytest.raises(LedgerError):
        Record.decode(by_hand(**fields))


def test_longer_headers_around_a_record_are_refused():
    whole = by_hand()
    assert whole[0] == 0x96
    with pytest.raises(LedgerError, match="canonical"):
        Record.decode(b"\xdc\x00\x06" + whole[1:])
    with pytest.raises(LedgerError):
        Record.decode(whole + b"\xc0")
    seven = msgspec.msgpack.encode([*msgspec.msgpack.decode(whole), None])
    with pytest.raises(LedgerError):
        Record.decode(seven)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"a": float("nan")}, "nan"),
        ({"a": [1, {"b": float("inf")}]}, "inf"),
        ({"a": {1, 2}}, "set"),
        ({1: "a"}, "int"),
        ({"a": 1 << 64}, "64 bits"),
        ({"a": -(1 << 63) - 1}, "64 bits"),
        ({"a": object()}, "object"),
        ({"a": "\ud800"}, "encoded"),
        ({"\ud800": 1}, "encoded"),
        ({"a": "x" * MOST_BYTES}, "too long"),
        ({"a": [[[[[[[[1]]]]]]]]}, "deeper"),
    ],
    ids=range(11),
)
def test_content_without_a_canonical_form_is_refused(content, says):
    with pytest.raises(LedgerError, match=says):
        Record.make(ANN, "round", content)


@pytest.mark.parametrize(
    "bad",
    [
        {"kind": "Round"},
        {"kind": "x" * 33},
        {"kind": "\ud800"},
        {"time": -1},
        {"time": 1 << 70},
        {"parents": [b"short"]},
    ],
    ids=range(6),
)
def test_nobody_makes_a_record_that_others_refuse(bad):
    with pytest.raises(LedgerError):
        Record.make(**{"identity": ANN, "kind": "round", "content": {}} | bad)


def test_a_record_put_together_without_make_is_checked_like_one_from_elsewhere():
    for change in ({"time": -1}, {"kind": "No"}, {"author": BOB.id}, {"body": b"\x80\x80"}, {"parents": (b"x",)}):
        with pytest.raises(LedgerError):
            msgspec.structs.replace(RECORD, **change).check()


def test_a_signature_is_worth_nothing_for_another_purpose_or_shifted():
    with pytest.raises(LedgerError, match="not signed"):
        Record.decode(signed_by_hand(ANN, "block", ("round", ANN.id, (), 5, BODY)))
    order = (1 << 252) + 27742317777372353535851937790883648493
    scalar = int.from_bytes(RECORD.signature[32:], "little") + order
    shifted = RECORD.signature[:32] + scalar.to_bytes(32, "little")
    with pytest.raises(LedgerError, match="not signed"):
        Record.decode(msgspec.structs.replace(RECORD, signature=shifted).encode())


def test_the_longest_record_is_taken():
    parents = [n.to_bytes(32, "big") for n in range(MOST_PARENTS)]
    record = Record.make(ANN, "k" * 32, {"a": b"x" * (MOST_BYTES - 6)}, parents, (1 << 53) - 1)
    assert len(record.body) == MOST_BYTES
    assert Record.decode(record.encode()) == record


def test_content_may_be_any_mapping_and_is_sorted():
    assert canonical({"b": (1, 2), "a": 0}) == canonical({"a": 0, "b": [1, 2]}) == b"\x82\xa1a\x00\xa1b\x92\x01\x02"
    assert RECORD.content == {"loss": 0.25, "raw": b"\0\xff", "round": 3, "who": ["ann", None, True]}
