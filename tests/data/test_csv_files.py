from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from coterie.data import load
from coterie.errors import DataError
from coterie.registry import datasets

ROWS = [f"{i},{i * i},{('no', 'yes')[i % 2]}" for i in range(20)]


def read(reference, base):
    return load(datasets.resolve(f"csv:{reference}", base, "data.dataset"), None)


def write(path: Path, rows, header="age,dose,ill"):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(([header] if header else []) + list(rows)) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize("header", ["age,dose,ill", None])
def test_one_file(tmp_path, name, header):
    write(tmp_path / name, ROWS, header)
    data = read(name, tmp_path)
    assert (data.shape, data.classes, len(data.x_train), len(data.x_test)) == ((2,), 2, 16, 4)
    assert data.unscaled
    assert set(map(tuple, data.x_train)) | set(map(tuple, data.x_test)) == {(i, i * i) for i in range(20)}
    assert np.bincount(data.y_test).tolist() == [2, 2]
    assert np.array_equal(data.groups, np.zeros(16))
    # The first column counts up, and its parity is the label.
    x, y = np.concatenate([data.x_train, data.x_test])[:, 0], np.concatenate([data.y_train, data.y_test])
    assert np.array_equal(x % 2, y)


@pytest.mark.parametrize(
    ("labels", "expected", "names"),
    [
        ((2, 10, -1), [1, 2, 0], ("-1", "2", "10")),
        ((2.0, 10.0, -1.0), [1, 2, 0], ("-1", "2", "10")),
        ((1234568, 1234567, "-0"), [2, 1, 0], ("0", "1234567", "1234568")),
        (("2", "10", "b"), [1, 0, 2], ("10", "2", "b")),
    ],
)
def test_integers_sort_as_numbers_and_words_as_words(tmp_path, labels, expected, names):
    write(tmp_path / "a.csv", [f"{i % 3},{labels[i % 3]}" for i in range(30)], "x,y")
    data = read("a.csv", tmp_path)
    original = np.unique(data.x_train[:, 0], return_inverse=True)[1]
    assert data.classes == 3
    assert data.class_names == names
    assert np.array_equal(data.y_train, np.array(expected)[original])


@pytest.mark.parametrize("reference", ["sites", "sites/*.csv*", "s*/[ab].csv*"])
def test_a_folder_or_a_pattern_gives_groups(tmp_path, reference):
    write(tmp_path / "sites/b.csv", ROWS[:5])
    write(tmp_path / "sites/a.csv.gz", ROWS[5:])
    write(tmp_path / "sites/readme.txt", ["hello"])
    data = read(reference, tmp_path)
    assert set(data.groups) == {0, 1}
    assert len(data.groups) == len(data.x_train)
    ages = data.x_train[:, 0]
    assert ages[data.groups == 1].max() < ages[data.groups == 0].min()


def test_a_folder_with_brackets_in_its_name(tmp_path):
    write(tmp_path / "run [1]" / "a.csv", ROWS)
    assert len(read("*.csv", tmp_path / "run [1]").x_train) == 16


def test_columns_must_agree(tmp_path):
    write(tmp_path / "s/a.csv", ROWS)
    write(tmp_path / "s/b.csv", ROWS, "dose,age,ill")
    with pytest.raises(DataError, match=r"b\.csv: its columns are not those of .*a\.csv"):
        read("s", tmp_path)


def test_byte_order_mark_windows_lines_quotes_and_blank_lines(tmp_path):
    text = "\ufeffage, dose ,ill\r\n\r\n" + "\r\n".join(f'"{i}", {i},"a, b{i % 2}"' for i in range(10)) + "\r\n\r\n"
    (tmp_path / "a.csv").write_bytes(text.encode())
    data = read("a.csv", tmp_path)
    assert (data.classes, len(data.x_train)) == (2, 8)


def swapped(row, text):
    return [*ROWS[:row], text, *ROWS[row + 1 :]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (swapped(4, "4,many,no"), r"a\.csv line 6, column 2 \(dose\): 'many' is not a finite number"),
        (swapped(3, "NaN,9,no"), r"a\.csv line 5, column 1 \(age\): 'NaN' is not a finite number"),
        (swapped(3, "3,inf,no"), r"line 5, column 2 \(dose\): 'inf' is not"),
        (swapped(3, ",9,no"), r"line 5, column 1 \(age\): '' is not"),
        (swapped(7, "7,8"), r"line 9: 2 columns, not 3"),
        (swapped(7, "7,8,9,no"), r"line 9: 4 columns, not 3"),
        (swapped(0, "0,0,"), r"line 2: the label is ''"),
        ([f"{i},{i},{i / 2}" for i in range(9)], r"line 3: the label is '0.5'"),
        ([f"{i},{i},nan" for i in range(9)], r"line 2: the label is 'nan'"),
        ([f"{i},{i},{2**53 + i}" for i in range(9)], r"line 2: the label is '9007199254740992'"),
        ([f"{i},{i},no" for i in range(9)], "all training samples have label 0"),
        ([], "it has no rows"),
    ],
)
def test_bad_rows_are_named(tmp_path, rows, message):
    write(tmp_path / "a.csv", rows)
    with pytest.raises(DataError, match=message):
        read("a.csv", tmp_path)


def test_text_in_a_headless_file_names_the_column_by_number(tmp_path):
    write(tmp_path / "a.csv", ["1,x,no", *ROWS], None)
    with pytest.raises(DataError, match=r"line 1, column 2: 'x' is not a finite number"):
        read("a.csv", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it has no rows"),
        (b"a\n1\n2\n", "it has one column"),
        (b"1;2;0\n3;4;1\n", "it has one column.* by commas, not by ';'"),
        (b"a\tb\n1,5\t0\n3,2\t1\n", r"it has one column.* by commas, not by '\\t'"),
        (b"a,b\n\xff\xfe,1\n", "cannot be read"),
    ],
)
def test_files_that_are_no_tables(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read("a.csv", tmp_path)


@pytest.mark.parametrize("damage", [lambda b: b[:-12], lambda b: b"plain text", lambda b: b[:10] + b"\xff" * 40])
def test_damaged_gzip(tmp_path, damage):
    path = write(tmp_path / "a.csv.gz", ROWS)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="cannot be read"):
        read("a.csv.gz", tmp_path)


@pytest.mark.parametrize("reference", ["no.csv", "no/*.csv", "a**b", "x" * 300, "folder"])
def test_nothing_there(tmp_path, reference):
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="there is no CSV file"):
        read(reference, tmp_path)
