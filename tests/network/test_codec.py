"""The codec: what is sent arrives, and what nobody sent is refused without harm."""

import hashlib
import random
import struct
import tracemalloc

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.errors import MessageError
from coterie.layout import Snapshot
from coterie.network import Codec, Envelope, MemorySnapshot, Message, message
from coterie.network.codec import CHUNK_BYTES, MAX_HEADER_BYTES, MAX_SNAPSHOT_ELEMENTS, MAX_SNAPSHOTS, WIRE_VERSION

CHUNK = CHUNK_BYTES // 4
LAYOUT, OTHER_LAYOUT = "ab" * 32, "cd" * 32


@message
class CodecNote(Message, frozen=True):
    text: str
    number: int
    ratio: float = 0.5
    flag: bool = False
    blob: bytes = b""
    words: list[str] = msgspec.field(default_factory=list)
    table: dict[str, int] = msgspec.field(default_factory=dict)
    maybe: int | None = None


@message
class CodecVectors(Message, frozen=True):
    first: Snapshot
    label: str
    others: list[Snapshot] = msgspec.field(default_factory=list)
    last: Snapshot | None = None


@message
class CodecNothing(Message, frozen=True):
    pass


def snapshot(size, seed=0, layout=LAYOUT):
    bits = np.random.default_rng(seed).integers(0, 1 << 32, size, dtype=np.uint32)  # NaNs and infinities too
    return MemorySnapshot(layout, torch.from_numpy(bits.view(np.float32)))


def frame_bytes(frame):
    return b"".join(frame.chunks())


def encoded(content, kind="ask", number=7):
    return frame_bytes(Codec().encode(Envelope(kind, number, content)))


def same(one, other):
    """Whether two values are equal, snapshots by their bits."""
    if isinstance(one, Snapshot):
        bits = [s.tensor().numpy().tobytes() for s in (one, other)]
        return (one.size, one.layout_hash, bits[0]) == (other.size, other.layout_hash, bits[1])
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Message | Envelope):
        names = one.__struct_fields__ if isinstance(one, Message) else ("kind", "id", "message")
        return type(one) is type(other) and all(same(getattr(one, n), getattr(other, n)) for n in names)
    return one == other or (one != one and other != other)  # NaN


def header(content, references=(), kind="ask", number=7):
    return msgspec.msgpack.encode([kind, number, content, list(references)])


def framed(head, rest=b""):
    return struct.pack(">2sHI", b"CT", WIRE_VERSION, len(head)) + head + rest


def reference(size, layout=b"\xab" * 32, digest=bytes(32)):
    return [size, layout, digest]


# What is sent arrives

notes = st.builds(
    CodecNote,
    text=st.text(),
    number=st.integers(-(2**63), 2**64 - 1),
    ratio=st.floats(),
    flag=st.booleans(),
    blob=st.binary(),
    words=st.lists(st.text(), max_size=5),
    table=st.dictionaries(st.text(), st.integers(-(2**63), 2**63 - 1), max_size=5),
    maybe=st.none() | st.integers(-5, 5),
)
snapshots = st.builds(snapshot, st.integers(1, 300), st.integers(0, 99), st.sampled_from([LAYOUT, OTHER_LAYOUT]))
vectors = st.builds(
    CodecVectors,
    first=snapshots,
    label=st.text(),
    others=st.lists(snapshots, max_size=4),
    last=st.none() | snapshots,
)
envelopes = st.builds(
    Envelope,
    kind=st.sampled_from(["ask", "reply", "send"]),
    id=st.integers(0, 2**64 - 1),
    message=notes | vectors | st.just(CodecNothing()),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(envelopes, min_size=1, max_size=3))
def test_round_trip(sent):
    ours, theirs = Codec(), Codec()
    for envelope in sent:
        frame = ours.encode(envelope)
        data = frame_bytes(frame)
        assert frame.nbytes == len(data)
        assert same(theirs.parse(data), envelope)
        assert same(theirs.decode(frame.header, frame.snapshots), envelope)


