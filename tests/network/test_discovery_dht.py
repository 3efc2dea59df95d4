"""Real nodes of the distributed hash table, on 127.0.0.1."""

import asyncio
import logging
import os
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from coterie.errors import NetworkError
from coterie.network.discovery import Address, Dht, DhtLimits
from coterie.network.discovery.dht import MOST_RECORD_BYTES
from coterie.network.discovery.table import settings_for

DEADLINE = 60.0
"""Seconds: for machines that are busy. On a quiet one nothing here takes two."""
HASH, SALT = b"h" * 20, b"salt"


def until(condition):
    """Wait until an async condition holds."""

    async def wait():
        async with asyncio.timeout(DEADLINE):
            while not await condition():
                await asyncio.sleep(0.02)

    return wait()


def node(bootstrap=(), state_path=None, limits=None):
    return Dht("127.0.0.1:0", bootstrap, state_path, private_networks=True, limits=limits)


@asynccontextmanager
async def table(count, limits=None):
    """Nodes that know each other."""
    first = node(limits=limits)
    nodes = [first]
    try:
        await first.start()
        for _ in range(count - 1):
            nodes.append(node([f"127.0.0.1:{first.port}"], limits=limits))
            await nodes[-1].start()

        async def meshed():
            return min([await n.nodes() for n in nodes]) == count - 1

        await until(meshed)
        yield nodes
    finally:
        for n in nodes:
            await n.close()


def test_announced_and_found():
    async def main():
        async with table(4) as nodes:
            wanted = set()
            for number, n in enumerate(nodes):
                n.announce(HASH, 4001 + number)
                wanted.add(Address.of("127.0.0.1", 4001 + number))
            found = [set() for _ in nodes]

            async def all_found():
                answers = await asyncio.gather(*(n.find(HASH, 0.2) for n in nodes))
                for seen, answer in zip(found, answers, strict=True):
                    seen |= answer
                return all(seen >= wanted for seen in found)

            await until(all_found)
            assert found == [wanted] * 4
            assert await nodes[0].find(b"i" * 20, 0.2) == set()
            with pytest.raises(NetworkError):
                nodes[0].announce(HASH, 0)
            with pytest.raises(NetworkError):
                nodes[0].announce(b"short", 4001)

    asyncio.run(main())


def test_of_two_nodes_each_finds_the_other():
    """A look-up does not ask the node itself, and the other one stores nothing of its own."""

    async def main():
        async with table(2) as (one, two):
            heard = []
            two.heard = lambda info_hash, address: heard.append((info_hash, address))
            await two.find(HASH, 0.05)
            one.announce(HASH, 4001)

            async def told():
                return (HASH, Address.of("127.0.0.1", 4001)) in heard

            await until(told)
            assert await two.find(HASH, 0.05) == {Address.of("127.0.0.1", 4001)}

    asyncio.run(main())


def test_no_more_addresses_than_allowed():
    async def main():
        async with table(3, DhtLimits(addresses=5, hashes=2)) as nodes:
            for n in nodes:
                await n.find(HASH, 0.05)
            for port in range(4001, 4021):
                nodes[0].announce(HASH, port)

            async def full():
                return len(await nodes[1].find(HASH, 0.1)) == 5

            await until(full)
            assert len(await nodes[2].find(HASH, 0.1)) <= 5
            assert len(nodes[1]._announced[HASH]) == 5
            for number in range(10):
                await nodes[1].find(bytes([number]) * 20, 0.01)
            assert len(nodes[1]._announced) == 2
            assert nodes[1]._lookups == {}

    asyncio.run(main())


def test_records():
    async def main():
        async with table(3) as (one, two, three):
            seed, record = os.urandom(32), os.urandom(MOST_RECORD_BYTES)
            key = bytes(SigningKey(seed).verify_key)
            assert await one.put(seed, record, SALT) >= 2
            assert await two.get(key, SALT) == record
            assert await two.get(key, b"other") is None
            assert await two.get(os.urandom(32), SALT) is None
            assert await one.put(seed, b"later", SALT) >= 2  # replaces it: BEP 44's own sequence number goes up
            for n in (one, two, three):
                assert await n.get(key, SALT) == b"later"
            with pytest.raises(NetworkError, match="too long"):
                await one.put(seed, record + b"x", SALT)
            with pytest.raises(NetworkError, match="too long"):
                await one.put(seed, record, b"s" * 65)
            assert (one._puts, one._gets) == ({}, {})

    asyncio.run(main())


