"""Arrays of one's own, from an ``.npz`` file."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from coterie.data.dataset import Array
from coterie.errors import DataError
from coterie.registry import datasets

_CHANNELS = (1, 3, 4)


@datasets.register("npz", takes_path=True)
def npz(argument: str, data_dir: Path | None) -> tuple[Array, ...]:
    """Arrays x_train, y_train (classes 0, 1 ...) and perhaps x_test, y_test of the file ``npz:PATH``.

    Images (x with 3 or 4 axes) of dtype uint8 are divided by 255. N x H x W becomes (N, 1, H, W); N x H x W x C
    becomes (N, C, H, W), and an array with 1, 3 or 4 on its second axis, but not on its last, already is that.
    Features (2 axes) are taken as they are. Pickled objects are refused.

    Raises DataError for a file that cannot be read or lacks an array.
    """
    path = Path(argument)
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                raise DataError("this is one array", where=str(path), remedy="Write it with numpy.savez.")
            with content:
                names = _names(path, content.files)
                found = [content[name] for name in names]
    except FileNotFoundError:
        raise DataError(
            f"there is no file {path}", where="data.dataset", remedy="Paths are relative to the spec's folder."
        ) from None
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        # NotImplementedError is zipfile's word for a compression method it does not know
        raise DataError(
            f"cannot be read: {error}",
            where=str(path),
            remedy="Write plain arrays (no objects) with numpy.savez or savez_compressed.",
        ) from None
    return tuple(_channels_first(a) if name.startswith("x_") else a for name, a in zip(names, found, strict=True))


def _names(path: Path, present: list[str]) -> list[str]:
    names = ["x_train", "y_train"]
    if "x_test" in present or "y_test" in present:
        names += ["x_test", "y_test"]
    missing = [name for name in names if name not in present]
    if missing:
        raise DataError(
            f"it has no {' and no '.join(missing)} but {', '.join(present) or 'nothing'}",
            where=str(path),
            remedy="Arrays are named x_train, y_train and, both or neither, x_test, y_test.",
        )
    return names


def _channels_first(x: Array) -> Array:
    if x.ndim not in (3, 4) or x.dtype.kind not in "buif":  # what is no number, or has no order, is named later
        return x
    images = x.astype(np.float32)
    if x.dtype == np.uint8:
        images /= np.float32(255)
    if x.ndim == 3:
        return images[:, None]
    if x.shape[1] in _CHANNELS and x.shape[3] not in _CHANNELS:
        return images
    return np.ascontiguousarray(np.moveaxis(images, 3, 1))
