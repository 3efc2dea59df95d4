"""A folder to work in for the tests of bad input."""

import pytest
from failing import SMALL


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of its own to work in, with a small spec."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COTERIE_DEBUG", raising=False)
    monkeypatch.delenv("COTERIE_DATA", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "small.toml").write_text(SMALL)
    return tmp_path
