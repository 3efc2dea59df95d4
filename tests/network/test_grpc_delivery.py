"""Frames between honest peers: both ways over whichever stream there is, through restarts and new certificates."""

import asyncio
from dataclasses import replace

import pytest
import torch
from network_world import (
    GENESIS,
    NEEDS_IPV6,
    QUICK,
    World,
    following,
    note,
    run,
    settled,
    snapshot,
    until,
    vectors,
)

from coterie.errors import IdentityError, NetworkError, RunError
from coterie.identity import Identity, TransportKey
from coterie.network.compression import encoding
from coterie.network.grpc import GrpcTransport
from coterie.network.limits import Limits
from coterie.network.members import Members


@pytest.mark.parametrize("listen", ["127.0.0.1:0", pytest.param("[::1]:0", marks=NEEDS_IPV6)])
@pytest.mark.parametrize("dials", [0, 1])
def test_frames_go_both_ways_over_one_stream_whoever_dialled(dials, listen):
    async def test():
        async with World(2) as world:
            listening = await world.start(1 - dials, listen=listen)
            dialling = await world.start(dials, listening, listen=None)
            dialling.send(listening, "there")
            await until(lambda: listening.got)
            listening.send(dialling, "and back")
            await until(lambda: dialling.got)
            big = vectors("big", snapshot(600_000, 1), snapshot(5, 2))
            listening.send(dialling, big)
            await until(lambda: len(dialling.got) == 2)
            assert [(sender, m.text) for sender, m in listening.got] == [(dialling.id, "there")]
            assert [(sender, m.text) for sender, m in dialling.got] == [
                (listening.id, "and back"),
                (listening.id, "big"),
            ]
            for ours, theirs in zip(big.snapshots, dialling.got[1][1].vectors, strict=True):
                assert torch.equal(ours.tensor(), theirs.tensor())
            for site in (listening, dialling):
                assert (len(site.transport._links), site.failed, site.drops) == (1, [], [])
                assert [len(link.streams) for link in site.transport._links.values()] == [1]
            assert big.nbytes < listening.transport.bytes_sent < 1.001 * big.nbytes + 1000
            assert listening.transport.bytes_sent == dialling.transport.bytes_received

    run(test)


def test_a_site_that_only_dials_out_is_reached_without_having_sent_anything():
    async def test():
        async with World(2) as world:
            listening = await world.start(0)
            outbound = await world.start(1, listening, listen=None)
            assert outbound.transport.port is None
            listening.send(outbound, "hello")  # waits until the other has dialled
            await until(lambda: outbound.texts == ["hello"])

    run(test)


def test_both_dial_at_once_and_one_stream_is_kept():
    async def test():
        for _ in range(5):
            async with World(2) as world:
                first, second = await world.start(0), await world.start(1)
                first.transport.set_address(second.id, second.address)
                second.transport.set_address(first.id, first.address)
                sent = [f"{n}" for n in range(40)]
                for text in sent:
                    first.send(second, text)
                    second.send(first, text)
                    await asyncio.sleep(0)
                await until(lambda a=first, b=second: len(a.got) >= 40 and len(b.got) >= 40)
                streams = [
                    site.transport._links[other.id].streams for site, other in ((first, second), (second, first))
                ]
                await until(lambda s=streams: [len(each) for each in s] == [1, 1], "one stream")
                # Of two, that of the smaller id.
                assert [each[0].ours for each in streams] in ([True, False], [False, True])
                first.send(second, "last")
                await until(lambda b=second: b.texts[-1] == "last")
                assert sorted(first.texts) == sorted(sent)
                assert sorted(second.texts) == sorted([*sent, "last"])
                assert first.failed == second.failed == []

    run(test)


def test_of_two_streams_the_smaller_ids_is_kept():
    async def test():
        async with World(2) as world:
            first, second = await world.start(0), await world.start(1)
            for site, other in ((second, first), (first, second)):
                site.transport.set_address(other.id, other.address)
            second.send(first, "from the second")
            await until(lambda: first.got)
            link = first.transport._links[second.id]
            assert not link.streams[0].ours
            stream = await first.transport._dialler.dial(second.id, second.address, alone=True)
            first.transport._station.spawn(first.transport._dialler.read(stream, link))
            link.add(stream)
            other = second.transport._links[first.id]
            await until(lambda: link.streams == [stream] and [s.ours for s in other.streams] == [False])
            second.send(first, "again")
            await until(lambda: first.texts == ["from the second", "again"])

    run(test)


