"""Models on disk until they are merged: the same bits as in memory, and nothing stays."""

import asyncio
import hashlib
import sys
from pathlib import Path

import pytest
import torch

from coterie.errors import DataError
from coterie.layout import Layout, Slot
from coterie.network import MemorySnapshot
from coterie.protocols.swarm import Part, Terms
from coterie.runtime.work.memory import Arena, SharedMemory
from coterie.swarm.site import ScriptSite
from coterie.swarm.spool import Spool, SpooledSnapshot

SIZE = 70_001
LAYOUT = Layout((Slot("w", (SIZE,), (1,), "float32", 0),), SIZE, SIZE)


def snapshot(seed):
    return MemorySnapshot(LAYOUT.hash, torch.randn(SIZE, generator=torch.Generator().manual_seed(seed)))


def test_what_is_put_is_there(tmp_path):
    held = snapshot(1)
    found = Spool(tmp_path).put(held)
    assert isinstance(found, SpooledSnapshot)
    assert (found.layout_hash, found.size, found.digest()) == (held.layout_hash, SIZE, held.digest())
    assert hashlib.sha256(found.tensor().numpy().tobytes()).digest() == held.digest()
    piece = torch.empty(100).numpy()
    found.read(SIZE - 100, piece)
    assert (piece == held.tensor().numpy()[-100:]).all()
    with pytest.raises(DataError, match="shorter"):
        found.read(SIZE - 99, piece)


@pytest.mark.skipif(sys.platform != "linux", reason="files without a name")
def test_a_file_has_no_name_and_ends_with_its_model(tmp_path):
    free = lambda: len([*Path("/proc/self/fd").iterdir()])  # noqa: E731
    before = free()
    found = Spool(tmp_path).put(snapshot(1))
    assert list((tmp_path / "models").iterdir()) == []
    assert free() == before + 1
    del found
    assert free() == before


def test_what_was_left_is_deleted(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "left").write_bytes(b"of a process that died")
    Spool(tmp_path)
    assert list((tmp_path / "models").iterdir()) == []


def test_without_room_it_stays_in_memory(tmp_path, caplog):
    spool, held = Spool(tmp_path), snapshot(1)
    (tmp_path / "models").write_bytes(b"in the way")
    assert spool.put(held) is held
    assert "kept in memory" in caplog.text


def middle(own, received, context, state, judge):
    """The mean of all."""
    return (own + received.sum(0)) / (len(received) + 1), torch.ones(len(received) + 1), state


@pytest.mark.parametrize("method", ["mean", "coordmedian", "geomedian", "trimmed_mean", middle])
def test_a_merge_has_the_same_bits(tmp_path, method):
    memory = SharedMemory()
    arena, spool = Arena(memory, SIZE, 4, travels=True), Spool(tmp_path)
    own = ScriptSite(Terms("t", 2, 7, merge=method), LAYOUT, arena, spool, lambda said: None)
    held = [snapshot(seed) for seed in range(5)]

    async def merged(models):
        parts = [Part(f"p{n}", model, 1 + n % 2, 1) for n, model in enumerate(models)]
        return (await own.merge(parts, None, 0)).tensor().clone()

    async def both():
        kept = [await own.keep(model) for model in held]
        assert all(isinstance(model, SpooledSnapshot) for model in kept)
        return await merged(held), await merged([held[0], *kept[1:]])

    one, other = asyncio.run(both())
    assert torch.equal(one, other)
    if method == "mean":
        weights = torch.tensor([1, 2, 1, 2, 1], dtype=torch.float64)
        expected = sum(w * model.tensor().double() for w, model in zip(weights, held, strict=True)) / 7
        assert torch.allclose(one.double(), expected, atol=1e-7)
    memory.close()
