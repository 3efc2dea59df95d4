from __future__ import annotations

import numpy as np
import pytest

from coterie.data import load
from coterie.errors import DataError
from coterie.registry import datasets

Y = np.arange(10) % 2
RNG = np.random.default_rng(0)


def read(path):
    return load(datasets.resolve(f"npz:{path.name}", path.parent, "data.dataset"), None)


def save(path, x, y=Y, **more):
    np.savez_compressed(path, x_train=x, y_train=y, **more)
    return path


def both(data):
    return np.concatenate([data.x_train, data.x_test])


def test_features_are_taken_as_they_are(tmp_path):
    x = RNG.integers(0, 255, (10, 4)).astype(np.uint8)
    data = read(save(tmp_path / "a.npz", x))
    assert (data.shape, data.classes, len(data.x_test)) == ((4,), 2, 2)
    assert sorted(map(tuple, both(data))) == sorted(map(tuple, x.astype(np.float32)))


@pytest.mark.parametrize(
    ("stored", "shape"),
    [((10, 5, 6), (1, 5, 6)), ((10, 5, 6, 3), (3, 5, 6)), ((10, 3, 5, 6), (3, 5, 6)), ((10, 5, 6, 1), (1, 5, 6))],
)
def test_images_become_channels_first(tmp_path, stored, shape):
    x = RNG.integers(0, 256, stored).astype(np.uint8)
    data = read(save(tmp_path / "a.npz", x, x_test=x, y_test=Y))
    assert data.shape == shape
    assert data.x_train.flags.c_contiguous
    assert data.x_train.max() <= 1
    expected = x[4, 2, 3, 1] if stored == (10, 5, 6, 3) else x[4].reshape(shape)[0, 2, 3]
    channel = 1 if stored == (10, 5, 6, 3) else 0
    assert data.x_train[4, channel, 2, 3] == np.float32(expected) / np.float32(255)


def test_float_images_keep_their_values_and_the_test_set_is_kept(tmp_path):
    x = RNG.normal(size=(10, 5, 6))
    data = read(save(tmp_path / "a.npz", x, y=Y[:, None], x_test=x[:3], y_test=Y[:3]))
    assert np.array_equal(data.x_train, x[:, None].astype(np.float32))
    assert np.array_equal(data.y_test, Y[:3])


def test_missing_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 2)), y_train=Y)
    with pytest.raises(DataError, match="it has no x_train but x, y_train"):
        read(tmp_path / "a.npz")
    with pytest.raises(DataError, match="it has no y_test but"):
        read(save(tmp_path / "b.npz", np.zeros((10, 2)), x_test=np.zeros((3, 2))))


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("an object was unpickled",))


def test_pickled_objects_are_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read(save(tmp_path / "a.npz", np.array([Bomb()] * 10, dtype=object)))


def test_not_an_archive(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"plain text")
    np.save(tmp_path / "b.npy", Y)
    whole = save(tmp_path / "c.npz", RNG.normal(size=(10, 50))).read_bytes()
    (tmp_path / "c.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "e.npz").write_bytes(whole[:300] + b"\0" * 40 + whole[340:])
    for name in ("a.npz", "c.npz", "e.npz", ".", "x" * 300):
        with pytest.raises(DataError, match="cannot be read"):
            read(tmp_path / name)
    with pytest.raises(DataError, match="this is one array"):
        read(tmp_path / "b.npy")
    with pytest.raises(DataError, match="there is no file"):
        read(tmp_path / "d.npz")


@pytest.mark.parametrize("shape", [(10, 4), (10, 5, 6), (10, 5, 6, 3)])
@pytest.mark.parametrize("kind", ["complex64", "U3", "datetime64[s]"])
def test_what_is_no_real_number_is_named(tmp_path, shape, kind):
    with pytest.raises(DataError, match="x_train: elements of type"):
        read(save(tmp_path / "a.npz", np.zeros(shape).astype(kind)))


def test_values_are_checked(tmp_path):
    x = np.zeros((10, 2))
    x[3, 1] = np.nan
    with pytest.raises(DataError, match="x_train: row 3, column 1 is nan"):
        read(save(tmp_path / "a.npz", x))