def test_the_loop_is_not_blocked_and_nothing_polls():
    async def main():
        async with table(2) as nodes:
            worst = 0.0
            looking = asyncio.create_task(nodes[0].find(HASH, 0.5))
            while not looking.done():
                before = time.thread_time()
                await asyncio.sleep(0.01)
                worst = max(worst, time.thread_time() - before)
            assert worst < 0.2  # of this thread's own processor time
            before = time.thread_time()
            await asyncio.sleep(0.3)
            assert time.thread_time() - before < 0.15

    asyncio.run(main())


def test_the_table_is_found_again_without_the_contact(tmp_path):
    async def main():
        state = tmp_path / "table"
        async with table(3) as nodes:
            last = node([f"127.0.0.1:{nodes[0].port}"], state)
            await last.start()

            async def three():
                return await last.nodes() == 3

            await until(three)
            await last.close()
            await nodes[0].close()
            again = node([f"127.0.0.1:{nodes[0].port}"], state)
            await again.start()

            async def others():
                return await again.nodes() >= 2

            await until(others)
            await again.close()
            assert state.stat().st_mode & 0o777 == 0o600

    asyncio.run(main())


@pytest.mark.parametrize("content", [b"junk", b"127.0.0.1:0\n", b"127.0.0.1:4001\n\xff", b"\0" * 99])
def test_a_bad_table_is_a_warning_and_an_empty_table(tmp_path, caplog, content):
    path = tmp_path / "table"
    path.write_bytes(content)

    async def main():
        n = node(state_path=path)
        await n.start()
        assert await n.nodes() == 0
        await n.close()

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert path.read_bytes() == content  # an empty table replaces nothing
    assert str(path) in caplog.text


def test_a_port_that_is_taken_is_named():
    async def main():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.0.1", 0))
            where = f"127.0.0.1:{taken.getsockname()[1]}"
            n = Dht(where, private_networks=True)
            with pytest.raises(NetworkError) as caught:
                await n.start()
            assert caught.value.where == where
            assert "port" in caught.value.remedy

    asyncio.run(main())


def test_used_wrongly():
    async def main():
        n = node()
        with pytest.raises(NetworkError, match="not running"):
            await n.find(HASH)
        await n.close()
        await n.start()
        with pytest.raises(NetworkError, match="twice"):
            await n.start()
        waiting = asyncio.create_task(n.find(HASH))
        await asyncio.sleep(0)
        await n.close()
        with pytest.raises(NetworkError, match="not running"):
            n.announce(HASH, 1)
        waiting.cancel()
        await n.start()  # again
        await n.close()
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        await n.start()
        await n.close()
        assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors

    asyncio.run(main())


@pytest.mark.parametrize(("listen", "bootstrap"), [("127.0.0.1", []), ("127.0.0.1:0", ["127.0.0.1:0"]), ("x:1:2", [])])
def test_bad_addresses(listen, bootstrap):
    with pytest.raises(NetworkError):
        Dht(listen, bootstrap)


def test_nothing_but_the_table_is_switched_on():
    for private in (False, True):
        settings = settings_for(private, False, 8000)
        on = {name for name, value in settings.items() if name.startswith("enable_") and value}
        assert on == {"enable_dht"}
        assert settings["dht_bootstrap_nodes"] == ""
        assert settings["dht_restrict_routing_ips"] is settings["dht_restrict_search_ips"] is not private


def test_on_the_internet_addresses_within_are_not_taken():
    n = Dht("127.0.0.1:0")
    n._watch(HASH)
    n._on_announced(HASH, "10.0.0.1", 4001)
    n._on_announced(HASH, "8.8.8.8", 4001)
    n._on_announced(HASH, "8.8.8.8", 0)
    assert n._fresh(HASH) == [Address.of("8.8.8.8", 4001)]


def test_without_libtorrent(monkeypatch):
    monkeypatch.setitem(sys.modules, "libtorrent", None)
    with pytest.raises(NetworkError) as caught:
        node()
    assert "pip install 'coterie[node]'" in caught.value.remedy


def test_the_package_needs_none_of_the_extra():
    program = "import sys\nfor name in ('libtorrent', 'grpc', 'zstandard', 'uvloop'): sys.modules[name] = None\n"
    program += "import coterie.network.discovery"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
