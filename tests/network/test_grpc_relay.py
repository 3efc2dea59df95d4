"""Two sites that cannot dial each other, through a member that both can reach, honest or not."""

import asyncio
import contextlib
from dataclasses import replace
from itertools import count

import grpc
import pytest
import torch
from network_world import ELEMENTS, LAYOUT, QUICK, Intruder, World, following, note, run, snapshot, until, vectors

from coterie.network.grpc.relay_route import RelayRoute
from coterie.network.grpc.wire import FIRST, FORWARD, FORWARDED, Addressed
from coterie.network.sealing import Opening


@contextlib.asynccontextmanager
async def hospitals(count=3, limits=QUICK, **more):
    """The first site listens; the others only dial it."""
    async with World(count, replace(limits, **more)) as world:
        relay = await world.start(0)
        others = [await world.start(number, relay, listen=None) for number in range(1, count)]
        await until(lambda: len(relay.transport.connected) == count - 1)
        yield world, relay, *others


def tap(relay, change=lambda sender, message: [message]):
    """Everything the relay passes on, and the chance to change it."""
    seen = []
    forwarding = relay.transport._relay.forwarding
    original = forwarding.take

    def take(link, message):
        seen.append(message)
        for each in change(link.peer, message):
            original(link, each)

    forwarding.take = take
    return seen


def test_frames_go_through_the_relay_both_ways_and_it_can_read_none_of_it():
    async def test():
        async with hospitals() as (_, relay, anna, bert):
            seen = tap(relay)
            secret = snapshot(700_000)
            anna.send(bert, vectors("the secret text", secret))
            bert.send(anna, "another secret text")
            await until(lambda: bert.got and anna.got)
            assert bert.got[0][0] == anna.id
            assert torch.equal(bert.got[0][1].vectors[0].tensor(), secret.tensor())
            assert anna.got == [(bert.id, anna.got[0][1])]
            assert anna.texts == ["another secret text"]
            assert relay.got == []
            passed = b"".join(message.content for message in seen)
            for hidden in (b"secret text", bytes(secret.tensor()[:8].numpy().tobytes()), bytes.fromhex(LAYOUT)):
                assert hidden not in passed
            assert anna.drops == bert.drops == relay.drops == []
            # The receiver's acknowledgements keep the relay's memory bounded.
            senders = relay.transport._relay.forwarding._senders.values()
            await until(lambda: all(not sender.lanes and not sender.waiting for sender in senders))

    run(test)


def test_a_direct_stream_is_preferred_as_soon_as_there_is_one():
    async def test():
        async with hospitals() as (world, _, anna, bert):
            anna.send(bert, "through the relay")
            await until(lambda: bert.got)
            assert isinstance(anna.transport._links[bert.id].route(), RelayRoute)
            await world.stop(bert)
            listening = await world.start(2)
            anna.transport.set_address(listening.id, listening.address)
            anna.send(listening, "x")  # still through the relay, which says that there is no way any more
            await until(lambda: anna.failed == ["x"] or "x" in listening.texts)
            await until(lambda: listening.id in anna.transport.connected)
            sent = world.sites[0].transport.bytes_received
            anna.send(listening, vectors("directly", snapshot(50_000)))
            await until(lambda: "directly" in listening.texts)
            assert world.sites[0].transport.bytes_received - sent < 10_000

    run(test)


@pytest.mark.parametrize("name", ["int8"])
def test_relayed_snapshots_are_compressed_too(name):
    async def test():
        async with World(3) as world:
            relay = await world.start(0)
            anna = await world.start(1, relay, listen=None, compression=name)
            bert = await world.start(2, relay, listen=None)
            await until(lambda: len(relay.transport.connected) == 2)
            anna.send(bert, vectors("x", snapshot(100_000)))
            await until(lambda: bert.got)
            assert anna.transport.bytes_sent < 120_000

    run(test)


def test_a_relay_that_goes_is_replaced_by_another():
    async def test():
        async with World(4) as world:
            relays = [await world.start(number) for number in (0, 1)]
            anna, bert = [await world.start(number, *relays, listen=None) for number in (2, 3)]
            await until(lambda: all(len(r.transport.connected) == 2 for r in relays))
            anna.send(bert, "one")
            await until(lambda: bert.texts == ["one"])
            via = anna.transport._links[bert.id].route().via
            await world.stop(next(r for r in relays if r.id == via))
            anna.send(bert, "two")
            await until(lambda: bert.texts == ["one", "two"])
            assert anna.transport._links[bert.id].route().via != via

    run(test)


