"""Leaving where no node runs, where nobody can be told, and where it was signed and not heard. Over TLS on loopback."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from coterie import spec as specs
from coterie.errors import MembershipError, NodeError
from coterie.protocols.membership import sign_leave
from coterie.runtime.node import leaving
from coterie.runtime.node.commands import Commands
from coterie.runtime.node.daemon import Node
from coterie.runtime.node.departing import DepartingNode, leave_without_node
from coterie.runtime.node.departing import _Departing as Idle
from coterie.runtime.node.doctor import examine
from coterie.runtime.node.founding import found_run
from coterie.runtime.node.home import Home
from coterie.runtime.node.leaving import leave, outlook
from coterie.runtime.node.roster import Roster

SECONDS = 60.0


@pytest.fixture
def homes(tmp_path: Path) -> list[Home]:
    """Of three members, the first the founder; no node runs."""
    folders = [tmp_path / name for name in "abc"]
    spec = specs.load(None, ()).with_values({"federation.peers": 3, "model.name": "softmax"})
    return found_run(folders, spec, None, ["a", "b", "c"], [0, 1, 2])


@asynccontextmanager
async def at_work(home: Home):
    """A node that keeps records and answers, and whose address the others are told."""
    node = DepartingNode(home, Idle)
    task = asyncio.create_task(node.run())
    await asyncio.wait_for(node.ready.wait(), SECONDS)
    try:
        yield node
    finally:
        node.stop()
        await asyncio.wait_for(task, SECONDS)


def told_of(home: Home, node: Node) -> None:
    home.save(home.table.model_copy(update={"contacts": [f"127.0.0.1:{node.transport.port}"]}))


def members(home: Home) -> tuple[set[str], tuple[str, ...]]:
    roster = Roster(home.path, home.table.federation)
    try:
        membership = roster.membership
        return {member.name for member in membership.members.values()}, membership.left
    finally:
        roster.close()


def test_nothing_is_signed_where_nobody_can_be_told(homes: list[Home], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaving, "SECONDS", 0.3)
    with pytest.raises(NodeError, match="nothing was signed"):
        asyncio.run(leave_without_node(homes[1].path))
    assert members(homes[1]) == ({"a", "b", "c"}, ())


def test_a_leave_that_was_signed_and_not_heard_is_handed_over_later(
    homes: list[Home], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(leaving, "SECONDS", SECONDS)
    a, b, _ = homes
    roster = Roster(b.path, b.table.federation)
    sign_leave(roster.book, b.identity)  # and the machine was switched off
    roster.close()
    with pytest.raises(NodeError, match="this peer has left the federation") as caught:
        asyncio.run(Node(b, Idle).run())
    assert "coterie federation leave" in caught.value.remedy

    async def hand_over() -> None:
        async with at_work(a) as other:
            told_of(b, other)
            answer = await leave_without_node(b.path)
            assert answer == {"told": ["a"], "others": 2}
            assert b.identity.id in other.roster.membership.left
            monkeypatch.setattr(leaving, "REFUSED", 1.0)
            answer = await leave_without_node(b.path)  # the member that refuses this peer has heard: it is said so
            assert answer["told"] == ["a"]

    with caplog.at_level("INFO", "coterie"):
        asyncio.run(hand_over())
    assert any("b (" in line and line.endswith("has left the federation") for line in caplog.messages)
    assert members(a) == ({"a", "c"}, (b.identity.id,))
    assert members(b) == ({"a", "c"}, (b.identity.id,))


def test_where_nobody_fetches_the_record_the_node_goes_on(homes: list[Home], monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, _ = homes

    async def try_to_leave() -> None:
        async with at_work(a) as deaf:
            told_of(b, deaf)
            async with at_work(b) as node:
                monkeypatch.setattr(leaving, "SECONDS", SECONDS)
                assert await leaving._until(lambda: bool(node.transport.connected), SECONDS)
                deaf.spread._due = _Nothing()
                monkeypatch.setattr(leaving, "SECONDS", 0.5)
                with pytest.raises(NodeError, match="no member has fetched it yet"):
                    await leave(node)
                assert not node._stop.is_set()
                deaf.spread._due = {}
                monkeypatch.setattr(leaving, "SECONDS", SECONDS)
                assert (await leave(node))["told"] == ["a"]  # the very same record
                assert node._stop.is_set()
                assert node.roster.book.size == 3

    asyncio.run(try_to_leave())
    assert members(a) == ({"a", "c"}, (b.identity.id,))


class _Nothing(dict):
    """Of one that pulls from nobody."""

    def __setitem__(self, key, value) -> None:
        """It forgets."""

    def setdefault(self, key, value=None) -> None:
        """It forgets."""


def test_what_leaving_would_mean(homes: list[Home]) -> None:
    assert outlook(homes[0].path) == (False, True, 2)
    assert outlook(homes[1].path) == (False, False, 2)


def test_doctor_says_that_a_peer_has_left(homes: list[Home]) -> None:
    def ledger() -> tuple[str, str]:
        return next((check.verdict, check.found) for check in examine(homes[1].path) if check.name == "ledger")

    assert ledger() == ("good", "3 members")
    roster = Roster(homes[1].path, homes[1].table.federation)
    roster.book.leave(homes[1].identity)
    roster.close()
    verdict, found = ledger()
    assert verdict == "bad"
    assert "has left" in found


def test_an_unknown_member_is_answered_by_the_known_ones(homes: list[Home]) -> None:
    async def main() -> None:
        async with at_work(homes[0]) as node:
            with pytest.raises(NodeError, match="Known: a, b, c"):
                await Commands(node).expel({"peer": "Hospital D", "reason": ""})

    asyncio.run(main())


def test_the_last_one_is_refused(homes: list[Home]) -> None:
    a, b, c = homes
    roster = Roster(a.path, a.table.federation)
    for home in (b, c):
        roster.book.leave(home.identity)
    roster.close()
    with pytest.raises(MembershipError, match="the only member"):
        asyncio.run(leave_without_node(a.path))
