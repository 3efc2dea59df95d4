"""Each limit bites: what exceeds it is dropped, counted against the sender, and harms nobody else."""

import asyncio
import contextlib
import socket
import ssl
import tempfile
from dataclasses import replace

import grpc
import pytest
from network_world import (
    ELEMENTS,
    GENESIS,
    LAYOUT,
    QUICK,
    UNKNOWN_LAYOUT,
    Intruder,
    World,
    note,
    run,
    snapshot,
    until,
    vectors,
)

from coterie.network.grpc.station import Budget
from coterie.network.grpc.wire import FIRST, HELLO_KEY, METHOD, NEXT, Hello

PLAIN = FIRST + b"\x00"


def whole(frame):
    return PLAIN + b"".join(frame.chunks())


@contextlib.asynccontextmanager
async def visited(limits=QUICK, **more):
    """A listening site, an honest member that is connected, and a member that keeps to no rule."""
    async with World(3, replace(limits, **more)) as world:
        listening = await world.start(0)
        dialling = await world.start(1, listening, listen=None)
        await until(lambda: listening.transport.connected)
        async with Intruder(listening, world.sites[2].key) as intruder:
            await intruder.greet()
            intruder.id = world.sites[2].id
            await until(lambda: intruder.id in listening.transport.connected)
            yield listening, dialling, intruder
            dialling.send(listening, "honest")
            await until(lambda: (dialling.id, "honest") in [(s, m.text) for s, m in listening.got])
            assert dialling.id not in [peer for peer, _ in listening.drops]
            accounts = [link.account for link in listening.transport._links.values()]
            await until(lambda: all(account.receiving == 0 for account in accounts), "memory that is given back")


