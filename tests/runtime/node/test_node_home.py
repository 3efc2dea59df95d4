"""A node's folder: its key, its settings, its state, and the socket for its owner."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from coterie.errors import IdentityError, NodeError, OutputError, PluginError, SpecError
from coterie.identity import Identity, TransportKey
from coterie.runtime.node.control import ControlServer, call
from coterie.runtime.node.daemon import run_node
from coterie.runtime.node.home import Home, NodeTable
from coterie.runtime.node.store import FileStore, StateStore
from coterie.runtime.work.memory import Arena, SharedMemory, SharedSnapshot

LAYOUT = "ab" * 32


def made(path: Path, table: NodeTable | None = None) -> Home:
    identity = Identity.generate()
    return Home.create(path, identity, TransportKey.new(identity), table or NodeTable())


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return made(tmp_path / "home", NodeTable(listen="127.0.0.1:0"))


def test_a_home_keeps_its_secrets_to_itself(home: Home) -> None:
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    for name in ("key.pem", "transport.pem"):
        assert stat.S_IMODE((home.path / name).stat().st_mode) == 0o600
    transport = home.transport
    assert transport.certificate.peer == home.identity.id
    assert home.transport.certificate == transport.certificate
    assert home.table == NodeTable(listen="127.0.0.1:0")


def test_a_home_is_made_once(home: Home) -> None:
    with pytest.raises(NodeError, match="not empty"):
        made(home.path)
    with pytest.raises(NodeError, match="a node's home already"):
        Home.begin(home.path, None, bytes(32))


def test_settings_and_spec_are_written_whole_or_not_at_all(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.save_spec("name = 1", bytes(64))
    before = home.table, home.spec_text, home.transport

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for write in (
        lambda: home.save(NodeTable(announce="a.example:1")),
        lambda: home.save_spec("x", bytes(1)),
        lambda: home.save_transport(TransportKey.new(home.identity)),
    ):
        with pytest.raises(OutputError, match="No space"):
            write()
        assert (home.table, home.spec_text, home.transport) == before


def test_one_process_at_a_time(home: Home) -> None:
    with home.locked(), pytest.raises(NodeError, match="at work"), Home(home.path).locked():
        pass
    with home.locked():
        pass


@pytest.mark.parametrize("ctrl_c", [signal.default_int_handler, signal.SIG_IGN])
def test_a_node_leaves_the_signals_of_its_process_as_they_were(home: Home, ctrl_c: Any) -> None:
    before = signal.signal(signal.SIGINT, ctrl_c), signal.getsignal(signal.SIGTERM)
    try:
        with home.locked(), pytest.raises(NodeError, match="at work"):
            run_node(home.path)
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == (ctrl_c, before[1])
    finally:
        signal.signal(signal.SIGINT, before[0])


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (None, NodeError, "no node's home"),
        ("listen = [", SpecError, "not TOML"),
        ("listne = 'a:1'", SpecError, "listen"),
        ("listen = 'nowhere'", SpecError, "listen"),
        ("part = -1", SpecError, "part"),
    ],
)
def test_wrong_settings_are_named(home: Home, content: str | None, error: type[Exception], words: str) -> None:
    path = home.path / "node.toml"
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(error, match=words):
        home.table  # noqa: B018


@pytest.mark.parametrize(
    "damage", [lambda p: p.unlink(), lambda p: p.write_text("junk"), lambda p: p.write_bytes(p.read_bytes()[:-9])]
)
def test_a_damaged_transport_key_is_named(home: Home, damage: Any) -> None:
    damage(home.path / "transport.pem")
    with pytest.raises(IdentityError) as found:
        home.transport  # noqa: B018
    assert "Remove it" not in found.value.remedy, "no other one would be let in"


def test_a_transport_key_of_another_peer_is_refused(home: Home, tmp_path: Path) -> None:
    other = made(tmp_path / "other")
    (home.path / "transport.pem").write_bytes((other.path / "transport.pem").read_bytes())
    with pytest.raises(IdentityError, match="not signed"):
        home.transport  # noqa: B018


# The store


@pytest.fixture
def arena() -> Iterator[Arena]:
    memory = SharedMemory()
    yield Arena(memory, 50, 4, travels=True)
    memory.close()


def test_what_is_put_is_there_after_a_restart(tmp_path: Path, arena: Arena) -> None:
    store = FileStore(tmp_path, arena, LAYOUT)
    snapshot = SharedSnapshot(arena, LAYOUT)
    snapshot.tensor().copy_(torch.arange(50.0))
    value = {"round": 7, "trust": {"a": 0.5}, "vector": snapshot, "rows": torch.ones(3), "big": 1 << 70, "none": None}
    store.put("gossip", value)
    assert store.get("gossip") is value
    found = FileStore(tmp_path, arena, LAYOUT).get("gossip")
    assert {k: found[k] for k in ("round", "trust", "big", "none")} == {
        "round": 7,
        "trust": {"a": 0.5},
        "big": 1 << 70,
        "none": None,
    }
    assert torch.equal(found["vector"].tensor(), torch.arange(50.0))
    assert torch.equal(found["rows"], torch.ones(3))
    assert store.get("nothing") is None


@pytest.mark.parametrize("place", [0.0, 0.3, 0.9, 0.999])
def test_a_damaged_state_is_set_aside(tmp_path: Path, arena: Arena, place: float) -> None:
    FileStore(tmp_path, arena, LAYOUT).put("gossip", {"round": 3, "rows": torch.arange(100)})
    path = tmp_path / "gossip.state"
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 0xFF
    path.write_bytes(content)
    store = FileStore(tmp_path, arena, LAYOUT)
    assert store.get("gossip") is None
    assert (tmp_path / "gossip.damaged").exists()
    store.put("gossip", {"round": 4})
    assert FileStore(tmp_path, arena, LAYOUT).get("gossip") == {"round": 4}


def test_a_state_that_lost_its_end_or_is_of_another_model_is_set_aside(tmp_path: Path, arena: Arena) -> None:
    FileStore(tmp_path, arena, LAYOUT).put("gossip", {"rows": torch.arange(5000)})
    path = tmp_path / "gossip.state"
    whole = path.read_bytes()
    path.write_bytes(whole[:-4096])
    assert FileStore(tmp_path, arena, LAYOUT).get("gossip") is None
    path.write_bytes(whole)
    assert FileStore(tmp_path, arena, "cd" * 32).get("gossip") is None


def test_what_cannot_be_kept_is_named(tmp_path: Path, arena: Arena) -> None:
    store = FileStore(tmp_path, arena, LAYOUT)
    with pytest.raises(PluginError, match="set"):
        store.put("gossip", {1, 2})
    with pytest.raises(OutputError, match="name"):
        store.put("../gossip", 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        FileStore(tmp_path / "file" / "below", arena, LAYOUT).put("gossip", 1)


def test_a_protocol_goes_on_where_the_disk_takes_no_more(tmp_path: Path, arena: Arena) -> None:
    (tmp_path / "state").write_text("in the way")
    store = StateStore(tmp_path / "state", arena, LAYOUT)
    store.put("gossip", {"round": 1})
    assert store.get("gossip") == {"round": 1}
    store.close()
    assert not (tmp_path / "state").is_dir()
    (tmp_path / "state").unlink()
    store = StateStore(tmp_path / "state", arena, LAYOUT)
    store.put("gossip", {"round": 2})
    store.close()
    assert StateStore(tmp_path / "state", arena, LAYOUT).get("gossip") == {"round": 2}


def test_the_last_of_many_values_is_on_disk_as_it_was_when_it_was_put(tmp_path: Path, arena: Arena) -> None:
    store, rows = StateStore(tmp_path, arena, LAYOUT), torch.zeros(1000)
    for number in range(50):
        snapshot = SharedSnapshot(arena, LAYOUT)
        snapshot.tensor().fill_(number)
        store.put("gossip", {"round": number, "rows": rows, "vector": snapshot})
        rows += 1  # a rule may go on with its own tensors
        del snapshot
    with pytest.raises(PluginError, match="set"):
        store.put("gossip", {1, 2})
    store.settle()
    found = StateStore(tmp_path, arena, LAYOUT).get("gossip")
    assert found["round"] == 49
    assert torch.equal(found["rows"], torch.full((1000,), 49.0))
    assert torch.equal(found["vector"].tensor(), torch.full((50,), 49.0))
    store.close()


def test_what_must_be_on_disk_is_there_or_is_refused(tmp_path: Path, arena: Arena) -> None:
    (tmp_path / "state").write_text("in the way")
    store = StateStore(tmp_path / "state", arena, LAYOUT)
    with pytest.raises(OutputError, match="cannot be written"):
        store.put_durably("consensus", b"a vote")
    (tmp_path / "state").unlink()
    store.put_durably("consensus", b"a vote")
    assert StateStore(tmp_path / "state", arena, LAYOUT).get("consensus") == b"a vote"


def test_hashes_are_those_of_the_bytes(arena: Arena) -> None:
    import hashlib
    import struct

    snapshot = SharedSnapshot(arena, LAYOUT)
    snapshot.tensor().copy_(torch.linspace(-1, 1, 50))
    expected = hashlib.sha256(b"".join(struct.pack("<f", value) for value in snapshot.tensor().tolist())).digest()
    assert snapshot.digest() == expected


# The socket


def test_the_socket_answers_its_owner_alone(tmp_path: Path) -> None:
    async def echo(request: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"said": request["text"]}

    async def refuse(request: Mapping[str, Any]) -> Mapping[str, Any]:
        raise NodeError("not now", where="here", remedy="Later.")

    async def main() -> None:
        path = tmp_path / "control.sock"
        with pytest.raises(NodeError, match="no node answers"):
            call(path, {"command": "echo"})
        path.write_text("")  # left behind
        server = ControlServer(path, {"echo": echo, "refuse": refuse})
        await server.start()
        try:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert await asyncio.to_thread(call, path, {"command": "echo", "text": "good day"}) == {"said": "good day"}
            with pytest.raises(NodeError, match="not now"):
                await asyncio.to_thread(call, path, {"command": "refuse"})
            with pytest.raises(NodeError, match="not a command"):
                await asyncio.to_thread(call, path, {"command": "unknown"})
            reader, writer = await asyncio.open_unix_connection(str(path))
            for junk in (b"junk\n", b"[]\n", b"{}\n", b"\xff\n", json.dumps({"command": []}).encode() + b"\n"):
                writer.write(junk)
                assert not json.loads(await asyncio.wait_for(reader.readline(), 10))["ok"]
            writer.write(b"x" * (2 << 20))  # longer than a line may be: the connection ends, the node does not
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()
        finally:
            await server.close()
        assert not path.exists()

    asyncio.run(main())


def test_a_path_too_long_for_a_socket_has_it_elsewhere(tmp_path: Path) -> None:
    deep = Home(tmp_path / ("x" * 90))
    assert len(str(deep.socket)) < 100
    assert deep.socket != Home(tmp_path / ("x" * 91)).socket
    assert Home(tmp_path).socket == tmp_path / "control.sock"


def test_a_folder_that_others_may_write_has_no_socket(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(NodeError, match="others may write"):
        asyncio.run(ControlServer(tmp_path / "control.sock", {}).start())


def test_what_keeps_a_socket_from_being_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "control.sock").mkdir()

    async def main() -> None:
        server = ControlServer(tmp_path / "control.sock", {})
        with pytest.raises(NodeError, match="cannot be made"):
            await server.start()
        await server.close()

    asyncio.run(main())


def test_a_socket_is_made_without_a_word_on_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mask is the process's: a training script's threads write files too."""
    masks: list[int] = []
    monkeypatch.setattr(os, "umask", masks.append)

    async def main() -> None:
        server = ControlServer(tmp_path / "control.sock", {})
        await server.start()
        await server.close()

    asyncio.run(main())
    assert masks == []


def test_a_socket_in_anothers_folder_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lies where everybody may make folders: whoever made this one could hand out invitations of its own."""

    async def lie(request: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"invitation": "coterie1..."}

    async def main() -> None:
        elsewhere, at_home = tmp_path / "0123456789abcdef.sock", tmp_path / "control.sock"
        servers = [ControlServer(path, {"invite": lie}) for path in (elsewhere, at_home)]
        for server in servers:
            await server.start()
        owner = os.getuid()
        for user, path, answered in (
            (owner, elsewhere, True),
            (owner + 1, elsewhere, False),
            (owner + 1, at_home, False),
        ):
            with monkeypatch.context() as patch:
                patch.setattr("coterie.runtime.node.control.os.getuid", lambda user=user: user)
                if answered:
                    await asyncio.to_thread(call, path, {"command": "invite"})
                else:
                    with pytest.raises(NodeError, match="belongs to another user"):
                        await asyncio.to_thread(call, path, {"command": "invite"})
        for server in servers:
            await server.close()

    asyncio.run(main())
