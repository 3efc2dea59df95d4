"""What a store writes: the bytes of the tensors themselves, found whole or not at all, and no copies on the way."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coterie.network.codec import MemorySnapshot
from coterie.runtime.node.state_file import read_state
from coterie.runtime.node.store import FileStore, StateStore, clear_leftovers
from coterie.runtime.work.memory import Arena, SharedMemory, SharedSnapshot

LAYOUT = "ab" * 32
SIZE = 300_001  # more than a piece


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    memory = SharedMemory()
    yield Arena(memory, SIZE, 2, travels=True)
    memory.close()


def random_bits(seed: int) -> torch.Tensor:
    """Also those that are no number, of which there are many."""
    bits = np.random.default_rng(seed).integers(-(2**31), 2**31, SIZE).astype(np.int32)
    bits[:4] = 0x7FC00001, -1, -(2**31), 0x7F800000  # two with a payload, minus zero, infinity
    return torch.from_numpy(bits)


def shared(arena: Arena, bits: torch.Tensor) -> SharedSnapshot:
    made = SharedSnapshot(arena, LAYOUT)
    made.tensor().view(torch.int32).copy_(bits)
    return made


def bits_of(snapshot: Any) -> torch.Tensor:
    found: torch.Tensor = snapshot.tensor().view(torch.int32)
    return found


@pytest.mark.parametrize("kind", [FileStore, StateStore])
def test_snapshots_come_back_bit_by_bit(tmp_path: Path, arena: Arena, kind: type[FileStore]) -> None:
    ours, theirs = random_bits(1), random_bits(2)
    pulled = MemorySnapshot(LAYOUT, theirs.clone().view(torch.float32))
    own = shared(arena, ours)
    store = kind(tmp_path, arena, LAYOUT)
    store.put("swarm", {"pending": own, "merged": [b"digest", pulled], "proposals": [[[b"record"], pulled]]})
    if isinstance(store, StateStore):
        store.close()
    content = (tmp_path / "swarm.state").read_bytes()
    assert content[:-32].endswith(ours.numpy().tobytes() + theirs.numpy().tobytes())  # each once
    assert content[-32:] == hashlib.sha256(content[:-32]).digest()
    found = kind(tmp_path, arena, LAYOUT).get("swarm")
    assert torch.equal(bits_of(found["pending"]), ours)
    assert torch.equal(bits_of(found["merged"][1]), theirs)
    assert found["proposals"][0][1] is found["merged"][1]
    assert found["pending"].digest() == hashlib.sha256(ours.numpy().tobytes()).digest()


TENSORS = [
    torch.tensor(3.5, dtype=torch.float64),
    torch.zeros(0, 7),
    torch.arange(24, dtype=torch.int16).reshape(2, 3, 4).permute(2, 0, 1),
    torch.arange(10)[::3],
    torch.tensor([[True], [False]]),
    torch.tensor([1.5, float("nan")], dtype=torch.bfloat16),
    torch.tensor([1 + 2j]),
    torch.ones(3, requires_grad=True),
    torch.ones(2).expand(5, 2),
]


@pytest.mark.parametrize("number", range(len(TENSORS)))
def test_all_kinds_of_tensors_come_back(tmp_path: Path, arena: Arena, number: int) -> None:
    kept = TENSORS[number]
    FileStore(tmp_path, arena, LAYOUT).put("rule", [kept, kept])
    store = StateStore(tmp_path, arena, LAYOUT)
    store.put("later", [kept])
    store.close()
    for found in (*FileStore(tmp_path, arena, LAYOUT).get("rule"), *FileStore(tmp_path, arena, LAYOUT).get("later")):
        assert (found.dtype, found.shape) == (kept.dtype, kept.shape)
        assert torch.equal(found.nan_to_num(7) if found.is_floating_point() else found, kept.detach().nan_to_num(7))
        found.reshape(-1)[:1] = 0  # it is the caller's own


def test_arrays_come_back(tmp_path: Path, arena: Arena) -> None:
    value = {"rows": np.arange(6.0).reshape(2, 3).T, "one": np.float32(0.1), "none": np.zeros(0, np.uint8)}
    FileStore(tmp_path, arena, LAYOUT).put("rule", value)
    found = FileStore(tmp_path, arena, LAYOUT).get("rule")
    for name, kept in value.items():
        assert found[name].dtype == kept.dtype and type(found[name]) is type(kept)
        np.testing.assert_array_equal(found[name], kept)


@pytest.fixture(scope="module")
def small() -> Iterator[Arena]:
    memory = SharedMemory()
    yield Arena(memory, 5, 2, travels=True)
    memory.close()


@pytest.fixture(scope="module")
def whole(small: Arena, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("whole")
    snapshot = SharedSnapshot(small, LAYOUT)
    snapshot.tensor().copy_(torch.arange(5.0))
    FileStore(folder, small, LAYOUT).put("gossip", {"round": 3, "vector": snapshot, "rows": torch.arange(3)})
    return (folder / "gossip.state").read_bytes()


def refused(path: Path, content: bytes, small: Arena, layout: str = LAYOUT) -> None:
    path.write_bytes(content)
    with pytest.raises((ValueError, KeyError, TypeError, msgspec.MsgspecError)):
        read_state(path, small, layout)


def test_each_damaged_byte_is_found_and_each_lost_one(tmp_path: Path, small: Arena, whole: bytes) -> None:
    path = tmp_path / "x.state"
    for place in range(len(whole)):
        refused(path, whole[:place] + bytes([whole[place] ^ 0x81]) + whole[place + 1 :], small)
        refused(path, whole[:place], small)
        refused(path, whole[place + 1 :], small)
    refused(path, whole + b"\0", small)
    refused(path, whole, small, "cd" * 32)
    path.write_bytes(whole)
    assert read_state(path, small, LAYOUT)["round"] == 3


def sealed(header: bytes, length: int, elements: bytes) -> bytes:
    """A file with the right hash, whatever it says."""
    content = (b"coterie\x02" if sys.byteorder == "little" else b"coterie\x82") + length.to_bytes(8, "big")
    content += header + elements
    return content + hashlib.sha256(content).digest()


HEADERS = {
    "more elements than there are": [LAYOUT, ["tensor", "a"], [["a", "int64", [1 << 40], False]]],
    "fewer": [LAYOUT, ["tensor", "a"], [["a", "int8", [7], False]]],
    "a negative length": [LAYOUT, ["tensor", "a"], [["a", "int8", [-8], False]]],
    "no dtype": [LAYOUT, ["tensor", "a"], [["a", "Tensor", [8], False]]],
    "a snapshot of another size": [LAYOUT, ["snapshot", "a"], [["a", "float32", [2], True]]],
    "a snapshot of another dtype": [LAYOUT, ["snapshot", "a"], [["a", "int8", [8], True]]],
    "a name that is none": [LAYOUT, ["tensor", "b"], [["a", "int8", [8], False]]],
    "a kind that is none": [LAYOUT, ["torch", "a"], [["a", "int8", [8], False]]],
    "no value": [LAYOUT],
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_wrong_header_is_refused_though_its_hash_is_right(tmp_path: Path, small: Arena, name: str) -> None:
    header = msgspec.msgpack.encode(HEADERS[name])
    refused(tmp_path / "x.state", sealed(header, len(header), bytes(8)), small)
    right = msgspec.msgpack.encode([LAYOUT, ["tensor", "a"], [["a", "int8", [8], False]]])
    (tmp_path / "x.state").write_bytes(sealed(right, len(right), bytes(range(8))))
    assert read_state(tmp_path / "x.state", small, LAYOUT).tolist() == list(range(8))
    for length in (len(right) + 9, 1 << 62, (1 << 64) - 1):  # no memory is taken for what is not there
        refused(tmp_path / "x.state", sealed(right, length, bytes(8)), small)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=200))
def test_junk_is_refused(tmp_path: Path, small: Arena, junk: bytes) -> None:
    refused(tmp_path / "x.state", junk, small)
    refused(tmp_path / "x.state", sealed(junk, len(junk) // 2, b""), small)


def test_what_a_killed_writer_has_left_is_cleared_and_nothing_else(tmp_path: Path, arena: Arena) -> None:
    folder = tmp_path / "state" / "trainings" / "one"
    FileStore(folder, arena, LAYOUT).put("gossip", {"round": 3})
    kept = sorted(folder.iterdir())
    script = (
        "import os, sys; from pathlib import Path; from coterie.files import write_pieces\n"
        "write_pieces(Path(sys.argv[1]), (os._exit(9) if n else b'half' for n in range(2)))"
    )
    for path in (folder / "gossip.state", tmp_path / "state" / "issues.state"):
        assert subprocess.run([sys.executable, "-c", script, str(path)], check=False, timeout=60).returncode == 9
    assert len(list(tmp_path.rglob(".*"))) == 2
    clear_leftovers(tmp_path / "state")
    assert list(tmp_path.rglob(".*")) == []
    assert sorted(folder.iterdir()) == kept
    clear_leftovers(tmp_path / "nowhere")


def test_memory_that_waits_to_be_written_is_not_used_again(
    tmp_path: Path, small: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a snapshot's that nobody else holds any more, nor a rule's own tensor, which it goes on with."""
    free, sync = threading.Event(), os.fsync

    def slow(descriptor: int) -> None:
        assert free.wait(60)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    store, rows = StateStore(tmp_path, small, LAYOUT), torch.ones(3)
    store.put("first", 1)  # keeps the thread from the next one
    ours = SharedSnapshot(small, LAYOUT)
    ours.tensor().fill_(1.0)
    value: dict[str, Any] = {"own": ours, "theirs": MemorySnapshot(LAYOUT, torch.full((5,), 2.0)), "rows": rows}
    store.put("gossip", value)
    value.clear()
    del ours
    rows.zero_()
    later = [SharedSnapshot(small, LAYOUT) for _ in range(6)]
    for snapshot in later:
        snapshot.tensor().fill_(9.0)
    free.set()
    store.close()
    found = FileStore(tmp_path, small, LAYOUT).get("gossip")
    assert found["own"].tensor().tolist() == [1.0] * 5
    assert found["theirs"].tensor().tolist() == [2.0] * 5
    assert found["rows"].tolist() == [1.0] * 3