@settings(max_examples=50, deadline=None)
@given(envelopes, st.binary(min_size=1, max_size=32))
def test_conversations_are_kept_apart(sent, line):
    frame = Codec(line).encode(sent)
    assert same(Codec(line).decode(frame.header, frame.snapshots), sent)
    assert Codec().line_of(frame.header) == line
    assert Codec().line_of(Codec().encode(sent).header) == b""
    digests = [reference.digest for reference in Codec().references(frame.header)]
    assert Codec().with_digests(frame.header, digests) == frame.header
    for other in (b"", line + b"x", line[:-1]):
        with pytest.raises(MessageError):
            Codec(other).decode(frame.header, frame.snapshots)


def test_a_line_that_is_too_long_is_refused():
    with pytest.raises(MessageError, match="not a header"):
        Codec().line_of(Codec(bytes(33)).encode(Envelope("send", 0, CodecNothing())).header)


@pytest.mark.parametrize("size", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 1])
def test_sizes_at_the_border_of_a_chunk(size):
    envelope = Envelope("reply", 3, CodecVectors(snapshot(size), "x", [snapshot(5, 1)], snapshot(size, 2)))
    frame = Codec().encode(envelope)
    data = frame_bytes(frame)
    assert frame.nbytes == len(data)
    pieces = -(-size // CHUNK)
    assert len(data) == 8 + len(frame.header) + 2 * (4 * size + 4 * pieces) + 4 * 5 + 4
    assert max(len(chunk) for chunk in frame.chunks()) <= max(CHUNK_BYTES, 8 + len(frame.header))
    assert same(Codec().parse(data), envelope)


def test_elements_are_not_copied():
    held = snapshot(CHUNK + 1)
    frame = Codec().encode(Envelope("send", 0, CodecVectors(held, "x")))
    assert frame.snapshots == (held,)
    views = [np.frombuffer(c, np.uint8) for c in frame.chunks() if isinstance(c, memoryview)]
    assert len(views) == 2
    assert all(np.shares_memory(view, held.tensor().numpy()) for view in views)


def test_digest_is_of_the_little_endian_elements():
    elements = torch.tensor([1.0, -2.5, float("inf")])
    assert MemorySnapshot(LAYOUT, elements).digest() == hashlib.sha256(struct.pack("<3f", *elements.tolist())).digest()


def test_wire_format_is_stable():
    """Peers of other builds read this: a change needs a new WIRE_VERSION."""
    data = encoded(CodecVectors(MemorySnapshot(LAYOUT, torch.tensor([1.0])), "x"), number=5)
    digest = hashlib.sha256(struct.pack("<f", 1.0)).digest()
    content = {"type": "CodecVectors", "first": 0, "label": "x", "others": [], "last": None}
    head = msgspec.msgpack.encode(["ask", 5, content, [[1, bytes.fromhex(LAYOUT), digest]]])
    assert data == struct.pack(">2sHI", b"CT", 1, len(head)) + head + struct.pack(">I", 4) + struct.pack("<f", 1.0)


def test_a_codec_goes_on_after_a_fault():
    codec, envelope = Codec(), Envelope("ask", 7, CodecVectors(snapshot(3), "x", [snapshot(4, 1)]))
    data = encoded(envelope.message)
    for _ in range(2):
        with pytest.raises(TypeError, match="object cannot travel in a message"):
            codec.encode(Envelope("ask", 1, CodecVectors(object(), "x")))
        with pytest.raises(MessageError):
            codec.parse(data[:-1])
        assert same(codec.parse(data), envelope)


def test_types_registered_later_are_known():
    codec = Codec()
    codec.parse(encoded(CodecNothing()))

    @message
    class CodecLate(Message, frozen=True):
        x: int

    assert codec.parse(encoded(CodecLate(3))).message == CodecLate(3)
    with pytest.raises(ValueError, match="CodecLate is registered twice"):
        message(CodecLate)


# What nobody sent


def refused(data, what=None):
    with pytest.raises(MessageError, match=what):
        Codec().parse(data)


NOTE = {"type": "CodecNote", "text": "a", "number": 3}
VECTORS = {"type": "CodecVectors", "first": 0, "label": "x"}
ONE = struct.pack("<f", 1.0)
ONE_DIGEST = hashlib.sha256(ONE).digest()
CHUNK_OF_ONE = struct.pack(">I", 4) + ONE


def test_the_hand_made_frames_are_right_where_not_made_wrong():
    assert Codec().parse(framed(header(NOTE))).message == CodecNote("a", 3)
    good = Codec().parse(framed(header(VECTORS, [reference(1, digest=ONE_DIGEST)]), CHUNK_OF_ONE))
    assert good.message.first.tensor().tolist() == [1.0]


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (header(NOTE, kind="tell"), "not a header"),
        (header(NOTE, kind=3), "not a header"),
        (header(NOTE, number=-1), "not a header"),
        (header(NOTE, number=1.5), "not a header"),
        (header(NOTE, number=None), "not a header"),
        (header(NOTE) + b"\x00", "not a header"),
        (header(NOTE)[:-1], "not a header"),
        (b"", "not a header"),
        (b"\xc1", "not a header"),
        (msgspec.msgpack.encode(["ask", 7, NOTE]), "not a header"),
        (msgspec.msgpack.encode(["ask", 7, NOTE, [], 1]), "not a header"),
        (msgspec.msgpack.encode({"kind": "ask", "id": 7, "message": NOTE, "snapshots": []}), "not a header"),
        (header({"type": "CodecUnknown"}), "not a message"),
        (header({"text": "a", "number": 3}), "not a message"),
        (header({"type": 3}), "not a message"),
        (header([]), "not a message"),
        (header("CodecNote"), "not a message"),
        (header(None), "not a message"),
        (header(NOTE | {"extra": 1}), "not a message"),
        (header({"type": "CodecNote", "text": "a"}), "not a message"),
        (header(NOTE | {"number": "3"}), "not a message"),
        (header(NOTE | {"number": True}), "not a message"),
        (header(NOTE | {"words": [3]}), "not a message"),
        (header(NOTE | {"text": b"a"}), "not a message"),
        (header(NOTE).replace(b"\xa1a", b"\xa1\xff"), "not a message"),
        (header(VECTORS), "not a message"),  # no snapshot came
        (header(VECTORS | {"first": None}), "not a message"),
        (header(VECTORS | {"first": 3.0}), "not a message"),
    ],
)
def test_wrong_headers(head, what):
    refused(framed(head), what)


