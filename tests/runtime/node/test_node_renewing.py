"""A new certificate is taken only while the others hear of it, by a clock that they believe. Over TLS on loopback."""

from __future__ import annotations

import asyncio
import datetime
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from test_node_leaving import SECONDS, at_work, told_of

from coterie import spec as specs
from coterie.errors import NodeError
from coterie.identity import TransportKey
from coterie.runtime.node import daemon, renewing
from coterie.runtime.node import home as home_module
from coterie.runtime.node.commands import Commands
from coterie.runtime.node.doctor import examine
from coterie.runtime.node.founding import found_run
from coterie.runtime.node.home import Home


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Home]:
    """Of three members; no node runs."""
    monkeypatch.setattr(daemon, "_HEARD", 0.1)
    folders = [tmp_path / name for name in "abc"]
    spec = specs.load(None, ()).with_values({"federation.peers": 3, "model.name": "softmax"})
    return found_run(folders, spec, None, ["a", "b", "c"], [0, 1, 2])


def test_no_certificate_is_taken_that_nobody_hears_of(homes: list[Home], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewing, "_ANSWER", 0.3)

    async def work() -> None:
        async with at_work(homes[0]) as alone:
            before, size = homes[0].transport.certificate, alone.roster.book.size
            with pytest.raises(NodeError, match="no member answers"):
                await alone.renew_certificate()
            assert homes[0].transport.certificate == before
            assert alone.roster.book.size == size, "nothing was signed"

    asyncio.run(asyncio.wait_for(work(), SECONDS))


def test_a_full_disk_only_delays_a_certificate(homes: list[Home], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that were announced and lost, neither would be the one that is in use."""
    monkeypatch.setattr(daemon, "_RENEW_BEFORE", datetime.timedelta(days=365))
    monkeypatch.setattr(daemon, "_RENEW_LOOK", 0.01)
    tried = []

    def full(*_: object) -> None:
        tried.append(len(tried))
        raise OSError(28, "No space left on device")

    async def work() -> None:
        write = home_module.write_file
        monkeypatch.setattr(daemon, "require_heard", _heard)
        monkeypatch.setattr(home_module, "write_file", full)
        async with at_work(homes[0]) as node:
            before, size = homes[0].transport.certificate, node.roster.book.size
            while len(tried) < 3:
                await asyncio.sleep(0.01)
            assert (homes[0].transport.certificate, node.roster.book.size) == (before, size)
            monkeypatch.setattr(home_module, "write_file", write)
            while homes[0].transport.certificate == before:
                await asyncio.sleep(0.01)
            assert homes[0].transport.certificate in node.roster.membership.members[homes[0].identity.id].certificates

    asyncio.run(asyncio.wait_for(work(), SECONDS))


async def _heard(node: object) -> None:
    """The others hear."""


@pytest.mark.parametrize("ahead", [0, 40 * 86_400_000, -40 * 86_400_000])
def test_no_certificate_is_taken_by_a_clock_that_has_jumped(
    ahead: int, homes: list[Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with AsyncExitStack() as stack:
            first = await stack.enter_async_context(at_work(homes[0]))
            for home in homes[1:]:
                told_of(home, first)
                await stack.enter_async_context(at_work(home))
            while len(first.transport.connected) < 2:
                await asyncio.sleep(0.01)
            before = homes[0].transport.certificate
            right = renewing.now_ms
            monkeypatch.setattr(renewing, "now_ms", lambda: right() + ahead)
            if ahead:
                with pytest.raises(NodeError, match="s off the others'"):
                    await first.renew_certificate()
            else:
                await first.renew_certificate()
            assert (homes[0].transport.certificate == before) == bool(ahead)

    asyncio.run(asyncio.wait_for(work(), SECONDS))


def test_a_certificate_that_has_leaked_is_worth_nothing_once_its_owner_has_renewed(homes: list[Home]) -> None:
    async def work() -> None:
        async with at_work(homes[0]) as first:
            told_of(homes[1], first)
            async with at_work(homes[1]) as second:
                leaked = first.home.transport.certificate
                while not second.transport.connected:
                    await asyncio.sleep(0.01)
                await Commands(first).renew({})
                now = first.home.transport.certificate
                while now not in (held := second.roster.membership.members[first.identity.id].certificates):
                    await asyncio.sleep(0.01)
                assert leaked not in held
                while second.transport.connected != (first.identity.id,):
                    await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(work(), SECONDS))


def test_a_member_cannot_hide_another_by_its_name(homes: list[Home]) -> None:
    async def work() -> None:
        async with at_work(homes[0]) as first:
            commands, membership = Commands(first), first.roster.membership
            accomplice, hidden = list(membership.members)[1:]
            members = dict(membership.members)
            members[accomplice] = replace(members[accomplice], name=hidden)
            first.roster.book.replay._membership = replace(membership, members=members)
            assert commands._member_named(hidden) == hidden

    asyncio.run(asyncio.wait_for(work(), SECONDS))


def test_the_doctor_knows_when_it_is_too_late(homes: list[Home]) -> None:
    homes[0].save_transport(TransportKey.new(homes[0].identity, days=-0.01))
    (check,) = [check for check in examine(homes[0].path) if check.name == "certificate"]
    assert check.verdict == "bad"
    assert "coterie federation invite --replaces" in check.mend