@pytest.mark.parametrize("restarts", [0, 1])
def test_after_a_restart_frames_arrive_again(restarts):
    async def test():
        async with World(2) as world:
            listening = await world.start(0)
            dialling = await world.start(1, listening, listen=None)
            dialling.send(listening, "before")
            await until(lambda: listening.got)
            if restarts == 0:
                port = listening.transport.port
                await world.stop(listening)
                await until(lambda: not dialling.transport.connected)
                dialling.send(listening, "while it is down")
                await world.start(0, listen=f"127.0.0.1:{port}")
            else:
                await world.stop(dialling)
                await until(lambda: not listening.transport.connected)
                listening.send(dialling, "while it is down")
                await world.start(1, listening, listen=None)
            dialling.send(listening, "after")
            listening.send(dialling, "after")
            await until(lambda: "after" in listening.texts and "after" in dialling.texts)
            assert "while it is down" in listening.texts + dialling.texts
            assert listening.failed == dialling.failed == []

    run(test)


def test_a_stream_of_an_earlier_process_is_dead():
    """The peer was killed and is back before anybody has noticed."""

    async def test():
        async with World(2) as world:
            listening = await world.start(0)
            dialling = await world.start(1, listening, listen=None)
            await until(lambda: listening.transport.connected)
            old = listening.transport._links[dialling.id].streams[0]
            again = await world.start(1, listening, listen=None)
            await until(lambda: old.ended)
            assert old.ended == "the peer has started anew"
            listening.send(again, "to the new one")
            await until(lambda: again.texts == ["to the new one"])

    run(test)


def test_frames_for_somebody_who_is_not_there_fail_late_at_first_then_at_once():
    async def test():
        async with World(2, replace(QUICK, hold_seconds=0.2)) as world:
            alone = await world.start(0)
            loop = asyncio.get_running_loop()
            start = loop.time()
            alone.send(world.sites[1], "x")
            await until(lambda: alone.failed)
            assert loop.time() - start >= 0.2
            alone.send(world.sites[1], "y")
            await asyncio.sleep(0)
            assert len(alone.failed) == 2
            # It comes after all.
            dialling = await world.start(1, alone, listen=None)
            await until(lambda: alone.transport.connected)
            alone.send(dialling, "z")
            await until(lambda: dialling.texts == ["z"])

    run(test)


def test_a_refused_address_is_dialled_again_and_a_better_one_at_once():
    async def test():
        async with World(2) as world:
            site, other = await world.start(0), await world.start(1)
            probe = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
            nowhere = probe.sockets[0].getsockname()[1]
            probe.close()
            await probe.wait_closed()
            site.transport.set_address(other.id, f"127.0.0.1:{nowhere}")
            site.send(other, "x")
            link = site.transport._links[other.id]
            await until(lambda: link._pause > 0.3, "some attempts")
            site.transport.set_address(other.id, other.address)
            await until(lambda: other.texts == ["x"])
            site.transport.set_address(other.id, None)
            assert link.address is None

    run(test)


def test_strangers_and_oneself_cannot_be_posted_to():
    async def test():
        async with World(1) as world:
            site = await world.start(0)
            for to in (site.id, Identity.generate().id, "nonsense"):
                site.transport.post(to, note("x"), lambda to=to: site.failed.append(to))
            await asyncio.sleep(0)
            assert len(site.failed) == 3

    run(test)


def test_closing_sends_what_is_queued_and_fails_what_cannot_be():
    async def test():
        async with World(3) as world:
            listening = await world.start(0)
            dialling = await world.start(1, listening, listen=None)
            await until(lambda: dialling.transport.connected)
            frames = [vectors(f"{n}", snapshot(300_000, n)) for n in range(6)]
            for frame in frames:
                dialling.send(listening, frame)
            dialling.send(world.sites[2], "unreachable")
            await world.stop(dialling)
            await until(lambda: len(listening.got) == 6)
            assert listening.texts == [f"{n}" for n in range(6)]
            assert len(dialling.failed) == 1
            dialling.send(listening, "late")
            await asyncio.sleep(0)
            assert len(dialling.failed) == 2

    run(test)


@pytest.mark.parametrize("name", ["fp16", "int8", "zstd"])
def test_compressed_snapshots_are_fewer_bytes_and_what_arrives_is_what_was_decoded(name):
    async def test():
        async with World(2) as world:
            listening = await world.start(0)
            dialling = await world.start(1, listening, listen=None, compression=name)
            ours = snapshot(700_000)
            dialling.send(listening, vectors("x", ours))
            await until(lambda: listening.got)
            (theirs,) = listening.got[0][1].vectors
            expected = torch.empty(ours.size)
            kind = encoding(name)
            for start in range(0, ours.size, 1 << 18):
                part = ours.tensor()[start : start + (1 << 18)].numpy()
                kind.decode(kind.encode(part), expected[start : start + (1 << 18)].numpy())
            assert torch.equal(theirs.tensor(), expected)
            share = {"fp16": 0.5, "int8": 0.26, "zstd": 0.97}[name]
            assert dialling.transport.bytes_sent < 4 * ours.size * share + 3000
            listening.send(dialling, vectors("plain", ours))  # the other end does not compress
            await until(lambda: dialling.got)
            assert torch.equal(dialling.got[0][1].vectors[0].tensor(), ours.tensor())

    run(test)