PEAKS = """
import sys
from pathlib import Path
import torch
from coterie.network.codec import MemorySnapshot
from coterie.runtime.node.store import StateStore
from coterie.runtime.work.memory import Arena, SharedMemory, SharedSnapshot

size, folder = int(sys.argv[1]), Path(sys.argv[2])
memory = SharedMemory()
arena = Arena(memory, size, 1, travels=True)
own = SharedSnapshot(arena, "ab" * 32)
own.tensor().fill_(1.5)
pulled = MemorySnapshot("ab" * 32, torch.full((size,), 2.5))

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))

def stored(snapshot, folder):
    store = StateStore(folder, arena, "ab" * 32)
    store.put("swarm", {"merged": [b"digest", snapshot]})
    store.close()

small = MemorySnapshot("ab" * 32, torch.ones(1))
stored(small, folder / "warm")  # what the first write takes once
peaks = [peak()]
for number, snapshot in enumerate((own, pulled)):
    stored(snapshot, folder / str(number))
    peaks.append(peak())
for number, snapshot in enumerate((own, pulled)):
    found = StateStore(folder / str(number), arena, "ab" * 32).get("swarm")
    assert torch.equal(found["merged"][1].tensor(), snapshot.tensor())
    del found
    peaks.append(peak())
print(*peaks)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_a_large_snapshot_is_written_and_read_without_a_copy(tmp_path: Path) -> None:
    size = 24_000_000
    done = subprocess.run(
        [sys.executable, "-c", PEAKS, str(size), str(tmp_path)], check=True, capture_output=True, text=True
    )
    peaks = [int(word) for word in done.stdout.split()]
    before, own, pulled, *read = peaks
    assert max(own, pulled) - before < size  # a quarter of one; a copy would be all of it
    assert max(read) - pulled < 4 * size + size  # what is read, in its place, and no more
