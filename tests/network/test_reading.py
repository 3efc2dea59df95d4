"""Frames that come in pieces: whole or refused, whatever the pieces; nothing is allocated for what may not come."""

import asyncio
import gc
import random
import struct
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from network_world import LAYOUT, UNKNOWN_LAYOUT, NetVectors, note, read, snapshot, vectors

from coterie.errors import MessageError
from coterie.network import Codec
from coterie.network.codec import CHUNK_BYTES
from coterie.network.compression import CHUNK_ELEMENTS, encoding
from coterie.network.limits import Limits
from coterie.network.reading import PENDING_BYTES, Backlog, FrameReader, _Snapshot
from coterie.network.sending import PIECE_BYTES, pieces
from coterie.network.spool import Spool, SpooledSnapshot

LIMITS = Limits(snapshot_elements={LAYOUT: 2 * CHUNK_ELEMENTS}, header_bytes=4096, snapshots=3)
NAMES = ["none", "fp16", "int8", "zstd"]
POOL = ThreadPoolExecutor(2)
NO_SPOOLS = {}


def sent(frame, name="none"):
    async def gather():
        return [piece async for piece in pieces(frame, encoding(name), POOL)]

    return asyncio.run(gather())


def received(data, cuts=(), name="none", limits=LIMITS, spools=NO_SPOOLS):
    """The frame of these bytes, cut in pieces there."""

    async def take():
        reader = FrameReader(encoding(name), limits, Codec(), POOL, spools)
        edges = [0, *sorted(cuts), len(data)]
        for start, end in pairwise(edges):
            rest = reader.feed(memoryview(data)[start:end])
            if reader.waits:
                if spools:
                    assert reader.make_room() == 0
                reader.admit()
                rest = reader.feed(rest)
            assert not len(rest)
        if not reader.whole:
            raise MessageError("not whole")
        return await reader.frame()

    return asyncio.run(take())


def refused(data, what, name="none", limits=LIMITS):
    with pytest.raises(MessageError, match=what):
        received(data, name=name, limits=limits)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_whatever_the_pieces_the_frame_arrives(name, data):
    sizes = data.draw(st.lists(st.integers(1, 700), max_size=3))
    frame = vectors("text", *(snapshot(size, seed) for seed, size in enumerate(sizes)))
    whole = b"".join(piece for piece, _ in sent(frame, name))
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=8))
    got = received(whole, cuts, name)
    message = read(got)  # the hashes in the header are those of what was decoded
    assert isinstance(message, NetVectors)
    kind = encoding(name)
    for ours, theirs in zip(frame.snapshots, got.snapshots, strict=True):
        expected = np.empty(ours.size, dtype=np.float32)
        kind.decode(kind.encode(ours.tensor().numpy()), expected)
        assert theirs.tensor().numpy().tobytes() == expected.tobytes()
        assert kind.lossy or theirs.tensor().numpy().tobytes() == ours.tensor().numpy().tobytes()


@pytest.mark.parametrize("size", [1, CHUNK_ELEMENTS - 1, CHUNK_ELEMENTS, CHUNK_ELEMENTS + 1, 2 * CHUNK_ELEMENTS])
@pytest.mark.parametrize("name", NAMES)
def test_sizes_at_the_border_of_a_chunk(size, name):
    frame = vectors("text", snapshot(size))
    parts = sent(frame, name)
    assert [last for _, last in parts] == [False] * (len(parts) - 1) + [True]
    assert max(len(piece) for piece, _ in parts) <= PIECE_BYTES
    got = received(b"".join(piece for piece, _ in parts), name=name)
    assert read(got).text == "text"
    if not encoding(name).lossy:
        assert torch.equal(got.snapshots[0].tensor(), frame.snapshots[0].tensor())


