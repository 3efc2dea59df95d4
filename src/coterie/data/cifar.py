"""CIFAR-10 (Krizhevsky, 2009), from local files or downloaded once, and scaled by constants that everybody knows."""

from __future__ import annotations

import tarfile
import warnings
import zlib
from pathlib import Path

import numpy as np

from coterie.data.arrays import npz
from coterie.data.dataset import Array
from coterie.data.sources import CoterieDataWarning, PublishedFile, folders, obtain
from coterie.errors import DataError
from coterie.registry import datasets

MIRRORS = ("https://www.cs.toronto.edu/~kriz/",)
ARCHIVE = PublishedFile(
    "cifar-10-binary.tar.gz", "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd", 170_052_171
)
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Of the 50,000 training images' pixels / 255: red, green, blue."""
_PIXELS = 3 * 32 * 32
_LARGEST = 1 << 27
"""Bytes of a batch; a published one has 30,730,000."""
_BATCHES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
_WHOLE = (50_000, 10_000)


@datasets.register("cifar10")
def cifar10(argument: str, data_dir: Path | None) -> tuple[Array, ...]:
    """Ten kinds of small colour photographs, 50,000 + 10,000 of 32 x 32; downloaded where there is no local copy.

    A local copy is one file ``cifar10*.npz`` with uint8 arrays x_train, y_train, x_test and y_test (n x 32 x 32 x 3),
    or the published archive in its binary form; the pickled one is not read, as pickles can run code. A copy with fewer
    images is taken with a CoterieDataWarning: its figures are not those of CIFAR-10.

    Returns x_train (50000, 3, 32, 32) float32, ``(pixel / 255 - mean) / deviation`` with the published constants of
    each colour, y_train, x_test and y_test. Raises DataError for files that are damaged or cannot be had. Source:
    https://www.cs.toronto.edu/~kriz/cifar.html.
    """
    local = [path for folder in folders("cifar10", data_dir) for path in sorted(folder.glob("cifar10*.npz"))]
    if local:
        x_train, y_train, x_test, y_test = _arrays(local[0])
    else:
        path = obtain("cifar10", (ARCHIVE,), MIRRORS, data_dir)[ARCHIVE.name]
        x_train, y_train, x_test, y_test = _archive(path)
    sizes = len(y_train), len(y_test)
    if sizes != _WHOLE:
        where = local[0] if local else path
        warnings.warn(
            f"{where} holds {sizes[0]:,} training and {sizes[1]:,} test images of CIFAR-10's 50,000 and 10,000: "
            "figures are not comparable with published ones.",
            CoterieDataWarning,
            stacklevel=2,
        )
    return _scaled(x_train), y_train, _scaled(x_test), y_test


def _arrays(path: Path) -> tuple[Array, ...]:
    """Images (n, 3, 32, 32) in [0, 1] and labels, from an npz file."""
    found: tuple[Array, ...] = npz(str(path), None)
    if len(found) != 4 or any(x.shape[1:] != (3, 32, 32) or x.dtype != np.float32 or x.max() > 1 for x in found[::2]):
        raise DataError(
            f"arrays of shapes {', '.join(str(a.shape) for a in found)} are not CIFAR-10's",
            where=str(path),
            remedy="Give uint8 images n x 32 x 32 x 3 as x_train and x_test, labels as y_train and y_test.",
        )
    return found


def _archive(path: Path) -> tuple[Array, ...]:
    """The same from the published archive: batches of records of one byte of label and 3,072 of pixels, by colour."""
    batches: dict[str, Array] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = Path(member.name).name
                if member.isfile() and name in _BATCHES:
                    file = archive.extractfile(member)
                    content = file.read(_LARGEST) if file else b""
                    if len(content) % (_PIXELS + 1) or not content:
                        raise DataError(
                            f"{name} has {len(content)} bytes, not a multiple of {_PIXELS + 1}",
                            where=str(path),
                            remedy="Get the file again.",
                        )
                    batches[name] = np.frombuffer(content, dtype=np.uint8).reshape(-1, _PIXELS + 1)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot be read: {error}", where=str(path), remedy="Get the file again.") from None
    missing = [name for name in _BATCHES if name not in batches]
    if missing:
        raise DataError(f"it has no {', '.join(missing)}", where=str(path), remedy="Get the binary version.")
    *train, test = (batches[name] for name in _BATCHES)
    return *_records(np.concatenate(train)), *_records(test)


def _records(rows: Array) -> tuple[Array, Array]:
    images = rows[:, 1:].reshape(-1, 3, 32, 32).astype(np.float32)
    images /= np.float32(255)
    return images, rows[:, 0].astype(np.int64)


def _scaled(images: Array) -> Array:
    images -= np.array(MEAN, dtype=np.float32)[:, None, None]
    images /= np.array(DEVIATION, dtype=np.float32)[:, None, None]
    return images