def test_a_receiver_that_restarts_is_found_again():
    async def test():
        async with hospitals() as (world, relay, anna, bert):
            anna.send(bert, "one")
            await until(lambda: bert.texts == ["one"])
            await world.stop(bert)
            await until(lambda: len(relay.transport.connected) == 1)
            bert = await world.start(2, relay, listen=None)
            anna.send(bert, "two")  # meets a session that the receiver has forgotten
            await until(lambda: anna.failed == ["two"])
            anna.send(bert, "three")
            await until(lambda: bert.texts == ["one", "three"])

    run(test)


def test_a_receiver_that_was_away_for_longer_than_frames_wait_is_found_again():
    """Neither listens, so nothing but another search for a relay can bring them together."""

    async def test():
        async with World(3, replace(QUICK, hold_seconds=0.2)) as world:
            relay = await world.start(0)
            anna = await world.start(1, relay, listen=None)
            await until(lambda: relay.transport.connected)
            anna.send(world.sites[2], "nobody is there")
            await until(lambda: anna.failed)
            bert = await world.start(2, relay, listen=None)
            for number in count():
                anna.send(bert, f"again {number}")
                if bert.got:
                    break
                await asyncio.sleep(0.02)

    run(test)


def test_a_relay_that_promises_and_passes_nothing_on_is_not_asked_again():
    """Its yes is always the first."""

    async def test():
        async with World(4, replace(QUICK, connect_seconds=1.0)) as world:
            liar, relay = [await world.start(number) for number in (0, 1)]
            anna, bert = [await world.start(number, liar, relay, listen=None) for number in (2, 3)]
            await until(lambda: all(len(site.transport.connected) == 2 for site in (liar, relay)))
            tap(liar, lambda sender, message: [])
            honest = relay.transport._relay
            answer, loop = honest._answer, asyncio.get_running_loop()
            honest._answer = lambda link, message: loop.call_later(0.2, answer, link, message)
            anna.send(bert, "one")
            await until(lambda: bert.texts == ["one"])
            assert anna.transport._links[bert.id].route().via == relay.id

    run(test)


def test_nobody_connected_to_the_receiver_means_failure():
    async def test():
        async with hospitals(hold_seconds=0.3) as (world, _, anna, bert):
            await world.stop(bert)
            anna.send(bert, "x")
            await until(lambda: anna.failed)

    run(test)


def test_what_the_relay_changes_repeats_or_invents_is_refused():
    async def test():
        async with hospitals() as (_, relay, anna, bert):
            taken = []

            def evil(sender, message):
                if message.peer != bert.id or message.content[:1] != b"\x02":
                    return [message]
                taken.append(message)
                changed = bytearray(message.content)
                changed[20] ^= 1
                return [message, message, Addressed(message.peer, bytes(changed)), Addressed(message.peer, b"\x02junk")]

            tap(relay, evil)
            for number in range(5):
                anna.send(bert, f"{number}")
                await until(lambda number=number: len(bert.got) == number + 1)
            assert bert.texts == [f"{n}" for n in range(5)]
            await until(lambda: len(bert.reasons("wrong relayed message")) >= 10)
            assert {peer for peer, _ in bert.drops} == {relay.id}
            assert len(bert.reasons("came twice")) >= 1
            # Later, once more, and as if it came from the relay itself or from nobody.
            link = relay.transport._links[anna.id]
            for message in taken[:]:
                relay.transport._relay.forwarding.take(link, message)
            stream = relay.transport._links[bert.id].direct()
            for sender in (relay.id, bert.id, "ab" * 32):
                for message in taken[:5]:
                    await stream.send(Addressed(sender, message.content).encode(FORWARDED))
            anna.send(bert, "last")
            await until(lambda: bert.texts[-1] == "last")
            assert len(bert.got) == 6

    run(test)


def test_a_lost_message_costs_its_frame_and_no_other():
    async def test():
        async with hospitals() as (_, relay, anna, bert):
            count = [0]

            def lossy(_, message):
                if message.content[:1] == b"\x02" and message.peer == bert.id:
                    count[0] += 1
                    return [] if count[0] == 2 else [message]
                return [message]

            tap(relay, lossy)
            anna.send(bert, vectors("damaged", snapshot(ELEMENTS)))
            anna.send(bert, vectors("whole", snapshot(ELEMENTS, 1)))
            await until(lambda: bert.texts == ["whole"])
            assert bert.reasons("truncated frame")

    run(test)


