from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from test_sources import Server

from coterie.data import CoterieDataWarning, cifar, load
from coterie.data.sources import PublishedFile
from coterie.errors import DataError
from coterie.registry import datasets

LOCAL = os.environ.get("COTERIE_DATA")


@pytest.fixture
def server():
    running = Server()
    yield running
    running.close()


def read(data_dir):
    return load(datasets.resolve("cifar10", Path(), "data.dataset"), data_dir)


def images(n, seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8), (np.arange(n) % 10).astype(np.uint8)


def archive(batch=4, leave_out="", cut=0) -> bytes:
    """The published form, tiny: a label, then 1,024 pixels of each colour, row by row."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:gz") as tar:
        readme = b"hello"
        names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
        for number, name in enumerate(["readme.html", *names]):
            content = readme
            if name.endswith(".bin"):
                x, y = images(batch, number)
                content = b"".join(
                    bytes([label]) + image.transpose(2, 0, 1).tobytes() for image, label in zip(x, y, strict=True)
                )
                content = content[: len(content) - cut]
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            if name != leave_out:
                tar.addfile(info, io.BytesIO(content))
    return sink.getvalue()


def expected(x):
    scaled = (x / 255 - np.array([0.4914, 0.4822, 0.4465])) / np.array([0.2470, 0.2435, 0.2616])
    return scaled.transpose(0, 3, 1, 2)


def test_an_archive_is_downloaded_once_and_checked(server, monkeypatch, recwarn):
    content = archive()
    file = PublishedFile("cifar-10-binary.tar.gz", hashlib.sha256(content).hexdigest(), len(content))
    monkeypatch.setattr(cifar, "ARCHIVE", file)
    monkeypatch.setattr(cifar, "MIRRORS", (server.url,))
    monkeypatch.setattr(cifar, "_WHOLE", (20, 4))
    server.files["/cifar-10-binary.tar.gz"] = content
    found = read(None)
    read(None)
    assert server.asked == ["/cifar-10-binary.tar.gz"]
    assert not recwarn.list
    x = np.concatenate([images(4, number)[0] for number in range(1, 6)])
    assert (found.shape, found.classes, found.x_train.dtype) == ((3, 32, 32), 4, np.float32)
    assert np.allclose(found.x_train, expected(x), atol=1e-5)
    assert np.allclose(found.x_test, expected(images(4, 6)[0]), atol=1e-5)
    assert found.y_train.tolist() == [0, 1, 2, 3] * 5


def test_an_archive_with_a_wrong_checksum_is_refused(server, monkeypatch):
    monkeypatch.setattr(cifar, "MIRRORS", (server.url,))
    server.files["/cifar-10-binary.tar.gz"] = archive()
    with pytest.raises(DataError, match="could not be downloaded"):
        read(None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (archive(leave_out="data_batch_3.bin"), r"no data_batch_3\.bin"),
        (archive(cut=1), "not a multiple of 3073"),
        (archive(batch=0), "not a multiple of 3073"),
        (archive()[:-2000], "cannot be read"),
        (b"nothing", "cannot be read"),
    ],
    ids=range(5),
)
@pytest.mark.filterwarnings("ignore::coterie.data.CoterieDataWarning")
def test_bad_archives(tmp_path, content, message):
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


@pytest.mark.parametrize("sub", ["", "cifar10"])
def test_a_local_subset_is_taken_with_a_warning(tmp_path, sub):
    (x, y), (x_test, y_test) = images(30, 1), images(10, 2)
    (tmp_path / sub).mkdir(exist_ok=True)
    np.savez(tmp_path / sub / "cifar10_some.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    with pytest.warns(CoterieDataWarning, match="30 training and 10 test images of CIFAR-10's 50,000"):
        found = read(tmp_path)
    assert np.allclose(found.x_train, expected(x), atol=1e-5)
    assert np.allclose(found.x_test, expected(x_test), atol=1e-5)
    assert found.y_test.tolist() == y_test.tolist()


@pytest.mark.parametrize("arrays", [
    {"x_train": np.zeros((9, 28, 28), np.uint8)}, {"x_train": np.full((9, 32, 32, 3), 200.0)},
    {"x_train": np.zeros((9, 3, 32, 32), "U1")}, {"x_train": np.zeros((9, 3, 32, 32), np.complex64)},
])  # fmt: skip
def test_other_arrays_are_refused(tmp_path, arrays):
    y = np.arange(9) % 3
    np.savez(tmp_path / "cifar10.npz", y_train=y, **arrays, x_test=arrays["x_train"], y_test=y)
    with pytest.raises(DataError, match="not CIFAR-10's"):
        read(tmp_path)


@pytest.mark.skipif(not LOCAL, reason="COTERIE_DATA is not set: there are no real images to read")
@pytest.mark.filterwarnings("ignore::coterie.data.CoterieDataWarning")
def test_the_real_images():
    data = read(Path(str(LOCAL)))
    assert data.shape == (3, 32, 32)
    assert data.classes == 10
    assert np.abs(data.x_train.mean(axis=(0, 2, 3))).max() < 0.02
    assert np.abs(data.x_train.std(axis=(0, 2, 3)) - 1).max() < 0.02
