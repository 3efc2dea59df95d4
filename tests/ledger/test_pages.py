"""Rows read from a database file page by page are those that SQLite itself reads."""

import random
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.ledger.pages import last_columns

PAGE = 4096
SIZES = [
    0,
    1,
    5,
    100,
    127,
    128,
    4000,
    4045,
    4046,
    4047,
    4048,
    4049,
    4050,
    4060,
    4070,
    4096,
    5000,
    8130,
    8144,
    16300,
    20000,
    99999,
]


def database(path, sizes, seed=0):
    """A table whose last column is a blob; returns what SQLite reads of it."""
    draw = random.Random(seed)
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA page_size={PAGE}")
    db.execute("CREATE TABLE things (seq INTEGER PRIMARY KEY, name TEXT, number INTEGER, data BLOB)")
    db.execute("CREATE INDEX names ON things (name)")
    for size in sizes:
        number = draw.choice([0, 1, -1, 300, 1 << 40, -(1 << 62), None, 0.5])
        db.execute(
            "INSERT INTO things (name, number, data) VALUES (?, ?, ?)",
            ("n" * (size % 50), number, draw.randbytes(size)),
        )
    db.commit()
    rows = db.execute("SELECT seq, data FROM things ORDER BY seq").fetchall()
    db.close()
    return rows


@pytest.mark.parametrize("repeat", [1, 20])
def test_all_rows_are_found(tmp_path, repeat):
    rows = database(tmp_path / "db", SIZES * repeat)
    assert sorted(last_columns(tmp_path / "db", PAGE, 1 << 20)) == rows


def test_other_columns_and_long_rows_are_passed_over(tmp_path):
    path = tmp_path / "db"
    rows = database(path, SIZES)
    assert sorted(last_columns(path, PAGE, 4200)) == [(seq, data) for seq, data in rows if len(data) < 4100]
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE words (word TEXT)")
    db.execute("INSERT INTO words VALUES ('a'), (NULL), (7), (0.5)")
    db.commit()
    db.close()
    assert sorted(last_columns(path, PAGE, 1 << 20)) == rows


def test_rows_of_intact_pages_are_found_without_the_pages_above(tmp_path):
    """The root of the table is destroyed: SQLite finds nothing at all."""
    path = tmp_path / "db"
    rows = database(path, [300] * 500)
    db = sqlite3.connect(path)
    (root,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'things'").fetchone()
    db.close()
    with path.open("r+b") as file:
        file.seek((root - 1) * PAGE)
        file.write(bytes(PAGE))
    with pytest.raises(sqlite3.DatabaseError):
        sqlite3.connect(path).execute("SELECT data FROM things").fetchall()
    assert sorted(last_columns(path, PAGE, 1 << 20)) == rows


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1 << 32))
def test_nothing_in_a_file_makes_it_fail(tmp_path_factory, seed):
    path = tmp_path_factory.getbasetemp() / "mutated"
    path.unlink(missing_ok=True)
    database(path, SIZES, seed)
    draw, data = random.Random(seed), bytearray(path.read_bytes())
    for _ in range(draw.choice([1, 10, 300])):
        start = draw.randrange(len(data))
        piece = draw.choice([draw.randbytes(1), b"\xff" * 9, bytes(4), b"\x0d", draw.randbytes(50)])
        data[start : start + len(piece)] = piece
    path.write_bytes(data[: draw.randrange(len(data) + 1)])
    for _, column in last_columns(path, PAGE, 1 << 20):
        assert len(column) <= 1 << 20


def test_a_page_of_nonsense_that_claims_to_be_a_leaf(tmp_path):
    for filling in (b"\xff", b"\x0d", b"\x00", b"\x81"):
        (tmp_path / "db").write_bytes((b"\x0d" + filling * (PAGE - 1)) * 3)
        assert list(last_columns(tmp_path / "db", PAGE, 1 << 20)) == [] or filling != b"\xff"