def test_sessions_opened_in_anothers_name_are_refused():
    async def test():
        async with hospitals() as (world, relay, anna, bert):
            stream = relay.transport._links[bert.id].direct()
            opening = Opening(relay.identity, world.members.genesis, bert.id, 1)  # the relay's own signature
            await stream.send(Addressed(anna.id, b"\x00" + opening.content).encode(FORWARDED))
            await until(lambda: bert.reasons("is not opened by who it is said to come from"))
            assert {peer for peer, _ in bert.drops} == {relay.id}
            await stream.send(Addressed("ab" * 32, b"\x00" + opening.content).encode(FORWARDED))
            await until(lambda: bert.reasons("its sender is not a member"))
            anna.send(bert, "honest")
            await until(lambda: bert.texts == ["honest"])

    run(test)


def test_members_that_are_expelled_are_not_relayed_for():
    async def test():
        async with hospitals(4) as (world, relay, anna, bert, carl):
            anna.send(bert, "one")
            carl.send(bert, "one")
            await until(lambda: len(bert.got) == 2)
            remaining = following(world.members, [site.key.certificate for site in world.sites if site is not anna])
            # The relay has not heard yet: the receiver refuses all the same.
            bert.transport.set_members(remaining)
            anna.send(bert, "two")
            await until(lambda: bert.reasons("its sender is not a member"))
            relay.transport.set_members(remaining)
            assert anna.id not in relay.transport.connected
            carl.send(bert, "three")
            await until(lambda: bert.texts[-1] == "three")
            assert [
                text for sender, text in zip([s for s, _ in bert.got], bert.texts, strict=True) if sender == anna.id
            ] == ["one"]

    run(test)


def test_what_one_member_has_relayed_is_bounded():
    async def test():
        async with hospitals(relayed_bytes_waiting=3000, relays_of_a_peer=2, relayed_bytes_a_second=100.0) as (
            _,
            relay,
            anna,
            bert,
        ):
            link = relay.transport._links[anna.id]
            forwarding = relay.transport._relay.forwarding
            for _ in range(5):
                forwarding.take(link, Addressed(bert.id, bytes(1000)))
            assert relay.reasons("the limit is relayed_bytes_waiting") == [anna.id] * 2
            assert forwarding._senders[anna.id].waiting == 3000

    run(test)


def test_receivers_at_a_time_are_bounded():
    async def test():
        async with hospitals(5, relays_of_a_peer=2) as (_, relay, anna, *others):
            link = relay.transport._links[anna.id]
            for other in others:
                relay.transport._relay.forwarding.take(link, Addressed(other.id, bytes(10)))
            assert relay.reasons("the limit is relays_of_a_peer") == [anna.id]

    run(test)


def test_relayed_bytes_go_at_the_stated_rate():
    async def test():
        rate = 400_000.0
        async with hospitals(relayed_bytes_a_second=rate) as (_, _, anna, bert):
            loop = asyncio.get_running_loop()
            start = loop.time()
            for seed in range(3):
                anna.send(bert, vectors("x", snapshot(65_000, seed)))  # 780 kB, 400 kB of them at once
            await until(lambda: len(bert.got) == 3)
            assert loop.time() - start > (780_000 - rate) / rate

    run(test)


def test_a_slow_receiver_does_not_hold_up_others():
    async def test():
        async with hospitals(4) as (world, relay, anna, bert, carl):
            await world.stop(carl)
            async with Intruder(relay, world.sites[3].key) as slow:
                await slow.greet()
                link = relay.transport._links[anna.id]
                for _ in range(14):  # it reads none of this
                    relay.transport._relay.forwarding.take(link, Addressed(carl.id, bytes(1 << 20)))
                anna.send(bert, vectors("x", snapshot(ELEMENTS // 4)))
                await until(lambda: bert.texts == ["x"])

    run(test)


def test_questions_are_rationed():
    async def test():
        async with hospitals(4) as (world, relay, anna, bert, carl):
            await world.stop(carl)
            async with Intruder(relay, world.sites[3].key) as intruder:
                await intruder.greet()
                with contextlib.suppress(grpc.aio.AioRpcError):
                    for _ in range(600):
                        await intruder.say(b"\x04" + bytes.fromhex(bert.id))
                await until(lambda: relay.reasons("too many questions"))
                await intruder.say(FORWARD + bytes.fromhex(carl.id) + b"to itself")
                await intruder.say(FIRST + b"\x00" + b"".join(note("good").chunks()))
                await until(lambda: relay.texts == ["good"])
            anna.send(bert, "honest")
            await until(lambda: bert.texts == ["honest"])

    run(test)
