"""Whoever is not who it should be is refused, has no effect, and honest peers go on."""

import asyncio
import datetime
import hashlib
import logging
from dataclasses import replace

import grpc
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from network_world import (
    GENESIS,
    OTHER_GENESIS,
    QUICK,
    Intruder,
    Site,
    World,
    following,
    note,
    run,
    snapshot,
    until,
    vectors,
)

from coterie.identity import Certificate, Identity, TransportKey
from coterie.identity.certificates import tls_name
from coterie.network.codec import WIRE_VERSION
from coterie.network.grpc.wire import FIRST, METHOD, Hello
from coterie.network.members import Members


async def honest(world: World) -> tuple[Site, Site]:
    """Two members that are connected."""
    listening = await world.start(0)
    dialling = await world.start(1, listening, listen=None)
    await until(lambda: listening.transport.connected)
    return listening, dialling


async def undisturbed(listening: Site, dialling: Site) -> None:
    """Nothing came but what the honest peer sends now."""
    assert listening.got == []
    dialling.send(listening, "honest")
    await until(lambda: listening.got)
    assert listening.got[0][0] == dialling.id


async def kept_out(target: Site, key: TransportKey | None) -> str:
    async with Intruder(target, key) as intruder:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await intruder.greet()
            await intruder.say(FIRST + b"\x00" + b"".join(note("evil").chunks()))
            while True:
                assert await intruder.call.read() is not grpc.aio.EOF
        return f"{refused.value.code().name}: {refused.value.details()}"


