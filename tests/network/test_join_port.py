"""The join port: the right certificate or nothing is said, and a flood costs little and ends."""

import asyncio
import contextlib
import hashlib
import logging
import socket
import ssl
import struct
from dataclasses import replace

import pytest
from network_world import NEEDS_IPV6, run, until

from coterie.errors import CoterieError, IdentityError, NetworkError, PeerUnreachable, RunError
from coterie.identity import Identity, TransportKey
from coterie.network.join import JoinLimits, JoinPort, call_join
from coterie.network.join import _network as network

LIMITS = JoinLimits(calls_a_second=1000.0, calls_a_minute_of_an_address=60_000.0)


async def echo(request, address):
    return address.encode() + b": " + request


@contextlib.asynccontextmanager
async def listening(handler=echo, host="127.0.0.1", **limits):
    key = TransportKey.new(Identity.generate())
    port = JoinPort(key, handler, f"{host}:0", replace(LIMITS, **limits))
    await port.start()
    try:
        yield port, f"{host}:{port.port}", hashlib.sha256(key.certificate.der).digest()
    finally:
        await port.close()


@pytest.mark.parametrize(
    ("host", "seen"), [("127.0.0.1", b"127.0.0.1"), pytest.param("[::1]", b"::1", marks=NEEDS_IPV6)]
)
def test_a_question_is_answered(host, seen):
    async def test():
        async with listening(host=host) as (_, address, fingerprint):
            for request in (b"", b"hello", bytes(200_000)):
                assert await call_join(address, fingerprint, request, 5.0) == seen + b": " + request
            answers = await asyncio.gather(*(call_join(address, fingerprint, b"%d" % n, 5.0) for n in range(20)))
            assert answers == [seen + b": %d" % n for n in range(20)]

    run(test)


def test_who_has_its_answer_and_goes_is_no_fault(caplog):
    def ask(port):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with context.wrap_socket(socket.create_connection(("127.0.0.1", port), 5.0)) as line:
            line.sendall(struct.pack(">I", 2) + b"hi")
            assert line.recv(1) == b"\x00"
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closed with a reset

    async def test():
        async with listening() as (port, _, _):
            await asyncio.to_thread(ask, port.port)
            await until(lambda: not port._calls)

    with caplog.at_level(logging.INFO):
        run(test)
    assert not [record.message for record in caplog.records if "join port: " in record.message]


def test_nothing_is_sent_to_a_port_with_another_certificate():
    async def test():
        seen = []

        async def handler(request, address):
            seen.append(request)
            return b""

        async with listening(handler) as (port, address, fingerprint):
            wrong = bytearray(fingerprint)
            wrong[0] ^= 1
            for bad in (bytes(wrong), bytes(32), b"", fingerprint[:31]):
                with pytest.raises(IdentityError, match="another certificate"):
                    await call_join(address, bad, b"secret", 5.0)
            await until(lambda: not port._calls)
            assert seen == []
            assert await call_join(address, fingerprint, b"secret", 5.0) == b""
            assert seen == [b"secret"]

    run(test)


def test_a_new_certificate_is_shown_from_now_on():
    async def test():
        async with listening() as (port, address, old):
            new = TransportKey.new(Identity.generate())
            port.rotate(new)
            assert await call_join(address, new.certificate.fingerprint, b"x", 5.0)
            with pytest.raises(IdentityError):
                await call_join(address, old, b"x", 5.0)

    run(test)


def test_a_port_whose_handler_fails_says_so_and_goes_on():
    async def test():
        async def handler(request, address):
            if request == b"bad":
                raise ValueError("no")
            return b"fine"

        async with listening(handler) as (_, address, fingerprint):
            with pytest.raises(PeerUnreachable, match="could not answer"):
                await call_join(address, fingerprint, b"bad", 5.0)
            assert await call_join(address, fingerprint, b"good", 5.0) == b"fine"

    run(test)


def test_where_nobody_listens():
    async def test():
        async with listening() as (_, address, fingerprint):
            pass
        with pytest.raises(PeerUnreachable, match="no answer") as error:
            await call_join(address, fingerprint, b"x", 5.0)
        assert error.value.remedy
        with pytest.raises(NetworkError, match="does not end in a port"):
            await call_join("nonsense", fingerprint, b"x", 5.0)

    run(test)


def test_a_port_that_never_answers():
    async def test():
        async def silence(reader, writer):
            await asyncio.sleep(60)

        server = await asyncio.start_server(silence, "127.0.0.1", 0)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(PeerUnreachable, match=r"within 0\.2 s"):
            await call_join(address, bytes(32), b"x", 0.2)
        server.close()

        async def slow(request, _):
            await asyncio.sleep(60)

        async with listening(slow) as (_, address, fingerprint):
            with pytest.raises(PeerUnreachable, match=r"within 0\.3 s"):
                await call_join(address, fingerprint, b"x", 0.3)

    run(test)


