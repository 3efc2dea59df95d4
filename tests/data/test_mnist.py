from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from coterie.data import CoterieDataWarning, load, mnist
from coterie.data.idx import read_idx
from coterie.errors import DataError
from coterie.registry import datasets

LOCAL = os.environ.get("COTERIE_DATA")


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def put(folder: Path, zipped: bool = True, train: int = 20, side: int = 28) -> Path:
    """The four files of a tiny MNIST."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    for file, n in zip(mnist.FILES, (train, train, 10, 10), strict=True):
        array = rng.integers(0, 256, (n, side, side)) if "images" in file.name else np.arange(n) % 10
        content = idx(array)
        name = file.name if zipped else file.name.removesuffix(".gz")
        (folder / name).write_bytes(gzip.compress(content) if zipped else content)
    return folder


def read(data_dir):
    return load(datasets.resolve("mnist", Path(), "data.dataset"), data_dir)


def test_idx_by_hand(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 10, 11, 12, 20, 21, 255]))
    assert read_idx(path, 2).tolist() == [[10, 11, 12], [20, 21, 255]]
    path.write_bytes(gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9])))
    assert read_idx(path, 1).tolist() == [7, 9]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file"),
        (b"\0\0\x08", "not an IDX file"),
        (b"PNG..............", "not an IDX file"),
        (bytes([0, 0, 13, 1, 0, 0, 0, 1, 0]), "type 0x0d on 1 axes; expected 0x08"),
        (bytes([0, 0, 8, 3, 0, 0, 0, 1, 0]), "on 3 axes; expected 0x08 .* on 1"),
        (bytes([0, 0, 8, 1, 0, 0]), "header is damaged"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 5, 1, 2]), "ends 3 bytes before the last element"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 1, 1, 2]), "goes on after the last element"),
        (gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]), mtime=0)[:-9], "cannot be read"),
        (gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]), mtime=0)[:-8] + b"\0" * 8, "cannot be read"),
    ],
    ids=range(10),
)
def test_bad_idx(tmp_path, content, message):
    path = tmp_path / "labels"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path, 1)
    assert caught.value.where == str(path)


def test_an_impossible_size_is_not_allocated(tmp_path):
    (tmp_path / "f").write_bytes(bytes([0, 0, 8, 3]) + b"\xff" * 12)
    with pytest.raises(DataError, match="header is damaged"):
        read_idx(tmp_path / "f", 3)


def test_no_file(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path / "f", 1)


@pytest.mark.parametrize("sub", ["", "mnist"])
@pytest.mark.parametrize("by_variable", [False, True])
def test_local_files_that_differ_are_taken_with_a_warning(tmp_path, monkeypatch, sub, by_variable):
    put(tmp_path / "d" / sub)
    if by_variable:
        monkeypatch.setenv("COTERIE_DATA", str(tmp_path / "d"))
    with pytest.warns(CoterieDataWarning, match="differs from the published file") as caught:
        data = read(None if by_variable else tmp_path / "d")
    assert len(caught) == 4
    assert (data.shape, data.classes, len(data.x_train), len(data.x_test)) == ((1, 28, 28), 10, 20, 10)


def test_unpacked_files_and_pixel_values(tmp_path, recwarn):
    put(tmp_path, zipped=False)
    data = read(tmp_path)
    assert not recwarn.list
    pixels = np.random.default_rng(1).integers(0, 256, (20, 28, 28))
    assert np.allclose(data.x_train[:, 0], (pixels / 255 - 0.1307) / 0.3081, atol=1e-5)


def test_the_named_folder_comes_before_the_variable(tmp_path, monkeypatch):
    put(tmp_path / "named", zipped=False, train=30)
    monkeypatch.setenv("COTERIE_DATA", str(put(tmp_path / "variable", zipped=False)))
    assert len(read(tmp_path / "named").x_train) == 30
    (tmp_path / "empty").mkdir()
    assert len(read(tmp_path / "empty").x_train) == 20


def test_a_missing_file_is_named(tmp_path):
    put(tmp_path)
    (tmp_path / mnist.FILES[1].name).unlink()
    with pytest.raises(DataError, match=f"{mnist.FILES[1].name} is missing"):
        read(tmp_path)


def test_wrong_sizes(tmp_path):
    put(tmp_path / "a", zipped=False, side=8)
    with pytest.raises(DataError, match="images of 8 x 8, not 28 x 28"):
        read(tmp_path / "a")
    put(tmp_path / "b", zipped=False)
    (tmp_path / "b" / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(19) % 10))
    with pytest.raises(DataError, match="20 samples but 19 labels"):
        read(tmp_path / "b")


@pytest.mark.skipif(not LOCAL, reason="COTERIE_DATA is not set: there are no real MNIST files to read")
@pytest.mark.filterwarnings("ignore::coterie.data.CoterieDataWarning")
def test_the_real_files():
    data = read(Path(str(LOCAL)))
    assert data.x_train.shape == (60_000, 1, 28, 28)
    assert data.x_test.shape == (10_000, 1, 28, 28)
    # Class sizes as published.
    assert np.bincount(data.y_train).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(data.y_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert abs(data.x_train.mean()) < 2e-3
    assert abs(data.x_train.std() - 1) < 2e-3