@pytest.mark.parametrize(
    ("references", "what"),
    [
        ([reference(0, digest=ONE_DIGEST)], "not a header"),
        ([reference(-1, digest=ONE_DIGEST)], "not a header"),
        ([reference(1.0, digest=ONE_DIGEST)], "not a header"),
        ([reference(MAX_SNAPSHOT_ELEMENTS + 1)], "not a header"),
        ([reference(2**63)], "not a header"),
        ([reference(1, layout=bytes(31))], "not a header"),
        ([reference(1, layout=bytes(33))], "not a header"),
        ([reference(1, layout=LAYOUT)], "not a header"),
        ([reference(1, digest=bytes(31))], "not a header"),
        ([[1, bytes(32)]], "not a header"),
        ([[1, bytes(32), bytes(32), 1]], "not a header"),
        ([reference(1)], "not those that were sent"),
        ([reference(1, digest=ONE_DIGEST[::-1])], "not those that were sent"),
        ([reference(2, digest=ONE_DIGEST)], "right length"),
        ([reference(3, digest=ONE_DIGEST)], "come whole"),
        ([reference(MAX_SNAPSHOT_ELEMENTS)], "come whole"),
        ([reference(1, digest=ONE_DIGEST)] * 2, "come whole"),
        ([reference(1)] * (MAX_SNAPSHOTS + 1), "not a header"),
        ([], "bytes follow"),
    ],
)
def test_wrong_references(references, what):
    refused(framed(header(VECTORS, references), CHUNK_OF_ONE), what)


@pytest.mark.parametrize("index", [1, -1, True, False, 0.0, "0", None, [0], {"0": 0}, 2**64 - 1, b"\x00"])
def test_wrong_indices(index):
    refused(
        framed(header(VECTORS | {"first": index}, [reference(1, digest=ONE_DIGEST)]), CHUNK_OF_ONE), "not a message"
    )