def test_a_plain_server_is_no_join_port():
    async def test():
        async def plain(reader, writer):
            writer.write(b"HTTP/1.1 400 no\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(plain, "127.0.0.1", 0)
        with pytest.raises(CoterieError):
            await call_join(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", bytes(32), b"x", 5.0)
        server.close()

    run(test)


def test_a_request_that_is_too_long():
    async def test():
        async with listening(request_bytes=100) as (port, address, fingerprint):
            with pytest.raises(PeerUnreachable):
                await call_join(address, fingerprint, bytes(101), 5.0)
            assert await call_join(address, fingerprint, bytes(100), 5.0)
            await until(lambda: not port._calls)

    run(test)


def test_callers_that_are_too_slow_are_cut_off():
    async def test():
        async with listening(seconds=0.3) as (port, address, fingerprint):
            host, number = address.split(":")
            _, plain = await asyncio.open_connection(host, number)  # never begins TLS
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            _, secure = await asyncio.open_connection(host, number, ssl=context)
            secure.write(struct.pack(">I", 1000) + b"never the rest")
            await until(lambda: len(port._calls) == 2)
            await until(lambda: not port._calls, "both cut off")
            assert await call_join(address, fingerprint, b"x", 5.0)
            plain.close()
            secure.close()

    run(test)


def test_calls_of_one_address_are_rationed():
    async def test():
        async with listening(calls_a_minute_of_an_address=5.0) as (port, address, fingerprint):
            for _ in range(5):
                await call_join(address, fingerprint, b"x", 5.0)
            for _ in range(3):
                with pytest.raises(PeerUnreachable):
                    await call_join(address, fingerprint, b"x", 5.0)
            assert port.refused == 3
            # Another address is served.
            _, writer = await asyncio.open_connection(*address.split(":"), local_addr=("127.0.0.2", 0))
            await until(lambda: port._calls)
            writer.close()

    run(test)


def test_calls_in_all_are_rationed():
    async def test():
        async with listening(calls_a_second=2.0) as (port, address, fingerprint):
            outcomes = await asyncio.gather(
                *(call_join(address, fingerprint, b"x", 5.0) for _ in range(10)), return_exceptions=True
            )
            answered = [outcome for outcome in outcomes if isinstance(outcome, bytes)]
            assert 4 <= len(answered) <= 6
            assert port.refused == 10 - len(answered)

    run(test)


def test_a_flood_is_refused_before_tls_and_afterwards_the_port_answers():
    async def test():
        async with listening(calls=4, seconds=0.5) as (port, address, fingerprint):
            host, number = address.split(":")
            connections = [await asyncio.open_connection(host, number) for _ in range(300)]
            await until(lambda: port.refused >= 290)
            assert len(port._calls) <= 4
            await until(lambda: not port._calls)
            assert await call_join(address, fingerprint, b"x", 5.0)
            for _, writer in connections:
                writer.close()

    run(test)


def test_noise_is_survived():
    async def test():
        async with listening() as (port, address, fingerprint):
            host, number = address.split(":")
            for noise in (b"", b"\x16\x03\x01" + bytes(50), b"GET / HTTP/1.1\r\n\r\n", bytes(1000)):
                _, writer = await asyncio.open_connection(host, number)
                writer.write(noise)
                writer.close()
            assert await call_join(address, fingerprint, b"x", 5.0)
            await until(lambda: not port._calls)

    run(test)


def test_the_port_asks_for_tls_1_3():
    async def test():
        async with listening() as (_, address, _):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.open_connection(*address.split(":"), ssl=context)

    run(test)


def test_addresses_are_counted_by_network():
    assert network("10.0.0.7") == "10.0.0.7"
    assert network("::ffff:10.0.0.7") == "10.0.0.7"
    assert network("2001:db8::1") == network("2001:db8::ffff") == "2001:db8::/64"
    assert network("2001:db8:0:1::1") != network("2001:db8::1")
    assert network("fe80::1%eth0") == "fe80::/64"
    assert network("nonsense") == "nonsense"


def test_a_port_that_is_taken_is_named():
    async def test():
        async with listening() as (_, address, _):
            with pytest.raises(RunError, match="cannot be opened"):
                await JoinPort(TransportKey.new(Identity.generate()), echo, address).start()

    run(test)


def test_it_runs_on_uvloop():
    import uvloop

    async def test():
        async with listening() as (_, address, fingerprint):
            assert await call_join(address, fingerprint, b"x", 5.0) == b"127.0.0.1: x"
            with pytest.raises(IdentityError):
                await call_join(address, bytes(32), b"x", 5.0)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(test(), 30))