@pytest.mark.parametrize("size", [1, CHUNK_ELEMENTS, CHUNK_ELEMENTS + 1, 2 * CHUNK_ELEMENTS])
@pytest.mark.parametrize("name", NAMES)
def test_what_goes_to_disk_is_what_would_be_in_memory(tmp_path, name, size):
    whole = b"".join(piece for piece, _ in sent(vectors("text", snapshot(size), snapshot(7, 1)), name))
    cuts = range(0, len(whole), max(1, len(whole) // 7))
    plain, got = received(whole, cuts, name), received(whole, cuts, name, spools={LAYOUT: Spool(tmp_path)})
    assert read(got).text == "text"
    assert got.header == plain.header
    for one, other in zip(got.snapshots, plain.snapshots, strict=True):
        assert isinstance(one, SpooledSnapshot)
        assert torch.equal(one.tensor(), other.tensor())
        assert one.digest() == other.digest()
    again = received(b"".join(vectors("text", *got.snapshots).chunks()))
    assert torch.equal(again.snapshots[0].tensor(), plain.snapshots[0].tensor())


def test_on_disk_a_snapshot_takes_no_memory(tmp_path):
    size = 64 * CHUNK_ELEMENTS
    frame = vectors("", snapshot(size))
    limits = Limits(snapshot_elements={LAYOUT: size})

    async def take():
        reader = FrameReader(encoding("none"), limits, Codec(), POOL, {LAYOUT: Spool(tmp_path)})
        reader.feed(memoryview(frame.head))
        assert reader.make_room() == 0
        reader.admit()
        for chunk in frame.chunks():
            if chunk != frame.head:
                reader.feed(memoryview(chunk))
                await reader.backlog.below(PENDING_BYTES)
        return await reader.frame()

    tracemalloc.start()
    try:
        found = asyncio.run(take())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * size / 4
    assert found.snapshots[0].digest() == frame.snapshots[0].digest()


def test_wrong_bytes_on_disk_are_noticed_too(tmp_path):
    whole = bytearray(b"".join(vectors("", snapshot(300)).chunks()))
    whole[-3] ^= 1
    with pytest.raises(MessageError, match="not those that were sent"):
        received(bytes(whole), spools={LAYOUT: Spool(tmp_path)})


def test_uncompressed_bytes_are_the_codecs():
    frame = vectors("text", snapshot(5), snapshot(CHUNK_ELEMENTS + 3, 1))
    assert b"".join(piece for piece, _ in sent(frame)) == b"".join(frame.chunks())
    assert sum(len(piece) for piece, _ in sent(frame)) == frame.nbytes


def test_a_long_header_and_what_follows_fit_the_pieces():
    frame = vectors("x" * 9000, snapshot(CHUNK_ELEMENTS), snapshot(3, 1))
    parts = sent(frame)
    assert max(len(piece) for piece, _ in parts) <= PIECE_BYTES
    limits = Limits(snapshot_elements=LIMITS.snapshot_elements)
    assert read(received(b"".join(piece for piece, _ in parts), limits=limits)).text == "x" * 9000


def test_each_limit_of_a_header_bites():
    refused(b"".join(note("x" * 5000).chunks()), "the limit header_bytes is 4096")
    refused(b"".join(vectors("", *[snapshot(1)] * 4).chunks()), "the limit snapshots is 3")
    refused(b"".join(vectors("", snapshot(1, layout=UNKNOWN_LAYOUT)).chunks()), "not in use here")
    refused(b"".join(vectors("", snapshot(2 * CHUNK_ELEMENTS + 1)).chunks()), "the limit snapshot_elements")
    assert received(b"".join(vectors("", *[snapshot(1)] * 3).chunks()))


def test_wrong_hashes_are_noticed():
    for name in NAMES:
        whole = bytearray(b"".join(piece for piece, _ in sent(vectors("", snapshot(300)), name)))
        position = -40 if encoding(name).lossy else -3  # before the hash of what was sent
        whole[position] ^= 1
        with pytest.raises(MessageError):
            received(bytes(whole), name=name)
        if encoding(name).lossy:
            whole[position] ^= 1
            whole[-1] ^= 1
            refused(bytes(whole), "not those that were sent", name)


def test_bytes_beyond_the_frame_are_refused():
    refused(b"".join(note("a").chunks()) + b"x", "1 bytes follow")
    refused(b"".join(vectors("a", snapshot(3)).chunks()) + b"xy", "2 bytes follow")


def test_every_prefix_is_incomplete():
    data = b"".join(vectors("a", snapshot(3), snapshot(2, 1)).chunks())
    for length in range(len(data)):
        refused(data[:length], "not whole")


def test_chunks_of_wrong_lengths_are_refused_before_their_content():
    frame = vectors("a", snapshot(CHUNK_ELEMENTS + 2))
    data = b"".join(frame.chunks())
    start = len(frame.head)
    for length in (0, 4, CHUNK_BYTES - 4, CHUNK_BYTES + 4, 2**32 - 1):
        refused(data[:start] + struct.pack(">I", length), "not of the right length")


def test_nothing_is_allocated_before_it_is_admitted():
    head = vectors("", snapshot(2 * CHUNK_ELEMENTS)).head

    async def take():
        reader = FrameReader(encoding("none"), LIMITS, Codec(), POOL, NO_SPOOLS)
        reader.feed(memoryview(head))
        return reader

    tracemalloc.start()
    try:
        reader = asyncio.run(take())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert reader.waits
    assert reader.announced == 8 * CHUNK_ELEMENTS
    assert peak < 300_000


def test_tampered_frames_are_refused_or_mean_something_and_nothing_else_is_raised():
    dice = random.Random(3)
    wholes = {n: b"".join(p for p, _ in sent(vectors("abc", snapshot(40), snapshot(9, 1)), n)) for n in NAMES}
    refusals = 0
    for _ in range(1500):
        name = dice.choice(NAMES)
        data = bytearray(wholes[name])
        for _ in range(dice.choice((1, 1, 3))):
            position = dice.randrange(len(data))
            match dice.randrange(4):
                case 0:
                    data[position] = dice.randrange(256)
                case 1:
                    del data[position : position + dice.randrange(9)]
                case 2:
                    data[position:position] = dice.randbytes(dice.randrange(9))
                case 3:
                    data[position : position + 4] = b"\xff\xff\xff\xff"
        try:
            read(received(bytes(data), [dice.randrange(len(data))], name))
        except MessageError:
            refusals += 1
    assert refusals > 1000


def test_a_line_does_all_in_order_and_reports_what_went_wrong():
    async def main():
        backlog, done = Backlog(POOL), []
        for number in range(200):
            backlog.add(10_000, lambda number=number: done.append(number))
        await backlog.below(100_000)
        assert backlog.pending <= 100_000
        await backlog.done()
        assert done == list(range(200))
        assert backlog.pending == 0

        def fail():
            raise MessageError("no")

        for size in (10, 1_000_000):
            backlog = Backlog(POOL)
            backlog.add(size, fail)
            with pytest.raises(MessageError, match="no"):
                await backlog.done()

    asyncio.run(main())


@pytest.mark.parametrize("name", NAMES)
def test_what_was_read_goes_with_its_frame(name):
    gc.collect()
    gc.disable()  # models are large: they must not stay until it comes by
    try:
        found = received(b"".join(piece for piece, _ in sent(vectors("", snapshot(CHUNK_ELEMENTS)), name)), name=name)
        end = time.monotonic() + 30
        while any(type(each) is _Snapshot for each in gc.get_objects()):  # a thread of the pool may be about to let go
            assert time.monotonic() < end, "it stays"
        del found
    finally:
        gc.enable()


def test_work_that_is_dropped_when_the_transport_closes_is_no_error():
    errors, free, done = [], threading.Event(), asyncio.Event()

    async def work():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: errors.append(context))
        pool = ThreadPoolExecutor(1)
        pool.submit(free.wait, 30)
        backlog = Backlog(pool)
        backlog.add(1 << 20, lambda: None)
        backlog._running.add_done_callback(lambda _: done.set())
        pool.shutdown(wait=False, cancel_futures=True)
        await done.wait()
        free.set()

    asyncio.run(asyncio.wait_for(work(), 60))
    assert errors == []