def test_each_snapshot_is_referred_to_once_and_in_order():
    two = [reference(1, digest=ONE_DIGEST)] * 2
    assert Codec().parse(framed(header(VECTORS | {"last": 1}, two), CHUNK_OF_ONE * 2))
    refused(framed(header(VECTORS, two), CHUNK_OF_ONE * 2), "2 snapshots came, 1 are referred to")
    refused(framed(header(NOTE, two), CHUNK_OF_ONE * 2), "2 snapshots came, 0 are referred to")
    refused(framed(header(VECTORS | {"last": 0}, two), CHUNK_OF_ONE * 2), "did not come")
    refused(framed(header(VECTORS | {"first": 1, "last": 0}, two), CHUNK_OF_ONE * 2), "did not come")
    refused(framed(header(VECTORS | {"others": [1, 2]}, two), CHUNK_OF_ONE * 2), "did not come")


def test_wrong_prefixes():
    good = framed(header(NOTE))
    refused(b"XT" + good[2:], "not a frame")
    refused(b"CT" + struct.pack(">H", 2) + good[4:], "wire version 2 is not 1")
    refused(good[:4] + struct.pack(">I", len(good) - 7) + good[8:], "too long")
    refused(good[:4] + struct.pack(">I", 0xFFFFFFFF) + good[8:], "too long")
    refused(framed(b"\xc0" * (MAX_HEADER_BYTES + 1)), "too long")
    refused(good + b"\x00", "1 bytes follow")


def test_wrong_chunks():
    size = CHUNK + 2
    data = encoded(CodecVectors(snapshot(size), "x"))
    start = len(data) - 4 * size - 8
    second = start + 4 + CHUNK_BYTES
    for length in (0, 4, CHUNK_BYTES - 4, CHUNK_BYTES + 4, 0xFFFFFFFF):
        refused(data[:start] + struct.pack(">I", length) + data[start + 4 :], "right length")
    for length in (0, 4, 7, 9, 0xFFFFFFFF):
        refused(data[:second] + struct.pack(">I", length) + data[second + 4 :], "right length")
    refused(data[:-1])
    refused(data[: second + 2])


def test_what_came_beside_a_header_must_fit_it():
    """Transports that keep snapshots apart call ``decode``."""
    held = snapshot(3)
    frame = Codec().encode(Envelope("ask", 7, CodecVectors(held, "x")))
    for wrong, what in (
        ((), "0 snapshots came, 1 are announced"),
        ((held, held), "2 snapshots came, 1 are announced"),
        ((snapshot(4),), "not as its header says"),
        ((snapshot(3, layout=OTHER_LAYOUT),), "not as its header says"),
        ((snapshot(3, seed=1),), "not those that were sent"),
    ):
        with pytest.raises(MessageError, match=what):
            Codec().decode(frame.header, wrong)


def test_a_snapshot_without_elements_is_refused():
    refused(encoded(CodecVectors(MemorySnapshot(LAYOUT, torch.zeros(0)), "x")), "not a header")


def test_every_prefix_of_a_frame_is_refused():
    data = encoded(CodecVectors(snapshot(3), "hello", [snapshot(2, 1)]))
    for length in range(len(data)):
        refused(data[:length])


def outcome(codec, data):
    """None where ``data`` are refused. What is accepted must be a message that could have been sent."""
    try:
        envelope = codec.parse(data)
    except MessageError as error:
        assert error.what
        return None
    assert isinstance(envelope.message, Message)
    assert envelope.kind in ("ask", "reply", "send")
    assert envelope.id >= 0
    assert same(Codec().parse(frame_bytes(Codec().encode(envelope))), envelope)
    return envelope


def test_every_changed_byte_of_a_vector_is_noticed():
    data = encoded(CodecVectors(snapshot(6), "hello", [snapshot(2, 1)]))
    codec, elements = Codec(), 4 * 8 + 8
    for position in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[position] ^= 1 << bit
            envelope = outcome(codec, bytes(changed))
            if position < 8 or position >= len(data) - elements:
                assert envelope is None
    assert outcome(codec, data) is not None