def test_what_the_other_end_cannot_decode_is_sent_plainly(monkeypatch):
    from coterie.network.grpc import serving

    async def test():
        monkeypatch.setattr(serving, "encodings", lambda: (encoding("none"), encoding("fp16")))
        async with World(2) as world:
            listening = await world.start(0)
            dialling = await world.start(1, listening, listen=None, compression="int8")
            dialling.send(listening, vectors("x", snapshot(1000)))
            await until(lambda: listening.got)
            assert torch.equal(listening.got[0][1].vectors[0].tensor(), snapshot(1000).tensor())

    run(test)


def test_certificates_are_rotated_without_losing_a_frame():
    async def test():
        async with World(2) as world:
            listening = await world.start(0)
            dialling = await world.start(1, listening, listen=None)
            sent, done = [], asyncio.Event()

            async def chatter():
                while not done.is_set():
                    text = str(len(sent))
                    sent.append(text)
                    dialling.send(listening, vectors(text, snapshot(50_000, len(sent))))
                    listening.send(dialling, text)
                    await asyncio.sleep(0.001)

            talk = asyncio.create_task(chatter())
            await until(lambda: len(listening.got) > 10)
            for site, other in ((dialling, listening), (listening, dialling)):
                old = site.transport._links[other.id].streams[0]
                new = TransportKey.new(site.identity)
                certificates = [site.key.certificate for site in world.sites]
                both = following(world.members, [*certificates, new.certificate])
                for each in world.sites:
                    each.transport.set_members(both)
                site.transport.rotate(new)
                site.key = new
                if site is dialling:
                    await until(lambda old=old: old.retired, "a stream with the new certificate")
                after = following(both, [site.key.certificate for site in world.sites])
                for each in world.sites:
                    each.transport.set_members(after)
                await until(lambda old=old: old.ended, "the old stream's end")
                count = len(sent)
                await until(lambda count=count: len(sent) > count + 10)
            done.set()
            await talk
            await until(lambda: len(listening.got) == len(sent) == len(dialling.got), "all frames")
            assert sorted(listening.texts, key=int) == sent
            assert sorted(dialling.texts, key=int) == sent
            assert [s.failed + s.drops for s in world.sites] == [[], []]
            stream = listening.transport._links[dialling.id].streams[0]
            assert stream.certificates == {dialling.key.certificate.fingerprint}

    run(test)


def test_streams_that_are_cut_while_writing_leave_nothing_behind():
    async def test():
        async with World(2) as world:
            listening = await world.start(0)
            dialling = await world.start(1, listening, listen=None)
            counts = []
            for _ in range(20):
                await until(lambda: listening.transport.connected and dialling.transport.connected, "a stream")
                link = dialling.transport._links[listening.id]
                stream = link.streams[0]
                for seed in range(4):
                    dialling.send(listening, vectors("x", snapshot(700_000, seed)))
                    listening.send(dialling, vectors("y", snapshot(700_000, seed)))
                await until(lambda link=link: link._busy is not None or not link._queued, "a write")
                listening.transport._links[dialling.id].streams[0].end("cut")
                link._pause = 0.001  # or each attempt would wait longer
                await until(lambda link=link, stream=stream: stream not in link.streams, "the stream's end")
                dialling.transport.set_address(listening.id, None)
                dialling.transport.set_address(listening.id, listening.address)
                counts.append(len(asyncio.all_tasks()))
            assert max(counts[10:]) <= max(counts[:5]) + 3, counts

    run(test)


def test_wrong_settings_are_the_users_mistake():
    identity = Identity.generate()
    key, members = TransportKey.new(identity), Members.of(GENESIS, [])

    def make(**more):
        return GrpcTransport(identity, key, members, lambda *_: None, Limits(), **more)

    for address in ("here", "unix:/tmp/x", "host:99999", "[::zz]:1", "http://host:1", ":80"):
        with pytest.raises(NetworkError):
            make(listen=address)
        with pytest.raises(NetworkError):
            make(addresses={"ab" * 32: address})
    make(listen="[::1]:0", addresses={"ab" * 32: "node-1.example.org:7400"})
    with pytest.raises(IdentityError, match="another peer's"):
        GrpcTransport(identity, TransportKey.new(Identity.generate()), members, lambda *_: None)
    with pytest.raises(IdentityError, match="another federation"):
        make().set_members(Members.of(bytes(32), []))


def test_a_port_that_is_taken_is_named():
    async def test():
        async with World(2) as world:
            site = await world.start(0)
            with pytest.raises(RunError, match="cannot be listened on"):
                await world.start(1, listen=site.address)

    run(test)


def test_it_runs_on_uvloop():
    import uvloop

    async def test():
        async with World(2) as world:
            listening = await world.start(0)
            dialling = await world.start(1, listening, listen=None)
            dialling.send(listening, vectors("x", snapshot(300_000)))
            await until(lambda: listening.texts == ["x"])

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(test(), 60))
        runner.run(settled())
