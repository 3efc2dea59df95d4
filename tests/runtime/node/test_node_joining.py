"""Joins that break off: whatever was lost on the way, the same command again gets the same peer in, once."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from coterie import spec as specs
from coterie.errors import DataError, MembershipError, NetworkError, NodeError, PeerUnreachable
from coterie.identity import Identity
from coterie.protocols.membership import Invitation, Policy
from coterie.runtime.node import founding
from coterie.runtime.node.commands import Commands
from coterie.runtime.node.departing import DepartingNode
from coterie.runtime.node.departing import _Departing as Idle
from coterie.runtime.node.founding import found_federation, join_federation, spec_to_found
from coterie.runtime.node.home import Home, NodeTable
from coterie.runtime.node.roster import Roster

SECONDS = 60.0
TABLE = NodeTable(private_networks=True)


@pytest.fixture
def founder(tmp_path: Path) -> Home:
    spec = specs.load(None, ()).with_values({"federation.peers": 1, "model.name": "softmax"})
    table = NodeTable(listen="127.0.0.1:0", join="127.0.0.1:0", private_networks=True)
    return found_federation(tmp_path / "a", spec, None, table, name="a", policy=Policy())


@asynccontextmanager
async def inviting(home: Home):
    """A node, and an invitation of its."""
    node = DepartingNode(home, Idle)
    task = asyncio.create_task(node.run())
    await asyncio.wait_for(node.ready.wait(), SECONDS)
    try:
        answer = await Commands(node).invite({"days": 1})
        yield node, Invitation.parse(answer["invitation"])
    finally:
        node.stop()
        await asyncio.wait_for(task, SECONDS)


class Line:
    """The way to the join port. ``breaks``: before the request has gone out, or after the answer was given."""

    def __init__(self, breaks: str, error: BaseException) -> None:
        self.breaks, self.error, self.real = breaks, error, founding.call_join

    async def __call__(self, *arguments):
        breaks, self.breaks = self.breaks, ""
        if breaks == "before":
            raise self.error
        answer = await self.real(*arguments)
        if breaks == "after":
            raise self.error
        return answer


@pytest.mark.parametrize("breaks", ["before", "after"])
@pytest.mark.parametrize("kind", [PeerUnreachable, KeyboardInterrupt])
def test_the_same_command_again_gets_the_same_peer_in(
    founder: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breaks: str, kind: type[BaseException]
) -> None:
    path = tmp_path / "b"

    async def main() -> None:
        async with inviting(founder) as (node, invitation):
            monkeypatch.setattr(founding, "call_join", Line(breaks, kind("the line is dead")))
            with pytest.raises(_Broken if kind is KeyboardInterrupt else kind) as caught:
                await _guarded(join_federation(path, invitation, TABLE, name="b"))
            if kind is PeerUnreachable:
                assert "give the same command again" in caught.value.remedy
            assert not (path / "node.toml").exists()  # nothing takes it for a node's home
            key = Home(path).identity.id
            admitted = node.roster.membership.members
            assert (key in admitted) == (breaks == "after")

            home, joined = await join_federation(path, invitation, TABLE, name="b")
            assert home.identity.id == key
            assert list(joined.membership.members) == [founder.identity.id, key]
            assert list(node.roster.membership.members) == list(joined.membership.members)
            assert node.roster.book.size == 1  # admitted once
            assert home.table.federation == founder.table.federation
            assert not (path / "joining").exists()

            with pytest.raises(MembershipError, match="used by another key"):
                await join_federation(tmp_path / "thief", invitation, TABLE, name="b")
            with pytest.raises(NodeError, match="not empty"):
                await join_federation(path, invitation, TABLE, name="b")

    asyncio.run(main())


def test_a_broken_off_join_is_taken_up_by_its_own_key_and_federation_only(tmp_path: Path) -> None:
    own = Identity.generate()
    home = Home.begin(tmp_path / "b", own, bytes(32))
    certificate = home.transport.certificate
    assert Home.begin(tmp_path / "b", None, bytes(32)).transport.certificate == certificate
    assert Home.begin(tmp_path / "b", own, bytes(32)).identity.id == own.id
    for identity, federation in ((Identity.generate(), bytes(32)), (None, bytes(31) + b"1")):
        with pytest.raises(NodeError, match="begun here and not finished"):
            Home.begin(tmp_path / "b", identity, federation)
    home.finish(TABLE)
    with pytest.raises(NodeError, match="not empty"):
        Home.begin(tmp_path / "b", own, bytes(32))


def test_data_that_cannot_be_read_are_named_before_the_invitation_is_used(founder: Home, tmp_path: Path) -> None:
    path = tmp_path / "b"

    async def main() -> None:
        async with inviting(founder) as (node, invitation):
            table = TABLE.model_copy(update={"dataset": f"csv:{tmp_path / 'no.csv'}"})
            with pytest.raises(DataError, match="there is no CSV file"):
                await join_federation(path, invitation, table, name="b")
            assert not path.exists()
            assert node.roster.book.size == 0
            (tmp_path / "no.csv").write_text("1,2,no\n3,4,yes\n" * 5)
            home, _ = await join_federation(path, invitation, table, name="b")
            assert home.table.dataset == table.dataset

    asyncio.run(main())


class _Broken(Exception):
    """Ctrl-C, where a test can catch it."""


async def _guarded(work):
    """asyncio ends a loop in which a KeyboardInterrupt goes through a task."""
    try:
        return await work
    except KeyboardInterrupt:
        raise _Broken from None


def test_what_cannot_be_founded_leaves_no_home(tmp_path: Path) -> None:
    """It would stand in the way of the next attempt, and look like a node's."""
    spec = spec_to_found(None, "x")
    with pytest.raises(MembershipError, match="blanks"):
        found_federation(tmp_path / "a", spec, None, NodeTable(), name=" a", policy=Policy())
    assert not (tmp_path / "a").exists()
    home = found_federation(tmp_path / "a", spec, None, NodeTable(), name="a", policy=Policy())
    with Roster(home.path, home.table.federation) as roster:
        (held,) = roster.membership.members[home.identity.id].certificates
    assert held == home.transport.certificate


def test_a_port_of_the_table_that_is_taken_keeps_a_node_from_starting(founder: Home) -> None:
    """As every other port does. It would run on without discovery: its contacts are dialled by the same part."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        founder.save(founder.table.model_copy(update={"dht_listen": f"127.0.0.1:{port}"}))
        with pytest.raises(NetworkError, match="the table's node cannot listen"):
            asyncio.run(asyncio.wait_for(DepartingNode(founder, Idle).run(), SECONDS))
    with founder.locked():
        assert not founder.socket.exists()
