"""Snapshots on disk: the same elements as were written, and nothing stays."""

import gc
import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from network_world import LAYOUT

from coterie.errors import DataError
from coterie.network.spool import Spool, SpooledSnapshot

SIZE = 600_001


def elements(seed):
    return np.random.default_rng(seed).standard_normal(SIZE, np.float32)


def filled(spool, seed):
    room = spool.room(LAYOUT, SIZE)
    for start in range(0, SIZE, 100_000):
        room.write(start, elements(seed)[start : start + 100_000])
    return room


def test_what_is_written_is_there(tmp_path):
    found, held = filled(Spool(tmp_path), 1), elements(1)
    assert (found.layout_hash, found.size) == (LAYOUT, SIZE)
    assert found.digest() == hashlib.sha256(held.tobytes()).digest()
    assert torch.equal(found.tensor(), torch.from_numpy(held))
    piece = np.empty(100, np.float32)
    found.read(SIZE - 100, piece)
    assert (piece == held[-100:]).all()
    with pytest.raises(DataError, match="shorter"):
        found.read(SIZE - 99, piece)


def test_a_hash_that_is_known_is_not_computed(tmp_path):
    found = filled(Spool(tmp_path), 1)
    found.written(bytes(32))
    assert found.digest() == bytes(32)


def test_all_who_hold_the_tensor_share_its_pages_and_outlive_the_snapshot(tmp_path):
    found = filled(Spool(tmp_path), 1)
    one = found.tensor()
    assert one.data_ptr() == found.tensor().data_ptr()
    one[0] = 5.0
    piece = np.empty(1, np.float32)
    found.read(0, piece)
    assert piece[0] == 5.0
    del found
    gc.collect()
    assert one[0] == 5.0


@pytest.mark.skipif(sys.platform != "linux", reason="files without a name")
def test_a_file_has_no_name_and_ends_with_its_snapshot(tmp_path):
    def opened():
        return len([*Path("/proc/self/fd").iterdir()])

    def mapped():
        return Path("/proc/self/maps").read_text().count(str(tmp_path))

    before = opened()
    found = filled(Spool(tmp_path), 1)
    tensor = found.tensor()
    assert list(tmp_path.iterdir()) == []
    assert mapped() == 1
    del found, tensor
    assert (opened(), mapped()) == (before, 0)


def test_what_was_left_is_deleted(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "left").write_bytes(b"of a process that died")
    Spool(tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="room is taken at once")
def test_without_room_there_is_a_warning(tmp_path, caplog):
    assert isinstance(Spool(tmp_path).room(LAYOUT, SIZE), SpooledSnapshot)
    assert Spool(tmp_path).room(LAYOUT, 1 << 60) is None
    (tmp_path / "file").write_bytes(b"in the way")
    assert Spool(tmp_path / "file").room(LAYOUT, SIZE) is None
    assert caplog.text.count("kept in memory") == 2
