"""Large snapshots between real transports: on disk as they come in, and a sign of life while they do."""

import contextlib
import gc
import math
import sys
from pathlib import Path

import pytest
import torch
from network_world import LAYOUT, QUICK, Intruder, World, run, snapshot, until, vectors

from coterie.network.codec import CHUNK_BYTES
from coterie.network.compression import CHUNK_ELEMENTS
from coterie.network.grpc.wire import FIRST, NEXT
from coterie.network.spool import Spool, SpooledSnapshot

SIZE = 2 * CHUNK_ELEMENTS


@contextlib.asynccontextmanager
async def visited(spool):
    """A listening site, and a member that sends by hand; what the site receives is kept as it is."""
    async with World(2, QUICK) as world:
        listening = await world.start(0, spools={LAYOUT: spool})
        frames = []
        listening.transport._station._receive = lambda sender, frame: frames.append(frame)
        async with Intruder(listening, world.sites[1].key) as sender:
            await sender.greet()
            sender.id = world.sites[1].id
            yield listening, sender, frames


def test_while_a_snapshot_comes_in_its_sender_shows_it_lives(tmp_path):
    async def test():
        async with visited(Spool(tmp_path)) as (own, by, got):
            budget = own.transport._station.budget
            await budget.take(QUICK.receiving_bytes_in_all)  # nothing more may be in memory
            transport, account = own.transport, lambda: own.transport._link(by.id).account
            data = FIRST + b"\x00" + b"".join(vectors("large", snapshot(SIZE)).chunks())
            assert transport.since_bytes("nobody") == transport.since_bytes(by.id) == math.inf
            await by.say(data[:CHUNK_BYTES])
            await until(lambda: transport.since_bytes(by.id) < math.inf)
            before = account().moved
            await by.say(NEXT + data[CHUNK_BYTES : 2 * CHUNK_BYTES])
            await until(lambda: account().moved > before)
            await by.say(NEXT + data[2 * CHUNK_BYTES :])
            await until(lambda: got)
            (found,) = got[0].snapshots
            assert isinstance(found, SpooledSnapshot)
            assert torch.equal(found.tensor(), snapshot(SIZE).tensor())
            assert account().receiving == 0
            assert budget._free == 0

    run(test)


@pytest.mark.skipif(sys.platform != "linux", reason="files without a name")
def test_what_is_cut_off_leaves_nothing_on_disk(tmp_path):
    def opened():
        found = 0
        for each in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found += str(tmp_path) in str(each.readlink())
        return found

    async def test():
        async with visited(Spool(tmp_path)) as (own, by, _):
            data = FIRST + b"\x00" + b"".join(vectors("large", snapshot(SIZE)).chunks())
            await by.say(data[:CHUNK_BYTES])
            await until(opened)
            by.call.cancel()
            await until(lambda: own.reasons("truncated frame"))
            await until(lambda: not opened())

    gc.collect()
    gc.disable()
    try:
        run(test)
    finally:
        gc.enable()


def test_what_cannot_be_written_is_dropped_and_the_stream_goes_on(tmp_path, monkeypatch):
    async def test():
        def fail(self, start, elements):
            raise OSError(5, "the disk fails")

        async with visited(Spool(tmp_path)) as (own, by, got):
            data = FIRST + b"\x00" + b"".join(vectors("large", snapshot(SIZE // 4)).chunks())
            with monkeypatch.context() as patch:
                patch.setattr(SpooledSnapshot, "write", fail)
                await by.say(data)
                await until(lambda: own.drops)
            assert own.reasons("no room for a frame: [Errno 5] the disk fails") == [by.id]
            await by.say(data)
            await until(lambda: got)
            assert own.transport._link(by.id).account.receiving == 0

    run(test)


def test_without_room_on_disk_it_is_in_memory_within_the_bound(tmp_path):
    (tmp_path / "models").write_bytes(b"in the way")

    async def test():
        async with visited(Spool(tmp_path / "models")) as (own, by, got):
            await by.say(FIRST + b"\x00" + b"".join(vectors("large", snapshot(SIZE // 4)).chunks()))
            await until(lambda: got)
            assert not isinstance(got[0].snapshots[0], SpooledSnapshot)
            assert own.transport._station.budget._free == QUICK.receiving_bytes_in_all

    run(test)
