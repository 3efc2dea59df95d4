"""Shared memory: blocks are apart, are given back, and are seen by other processes."""

from __future__ import annotations

import gc
import mmap
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_federation import simulate, small

from coterie.errors import RunError
from coterie.runtime.work.memory import Arena, Segment, SharedMemory, SharedSnapshot, Vectors


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    memory = SharedMemory()
    yield memory
    memory.close()


@pytest.mark.parametrize("size", [1, 15, 16, 17, 1000])
def test_blocks_do_not_overlap_and_grow_as_needed(memory: SharedMemory, size: int) -> None:
    arena = Arena(memory, size, rows=3)
    blocks = [arena.take() for _ in range(8)]
    for number, block in enumerate(blocks):
        arena[block].fill_(number)
    assert [set(arena[block].tolist()) for block in blocks] == [{float(n)} for n in range(8)]
    assert all(arena[block].data_ptr() % 64 == 0 for block in blocks)
    assert len(arena.segments) == 3


def test_a_block_is_used_again_once_it_is_given_back(memory: SharedMemory) -> None:
    arena = Arena(memory, 10, rows=2)
    first = arena.take()
    arena.give(first)
    assert arena.take() == first


def test_a_snapshot_gives_its_block_back_when_nobody_holds_it(memory: SharedMemory) -> None:
    arena = Arena(memory, 10, rows=1)
    snapshot = SharedSnapshot(arena, "ab" * 32)
    block, alias = snapshot.block, snapshot
    del snapshot
    other = SharedSnapshot(arena, "ab" * 32)
    assert other.block != block
    del alias
    assert SharedSnapshot(arena, "ab" * 32).block == block


@pytest.mark.skipif(sys.platform != "linux", reason="memory of the system's own")
@pytest.mark.parametrize("travels", [True, False])
def test_in_an_arena_that_travels_a_block_given_back_takes_no_memory(memory: SharedMemory, travels: bool) -> None:
    arena = Arena(memory, size := 300_007, rows=3, travels=travels)
    blocks = [arena.take() for _ in range(3)]
    for number, block in enumerate(blocks):
        arena[block].fill_(number + 1)
    taken = lambda: Path(arena.segments[0].path).stat().st_blocks * 512  # noqa: E731
    before = taken()
    arena.give(blocks[1])
    assert (before - taken() > 4 * size - 2 * mmap.PAGESIZE) is travels
    assert {float(arena[block].sum()) / size for block in (blocks[0], blocks[2])} == {1.0, 3.0}, "the others are whole"
    assert arena.take() == blocks[1]
    arena[blocks[1]].fill_(2)
    assert [arena[block].unique().tolist() for block in blocks] == [[1.0], [2.0], [3.0]]


def test_another_view_of_the_segments_sees_the_same_elements(memory: SharedMemory) -> None:
    arena = Arena(memory, 33, rows=2)
    block = arena.take()
    arena[block].copy_(torch.arange(33.0))
    other = Vectors(33)
    other.extend(pickle.loads(pickle.dumps(arena.segments)))  # noqa: S301 - our own
    assert other[block].tolist() == list(range(33))
    other[block][0] = -1
    assert arena[block][0] == -1


@pytest.mark.parametrize("array", [np.arange(12.0).reshape(3, 4), np.zeros((0, 5), np.float32), np.array([7])])
def test_an_array_is_shared_with_another_process(memory: SharedMemory, array: np.ndarray, tmp_path: Path) -> None:
    shared = memory.share(array)
    handle, answer = tmp_path / "handle", tmp_path / "answer.npy"
    handle.write_bytes(pickle.dumps(shared))
    code = f"import pickle, numpy; numpy.save({str(answer)!r}, pickle.load(open({str(handle)!r}, 'rb')).open())"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    found = np.load(answer)
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)


@pytest.mark.skipif(sys.platform != "linux", reason="memory of the system's own")
def test_a_simulation_that_cannot_be_built_keeps_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    made, segment = [], SharedMemory.segment

    def scarce(self: SharedMemory, nbytes: int) -> Segment:
        if len(made) == 10:  # the data and the first vectors are there, the peers' own are not
            raise RunError("no memory")
        made.append(segment(self, nbytes))
        return made[-1]

    monkeypatch.setattr(SharedMemory, "segment", scarce)
    with pytest.raises(RunError, match="no memory"):
        simulate(small())
    assert len(made) == 10
    assert not [one.path for one in made if "coterie" in os.path.realpath(one.path)]


@pytest.mark.parametrize("changes", [{}, {"gossip__asynchronous": True}, {"federation__protocol": "fedavg"}])
def test_what_a_run_keeps_does_not_grow_with_its_rounds(changes: dict[str, Any]) -> None:
    """Vectors come free by themselves: no cycle keeps one until the garbage collector looks."""
    kept = []
    for rounds in (4, 24):
        gc.disable()
        try:
            _, simulation = simulate(small(federation__rounds=rounds, run__checkpoint_every=0, **changes))
        finally:
            gc.enable()
        kept.append(len(simulation.arena.segments))
    assert kept[1] == kept[0] <= 6  # own, momentum, published now and a round before, the next ones, the initial one