BAD_FRAMES = {
    "header_bytes": (whole(note("x" * 5000)), "the limit header_bytes is 4000", {"header_bytes": 4000}),
    "snapshots": (whole(vectors("", *[snapshot(1)] * 4)), "the limit snapshots is 3", {"snapshots": 3}),
    "snapshot_elements": (whole(vectors("", snapshot(65))), "elements is 64", {"snapshot_elements": {LAYOUT: 64}}),
    "receiving_bytes": (whole(vectors("", snapshot(101))), "receiving_bytes is 400", {"receiving_bytes": 400}),
    "layout": (whole(vectors("", snapshot(1, layout=UNKNOWN_LAYOUT))), "not in use here", {}),
    "encoding": (FIRST + b"\x09" + b"".join(note("").chunks()), "encoding is not known", {}),
    "nothing": (FIRST, "encoding is not known", {}),
    "noise": (PLAIN + b"noise and more noise", "not a frame", {}),
    "hash": (whole(vectors("", snapshot(9)))[:-1] + b"?", "not those that were sent", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_a_frame_beyond_a_limit_is_dropped_and_the_stream_goes_on(name):
    frame, reason, limits = BAD_FRAMES[name]

    async def test():
        async with visited(**limits) as (listening, _, intruder):
            await intruder.say(frame, NEXT + b"and what follows it", whole(note("a good one")))
            await until(lambda: listening.got)
            assert listening.got[0][0] == intruder.id
            assert listening.texts == ["a good one"]
            assert listening.reasons(reason) == [intruder.id]

    run(test)


def test_a_frame_that_is_not_finished_is_dropped():
    async def test():
        async with visited() as (listening, _, intruder):
            data = whole(vectors("cut", snapshot(1000)))
            await intruder.say(data[:2000], whole(note("another begins")))
            await until(lambda: listening.texts == ["another begins"])
            assert listening.reasons("truncated frame") == [intruder.id]
            await intruder.say(data[:2000])
            intruder.call.cancel()
            await until(lambda: len(listening.reasons("truncated frame")) == 2)
            station = listening.transport._station
            assert station.budget._free == station.limits.receiving_bytes_in_all

    run(test)


def test_the_limit_of_a_snapshot_falls_once_the_size_of_the_model_is_known():
    async def test():
        async with visited() as (listening, _, intruder):
            listening.transport.limit_snapshots(LAYOUT, 64)
            await intruder.say(whole(vectors("", snapshot(65))), whole(vectors("fits", snapshot(64))))
            await until(lambda: listening.texts == ["fits"])
            assert listening.reasons("the limit snapshot_elements is 64") == [intruder.id]

    run(test)


def test_frames_a_second():
    async def test():
        async with visited(frames_a_second=0.001, frames_at_once=5) as (listening, _, intruder):
            frame = whole(vectors("x", snapshot(2000)))
            await intruder.say(*[frame] * 5, *[frame[:5000], NEXT + frame[5000:]] * 15)
            await until(lambda: len(listening.reasons("the limit is frames_a_second")) == 15)
            assert len(listening.got) == 5

    run(test)


def test_a_slow_drip_is_cut_off_and_its_memory_given_back():
    async def test():
        async with visited(stall_seconds=0.1, minimum_bytes_a_second=float(10 << 20)) as (listening, _, intruder):
            data = whole(vectors("x", snapshot(ELEMENTS)))
            await intruder.say(data[:1000])
            station = listening.transport._station
            await until(lambda: station.budget._free == station.limits.receiving_bytes_in_all - 4 * ELEMENTS)
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                for position in range(1000, 1 << 20):
                    await intruder.say(NEXT + data[position : position + 1])
                    await asyncio.sleep(0.01)
            assert not (await intruder.refused()).startswith("OK")
            assert listening.reasons("the limit is minimum_bytes_a_second") == [intruder.id]
            assert station.budget._free == station.limits.receiving_bytes_in_all

    run(test)


def test_a_steady_sender_is_not_cut_off():
    async def test():
        async with visited(stall_seconds=0.5, minimum_bytes_a_second=2000.0) as (listening, _, intruder):
            data = whole(vectors("x", snapshot(1000)))
            await intruder.say(data[:100])
            for position in range(100, len(data), 100):
                await intruder.say(NEXT + data[position : position + 100])
                await asyncio.sleep(0.01)
            await until(lambda: listening.texts == ["x"])

    run(test)


def test_streams_of_a_peer():
    async def test():
        async with World(2, replace(QUICK, streams_of_a_peer=2)) as world:
            listening, evil = await world.start(0), world.sites[1]
            async with contextlib.AsyncExitStack() as stack:
                intruders = [await stack.enter_async_context(Intruder(listening, evil.key)) for _ in range(3)]
                for intruder in intruders[:2]:
                    await intruder.greet()
                with pytest.raises(grpc.aio.AioRpcError, match="the limit is streams_of_a_peer"):
                    await intruders[2].greet()
                assert listening.reasons("the limit is streams_of_a_peer") == [evil.id]
                intruders[0].call.cancel()
                intruders[1].call.cancel()
                await until(lambda: listening.transport._listener.streams == 0)
                again = await stack.enter_async_context(Intruder(listening, evil.key))
                assert await again.greet()

    run(test)


def test_streams_in_all():
    async def test():
        async with World(4, replace(QUICK, streams=2)) as world:
            listening = await world.start(0)
            for number in (1, 2):
                await world.start(number, listening, listen=None)
            await until(lambda: len(listening.transport.connected) == 2)
            async with Intruder(listening, world.sites[3].key) as intruder:
                with pytest.raises(grpc.aio.AioRpcError, match="the limit is streams"):
                    await intruder.greet()
            assert listening.reasons("the limit is streams") == [world.sites[3].id]

    run(test)


def test_handshakes():
    """Connections that are never used are closed after a while; beyond the limit, new ones at once."""

    async def closed(reader):
        with contextlib.suppress(ConnectionError):
            return await reader.read() == b""
        return True

    async def test():
        async with World(2, replace(QUICK, handshakes=4, connect_seconds=1.0)) as world:
            listening = await world.start(0)
            held = [await asyncio.open_connection("127.0.0.1", listening.transport.port) for _ in range(8)]
            over = [asyncio.create_task(closed(reader)) for reader, _ in held]
            loop = asyncio.get_running_loop()
            start = loop.time()
            await until(lambda: sum(task.done() for task in over) >= 4)
            assert loop.time() - start < 0.9  # before any handshake has run out of time
            await until(lambda: all(task.done() for task in over))
            for _, writer in held:
                writer.close()
            dialling = await world.start(1, listening, listen=None)
            dialling.send(listening, "honest")
            await until(lambda: listening.texts == ["honest"])

    run(test)


def test_thousands_of_streams():
    """On one connection: few are let in, and honest peers notice nothing."""

    async def test():
        async with visited(connect_seconds=2.0) as (listening, dialling, intruder):
            hello = Hello.make(GENESIS, bytes(16), True, []).encode()
            calls = [intruder.channel.stream_stream(METHOD)(metadata=((HELLO_KEY, hello),)) for _ in range(2000)]
            most = 0
            for round in range(20):
                dialling.send(listening, f"during {round}")
                await until(lambda round=round: f"during {round}" in listening.texts)
                most = max(most, listening.transport._listener.streams)
            assert most <= 2 + QUICK.streams_of_a_peer
            for call in calls:
                call.cancel()

    run(test)


def test_queued_bytes_bound_what_waits_for_a_reader_that_does_not_read():
    async def test():
        frame = vectors("x", snapshot(ELEMENTS))
        async with visited(queued_bytes=4 * frame.nbytes) as (listening, dialling, intruder):
            evil = next(link for peer, link in listening.transport._links.items() if peer == intruder.id)
            failed = []
            for _ in range(20):
                listening.transport.post(intruder.id, frame, lambda: failed.append(1))
            await until(lambda: len(failed) >= 16)
            assert evil._queued <= 4 * frame.nbytes
            assert len(failed) == 16
            # Others are served meanwhile.
            listening.send(dialling, vectors("y", snapshot(ELEMENTS)))
            await until(lambda: dialling.texts == ["y"])

    run(test)


def test_one_frame_may_always_wait():
    async def test():
        async with visited(queued_bytes=100) as (listening, dialling, _):
            listening.send(dialling, vectors("y", snapshot(1000)))
            await until(lambda: dialling.texts == ["y"])

    run(test)


def test_while_one_frame_is_sent_another_may_wait_however_large():
    async def test():
        async with visited(queued_bytes=100) as (listening, _, intruder):
            link, failed = listening.transport._links[intruder.id], []
            for number in range(3):  # it does not read: the first is not sent before the others come
                frame = vectors("x", *[snapshot(ELEMENTS)] * 12)
                listening.transport.post(intruder.id, frame, lambda number=number: failed.append(number))
                await until(lambda: link._busy is not None)
            await until(lambda: failed)
            assert failed == [2]

    run(test)


def test_a_reader_that_does_not_read_is_cut_off():
    async def test():
        async with visited(stall_seconds=0.2, minimum_bytes_a_second=float(8 << 20)) as (listening, _, intruder):
            failed = []
            for seed in range(6):
                frame = vectors("x", snapshot(ELEMENTS, seed))
                listening.transport.post(intruder.id, frame, lambda: failed.append(1))
            link = listening.transport._links[intruder.id]
            stream = link.streams[0]
            await until(lambda: stream.ended)
            assert stream.ended == "the other end does not read"

    run(test)


def test_receiving_in_all_makes_frames_wait_for_their_turn():
    async def test():
        limits = replace(QUICK, receiving_bytes=4 * ELEMENTS, receiving_bytes_in_all=4 * ELEMENTS)
        async with World(3, limits) as world:
            listening = await world.start(0)
            other = await world.start(1, listening, listen=None)
            async with Intruder(listening, world.sites[2].key) as intruder:
                await intruder.greet()
                # Takes all there is, and gives it back when it is cut off.
                await intruder.say(whole(vectors("x", snapshot(ELEMENTS)))[:1000])
                station = listening.transport._station
                await until(lambda: station.budget._free == 0)
                other.send(listening, vectors("waits", snapshot(ELEMENTS, 1)))
                await until(lambda: station.budget._waiting)
                intruder.call.cancel()
                await until(lambda: "waits" in listening.texts)
                assert station.budget._free == 4 * ELEMENTS

    run(test)


def test_bytes_that_belong_to_no_frame_end_the_stream(monkeypatch):
    from coterie.network.grpc import inbox

    monkeypatch.setattr(inbox, "_SKIPPED_AT_ONCE", 1000)
    monkeypatch.setattr(inbox, "_SKIPPED_A_SECOND", 0.001)

    async def test():
        async with visited(receiving_bytes=1000) as (listening, _, intruder):
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                for _ in range(100):
                    await intruder.say(NEXT + bytes(500))
            assert not (await intruder.refused()).startswith("OK")
            assert listening.reasons("belong to no frame") == [intruder.id]

    run(test)


def test_a_message_longer_than_any_ends_the_stream():
    async def test():
        async with visited() as (listening, _, intruder):
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await intruder.say(PLAIN + bytes(8 << 20))
            assert not (await intruder.refused()).startswith("OK")
            assert listening.got == []

    run(test)


def test_a_budget_serves_in_turn_and_forgets_who_gives_up():
    async def test():
        budget, order = Budget(10), []

        async def user(name, nbytes):
            await budget.take(nbytes)
            order.append(name)

        await budget.take(8)
        tasks = []
        for name, nbytes in (("a", 5), ("b", 2), ("c", 9)):
            tasks.append(asyncio.create_task(user(name, nbytes)))
            await asyncio.sleep(0)
        assert order == []  # b would fit, but a was first
        tasks[0].cancel()
        await until(lambda: order == ["b"])
        budget.give(8)
        assert not tasks[2].done()
        budget.give(2)
        await tasks[2]
        assert order == ["b", "c"]
        budget.give(9)
        assert budget._free == 10

    run(test)


def test_a_connection_without_a_stream_is_closed():
    """A member, also one that was expelled since, could else hold as many as there may be, at no cost."""

    def idle(listening, key):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        with tempfile.NamedTemporaryFile() as file:
            file.write(key.key_pem + key.certificate.pem)
            file.flush()
            context.load_cert_chain(file.name)
        with context.wrap_socket(socket.create_connection(("127.0.0.1", listening.transport.port))) as connection:
            connection.settimeout(20)
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            while connection.recv(4096):
                pass

    async def test():
        async with World(3, replace(QUICK, connect_seconds=0.5)) as world:
            listening = await world.start(0)
            busy = await world.start(1, listening, listen=None)
            await until(lambda: listening.transport.connected)
            await asyncio.to_thread(idle, listening, world.sites[2].key)
            assert listening.transport.connected == (busy.id,), "one that is in use goes on"

    run(test)
