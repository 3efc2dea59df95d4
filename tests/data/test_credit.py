from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from coterie.data import load, scale
from coterie.errors import DataError
from coterie.registry import datasets

LOCAL = os.environ.get("COTERIE_DATA")
HEADER = ",".join(["ID", *(f"X{i}" for i in range(1, 24)), "default"])


def read(data_dir):
    return load(datasets.resolve("credit", Path(), "data.dataset"), data_dir)


def rows(n, labels=2):
    return [",".join(str(v) for v in [i, *range(i, i + 23), i % labels]) for i in range(1, n + 1)]


@pytest.mark.parametrize("zipped", [False, True])
def test_the_number_of_a_client_is_dropped(tmp_path, zipped):
    text = "\n".join([HEADER, *rows(20)]).encode()
    name = "default_of_credit_card_clients.csv"
    (tmp_path / "credit").mkdir()
    path = tmp_path / "credit" / (name + (".gz" if zipped else ""))
    path.write_bytes(gzip.compress(text) if zipped else text)
    data = read(tmp_path)
    assert data.unscaled
    assert (data.shape, data.classes, len(data.x_train), len(data.x_test)) == ((23,), 2, 16, 4)
    x = np.concatenate([data.x_train, data.x_test])
    assert np.array_equal(np.sort(x[:, 0]), np.arange(1, 21))
    assert np.array_equal(x - x[:, :1], np.tile(np.arange(23), (20, 1)))
    assert np.array_equal(np.concatenate([data.y_train, data.y_test]), x[:, 0] % 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n".join(rows(4)), "its columns are not"),
        (HEADER.replace("ID", "X0") + "\n" + "\n".join(rows(4)), "its columns are not"),
        ("ID,X1,Y\n1,2,0\n2,3,1", "its columns are not"),
        ("\n".join([HEADER, *rows(20, labels=3)]), "3 values, not 2"),
    ],
)
def test_other_tables_are_refused(tmp_path, text, message):
    (tmp_path / "default_of_credit_card_clients.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_where_to_get_it(tmp_path):
    with pytest.raises(DataError, match="there is no") as caught:
        read(tmp_path)
    assert "archive.ics.uci.edu" in caught.value.remedy


@pytest.mark.skipif(not LOCAL, reason="COTERIE_DATA is not set: there is no real table to read")
def test_the_real_table():
    data = read(Path(str(LOCAL)))
    assert data.shape == (23,)
    assert (len(data.y_train), len(data.y_test)) == (24_000, 6_000)
    assert np.bincount(np.concatenate([data.y_train, data.y_test])).tolist() == [23_364, 6_636]  # as published
    scaled = scale(data, np.array_split(np.arange(24_000), 10), "pooled")
    assert np.allclose(scaled.x_train.mean(axis=0), 0, atol=1e-4)
    assert np.allclose(scaled.x_train.std(axis=0), 1, atol=1e-4)