def minted(issuer: TransportKey, victim: str) -> TransportKey:
    """A certificate in the victim's name, signed with a member's key, and the member's own behind it."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    member = x509.load_der_x509_certificate(issuer.certificate.der)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, tls_name(victim))]))
        .issuer_name(member.subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(tls_name(victim))]), critical=False)
        .sign(serialization.load_pem_private_key(issuer.key_pem, None), hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())

    class Chain(Certificate):
        pem = certificate.public_bytes(serialization.Encoding.PEM) + issuer.certificate.pem

    return TransportKey(Chain(victim, certificate.public_bytes(serialization.Encoding.DER), bytes(64)), pem)


def test_no_certificate():
    async def test():
        async with World(2) as world:
            pair = await honest(world)
            assert (await kept_out(pair[0], None)).startswith("UNAVAILABLE")
            await undisturbed(*pair)

    run(test)


def test_a_self_made_certificate_and_one_in_a_members_name():
    async def test():
        async with World(2) as world:
            pair = await honest(world)
            stranger = TransportKey.new(Identity.generate())
            assert (await kept_out(pair[0], stranger)).startswith("UNAVAILABLE")
            # The member's name is in it, another key made it.
            imposter = TransportKey.new(pair[1].identity)
            assert (await kept_out(pair[0], imposter)).startswith("UNAVAILABLE")
            await undisturbed(*pair)

    run(test)


def test_a_certificate_minted_by_a_member_for_anothers_name():
    async def test():
        async with World(3) as world:
            pair = await honest(world)
            evil = world.sites[2]
            assert (await kept_out(pair[0], minted(evil.key, pair[1].id))).startswith("UNAVAILABLE")
            await undisturbed(*pair)

    run(test)


def test_a_member_that_pretends_to_listen_in_anothers_place():
    """The dialling end pins the one certificate, too: a member's own, or one it has minted, is not the victim's."""

    async def test():
        async with World(3) as world:
            victim, evil = world.sites[0], await world.start(2)
            dialling = await world.start(1, listen=None)
            for key in (evil.key, minted(evil.key, victim.id)):
                evil.transport._station.transport_key = key
                dialling.transport.set_address(victim.id, evil.address)
                dialling.send(victim, "secret")
                link = dialling.transport._links[victim.id]
                await until(lambda link=link: link._pause > 0.3, "some attempts")
                dialling.transport.set_address(victim.id, None)
            assert evil.got == []
            assert dialling.transport.connected == ()

    run(test)


def test_a_member_of_another_federation(caplog):
    caplog.set_level(logging.INFO, "coterie.network")

    async def test():
        async with World(2) as world, World(2, genesis=OTHER_GENESIS) as others:
            pair = await honest(world)
            # It is a member of both, and mixes them up.
            (stranger,) = others.sites[:1]
            both = [*(site.key.certificate for site in world.sites), stranger.key.certificate]
            pair[0].transport.set_members(following(world.members, both))
            others.members = Members.of(OTHER_GENESIS, [site.key.certificate for site in [*others.sites, pair[0]]])
            site = await others.start(0, pair[0], listen=None)
            await until(lambda: pair[0].reasons("wrong hello"))
            assert pair[0].reasons("the federation 020202020202 is not 010101010101") == [site.id]
            await until(lambda: "FAILED_PRECONDITION: the federation" in caplog.text)  # what the dialling end logs
            assert site.transport.connected == ()
            # A certificate of the other federation alone is a stranger's.
            assert (await kept_out(pair[0], others.sites[1].key)).startswith("UNAVAILABLE")
            await undisturbed(*pair)

    run(test)


def test_expulsion_cuts_the_open_stream_and_keeps_the_peer_out():
    async def test():
        async with World(3) as world:
            listening, dialling = await honest(world)
            async with Intruder(listening, world.sites[2].key) as intruder:
                await intruder.greet()
                await until(lambda: len(listening.transport.connected) == 2)
                remaining = following(world.members, [site.key.certificate for site in world.sites[:2]])
                listening.transport.set_members(remaining)
                # At once: it is gone before anything else can happen.
                assert listening.transport.connected == (dialling.id,)
                failed = None
                try:
                    await intruder.say(FIRST + b"\x00" + b"".join(note("too late").chunks()))
                except grpc.aio.AioRpcError as error:  # a write that fails hides the status
                    failed = error
                assert failed is not None or await intruder.refused() == "PERMISSION_DENIED: expelled"
                # The connection still stands: a new stream on it is refused by the exact certificate.
                with pytest.raises(grpc.aio.AioRpcError, match="not a member"):
                    await intruder.greet()
            assert (await kept_out(listening, world.sites[2].key)).startswith("UNAVAILABLE")
            await undisturbed(listening, dialling)

    run(test)


def test_expulsion_cuts_streams_that_were_dialled_too():
    async def test():
        async with World(2) as world:
            listening, dialling = await honest(world)
            dialling.transport.set_members(following(world.members, [dialling.key.certificate]))
            assert dialling.transport.connected == ()
            listening.send(dialling, "x")
            await until(lambda: not listening.transport.connected)
            assert dialling.got == []

    run(test)


def test_an_expelled_peer_that_does_not_read_is_cut_too():
    async def test():
        async with World(3) as world:
            listening, dialling = await honest(world)
            async with Intruder(listening, world.sites[2].key) as intruder:
                await intruder.greet()
                await until(lambda: len(listening.transport.connected) == 2)
                for seed in range(8):
                    listening.send(world.sites[2], vectors("x", snapshot(1 << 20, seed)))
                link = listening.transport._links[world.sites[2].id]
                seen = [0]

                def blocked():
                    seen.append(listening.transport.bytes_sent)
                    return link._busy is not None and seen[-50:] == [seen[-1]] * 50

                await until(blocked, "a write that blocks")
                listening.transport.set_members(
                    following(world.members, [site.key.certificate for site in world.sites[:2]])
                )
                assert listening.transport.connected == (dialling.id,)
                await until(lambda: len(listening.failed) >= 2)
                await until(lambda: listening.transport._listener.streams == 1, "the end of the call")
                assert "OK" not in await intruder.refused()
            await undisturbed(listening, dialling)

    run(test)


def test_the_sender_is_who_tls_has_proved():
    """A message that says it comes from somebody else: the receiver is told who it came from."""

    async def test():
        async with World(3) as world:
            listening, dialling = await honest(world)
            evil = world.sites[2]
            async with Intruder(listening, evil.key) as intruder:
                await intruder.greet()
                await intruder.say(FIRST + b"\x00" + b"".join(note(f"I am {dialling.id}").chunks()))
                await until(lambda: listening.got)
                assert listening.got[0][0] == evil.id

    run(test)


def plain_hello(**changes) -> bytes:
    fields = {
        "magic": "coterie",
        "lowest": WIRE_VERSION,
        "highest": WIRE_VERSION,
        "genesis": GENESIS,
        "session": bytes(16),
        "alone": True,
        "encodings": ["none"],
    }
    return msgspec.msgpack.encode(list((fields | changes).values()))


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (plain_hello(lowest=WIRE_VERSION + 1, highest=WIRE_VERSION + 3), "wire versions 2 to 4 do not meet 1 to 1"),
        (plain_hello(lowest=0, highest=WIRE_VERSION - 1), "wire versions 0 to 0 do not meet 1 to 1"),
        (plain_hello(genesis=OTHER_GENESIS), "is not 010101010101"),
        (plain_hello(genesis=b"short"), "does not begin with a hello"),
        (plain_hello(encodings=["x"] * 17), "does not begin with a hello"),
        (plain_hello(magic="other"), "does not begin with a hello"),
        (b"", "does not begin with a hello"),
        (b"".join(note("x").chunks()), "does not begin with a hello"),
        (b"\x91" * 2500, "does not begin with a hello"),
    ],
)
def test_a_wrong_hello_is_refused_with_the_reason(hello, reason):
    async def test():
        async with World(3) as world:
            pair = await honest(world)
            async with Intruder(pair[0], world.sites[2].key) as intruder:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await intruder.greet(hello=hello)
                assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
                assert reason in refused.value.details()
            assert pair[0].reasons("wrong hello") == [world.sites[2].id]
            await undisturbed(*pair)

    run(test)


def test_a_later_version_that_still_speaks_this_one_is_welcome():
    async def test():
        async with World(2) as world:
            listening = await world.start(0)
            async with Intruder(listening, world.sites[1].key) as intruder:
                hello = plain_hello(highest=WIRE_VERSION + 5)
                longer = msgspec.msgpack.encode([*msgspec.msgpack.decode(hello), "a field of the future"])
                answer = await intruder.greet(hello=longer)
                assert msgspec.msgpack.decode(answer[1:], type=Hello).genesis == GENESIS

    run(test)


def test_the_certificate_that_is_shown_is_the_one_in_force():
    async def test():
        async with World(2) as world:
            listening = await world.start(0)
            old = listening.key.certificate
            new = TransportKey.new(listening.identity)
            listening.transport.rotate(new)
            async with Intruder(listening, world.sites[1].key, trusts=new.certificate.pem) as intruder:
                assert await intruder.greet()
            async with Intruder(listening, world.sites[1].key, trusts=old.pem) as intruder:
                with pytest.raises(grpc.aio.AioRpcError):
                    await intruder.greet()
            assert hashlib.sha256(new.certificate.der).digest() != old.fingerprint

    run(test)


def test_nobody_is_let_in_where_there_are_no_members():
    async def test():
        async with World(1) as world:
            world.members = Members.of(GENESIS, [])
            listening = await world.start(0)
            assert (await kept_out(listening, TransportKey.new(Identity.generate()))).startswith("UNAVAILABLE")
            # Not even with this peer's own certificate.
            assert "not a member" in await kept_out(listening, listening.key)
            await asyncio.sleep(0)

    run(test)


def test_who_comes_again_and_again_does_not_fill_the_log(caplog):
    """A refusal costs the refused one nothing: an expelled member keeps its connection and asks for streams on it."""

    async def test():
        async with World(2) as world:
            listening = await world.start(0)
            outcast = world.sites[1]
            async with Intruder(listening, outcast.key) as intruder:
                await intruder.greet()
                listening.transport.set_members(following(world.members, [listening.key.certificate]))
                for _ in range(200):
                    with pytest.raises(grpc.aio.AioRpcError):
                        await intruder.greet()
                        await intruder.call.read()

    with caplog.at_level(logging.INFO):
        run(test)
    lines = [record for record in caplog.records if "refused" in record.getMessage()]
    assert 8 <= len(lines) <= 12


def test_a_member_that_opens_streams_without_end_is_stopped(caplog):
    async def test():
        async with World(2, replace(QUICK, streams_a_minute_of_a_peer=10)) as world:
            listening = await world.start(0)
            async with Intruder(listening, world.sites[1].key) as intruder:
                for _ in range(10):
                    await intruder.greet()
                    intruder.call.cancel()
                    intruder.call._cython_call.cancel("over")
                    await until(lambda: not listening.transport.connected)
                for _ in range(100):
                    with pytest.raises(grpc.aio.AioRpcError, match="streams_a_minute_of_a_peer"):
                        await intruder.greet()
            assert (
                listening.drops
                == [(world.sites[1].id, "too many streams: the limit is streams_a_minute_of_a_peer")] * 100
            )

    with caplog.at_level(logging.INFO):
        run(test)
    assert len(caplog.records) < 40


def test_what_the_listening_end_says_cannot_steer_a_terminal(caplog):
    async def refuse(request, context):
        await context.abort(grpc.StatusCode.UNAVAILABLE, "gone\x1b[2J\r\n2026 INFO coterie.node: all is well\u202e")

    async def test():
        async with World(2) as world:
            liar = world.sites[0]
            server = grpc.aio.server()
            service, method = METHOD.strip("/").split("/")
            handler = grpc.stream_stream_rpc_method_handler(refuse)
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
            pair = [(liar.key.key_pem, liar.key.certificate.pem)]
            port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(pair))
            await server.start()
            victim = await world.start(1, listen=None)
            victim.transport.set_address(liar.id, f"127.0.0.1:{port}")
            await until(lambda: any("all is well" in record.getMessage() for record in caplog.records))
            await server.stop(None)

    with caplog.at_level(logging.DEBUG, "coterie"):
        run(test)
    assert all(record.getMessage().isprintable() for record in caplog.records if record.name.startswith("coterie"))