def mutated(dice, frames):
    """A frame that somebody has tampered with, or that is noise."""
    data = bytearray(dice.choice(frames))
    other = dice.choice(frames)
    for _ in range(dice.choice((1, 1, 1, 2, 5))):
        position = dice.randrange(len(data)) if data else 0
        length = dice.choice((1, 2, 4, 9, 33))
        match dice.randrange(8):
            case 0:
                data[position : position + 1] = bytes([dice.randrange(256)])
            case 1:
                del data[position:]
            case 2:
                data += dice.randbytes(length)
            case 3:
                del data[position : position + length]
            case 4:
                data[position:position] = dice.randbytes(length)
            case 5:  # a field of another frame
                start = dice.randrange(len(other))
                data[position : position + length] = other[start : start + length]
            case 6:  # huge lengths, of the frame's own and msgpack's
                code = dice.choice((b"", b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9", b"\xcf\xff\xff\xff\xff"))
                data[position : position + len(code) + 4] = code + b"\xff\xff\xff\xff"
            case 7:
                data[:] = dice.randbytes(dice.randrange(200))
                if dice.random() < 0.7:  # noise behind a right prefix
                    data[:0] = struct.pack(">2sHI", b"CT", WIRE_VERSION, dice.choice((len(data), 5, 2**32 - 1)))
    return bytes(data)


def test_hostile_frames_do_no_harm():
    dice, codec = random.Random(7), Codec()
    sent = [
        CodecNote("hello", 3, 0.25, True, b"abc", ["x", "y"], {"a": 1}, None),
        CodecVectors(snapshot(5), "v", [snapshot(4, 1)], snapshot(1, 2)),
        CodecVectors(snapshot(40), "", []),
        CodecNothing(),
    ]
    frames = [encoded(content) for content in sent]
    refusals = 0
    for _ in range(6000):
        refusals += outcome(codec, mutated(dice, frames)) is None
    assert 4000 < refusals < 6000  # some tampering, such as with a text, gives another message that is in order
    for content, data in zip(sent, frames, strict=True):
        assert same(codec.parse(data), Envelope("ask", 7, content))


BOMBS = {
    "one huge snapshot": header(VECTORS, [reference(MAX_SNAPSHOT_ELEMENTS)]),
    "many huge snapshots": header(VECTORS, [reference(MAX_SNAPSHOT_ELEMENTS)] * MAX_SNAPSHOTS),
    "a huge list": header(NOTE | {"words": []}).replace(b"words\x90", b"words\xdd\xff\xff\xff\xff"),
    "a huge map": header(NOTE | {"table": {}}).replace(b"table\x80", b"table\xdf\xff\xff\xff\xff"),
    "a huge text": header(NOTE).replace(b"\xa1a", b"\xdb\xff\xff\xff\xff"),
    "huge bytes": header(NOTE | {"blob": b""}).replace(b"\xc4\x00", b"\xc6\xff\xff\xff\xff"),
    "a huge message": b"\x94\xa3ask\x07\xdf\xff\xff\xff\xff",
    "a huge list of references": header(NOTE)[:-1] + b"\xdd\xff\xff\xff\xff",
    "a huge header": b"\xdd\xff\xff\xff\xff",
    "a deep message": b"\x94\xa3ask\x07" + b"\x91" * 100_000,
    "a deep map": b"\x94\xa3ask\x07" + b"\x81\xa1a" * 100_000,
    "a whole deep message": b"\x94\xa3ask\x07" + b"\x91" * 100_000 + b"\xc0\x90",
    "a deep header": b"\x91" * 100_000,
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("rest", [b"", bytes(10)])
def test_nothing_is_allocated_for_what_did_not_come(name, rest):
    data, codec = framed(BOMBS[name], rest), Codec()
    codec.parse(encoded(CodecNothing()))  # its tables are made
    tracemalloc.start()
    try:
        with pytest.raises(MessageError):
            codec.parse(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000 + 4 * len(data)


def test_what_is_quoted_of_a_message_cannot_steer_a_terminal():
    """An unknown field is named in the error, which is logged: its name is the sender's."""
    evil = "\x1b[2J\n" + 500 * "x"
    for content in ({"type": "CodecNote", evil: 1}, {"type": evil}):
        data = msgspec.msgpack.encode(["send", 0, content, []])
        with pytest.raises(MessageError) as caught:
            Codec().decode(data, ())
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 400
