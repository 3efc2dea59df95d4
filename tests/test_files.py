from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from coterie.errors import OutputError
from coterie.files import locked, write_file, writing


def test_a_file_is_written_whole_in_a_folder_that_is_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.bin"
    write_file(path, b"one")
    write_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_the_folder_is_synced_after_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, bool]] = []
    sync = os.fsync

    def spy(descriptor: int) -> None:
        seen.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), (tmp_path / "x").exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    write_file(tmp_path / "x", b"content")
    assert seen == [(False, False), (True, True)]


def test_what_cannot_be_written_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    write_file(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_only_its_owner_can_read_it_where_the_mode_says_so(tmp_path: Path) -> None:
    write_file(tmp_path / "x", b"secret", mode=0o600)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o600


def test_a_folder_is_locked_by_one_at_a_time(tmp_path: Path) -> None:
    """An open file is locked, not a process, so one process can show it."""
    busy = OutputError("busy")
    with locked(tmp_path, busy), pytest.raises(OutputError, match="busy"), locked(tmp_path, busy):
        pass
    with locked(tmp_path, busy):
        pass
    with pytest.raises(FileNotFoundError), locked(tmp_path / "none", busy):
        pass


def test_a_fork_that_lives_on_does_not_keep_the_lock(tmp_path: Path) -> None:
    reading, held = os.pipe()
    with locked(tmp_path, OutputError("in use")):
        child = os.fork()
        if child == 0:
            os.close(held)
            os.read(reading, 1)  # until the parent is through
            os._exit(0)
    try:
        with locked(tmp_path, OutputError("in use")):
            pass
    finally:
        os.close(held)
        os.close(reading)
        os.waitpid(child, 0)


def test_a_fork_that_ends_does_not_end_the_lock(tmp_path: Path) -> None:
    parent, child = os.getpid(), 0
    try:
        with locked(tmp_path, OutputError("in use")):
            child = os.fork()
            if child == 0:
                sys.exit()  # it leaves the block, too
            os.waitpid(child, 0)
            with pytest.raises(OutputError), locked(tmp_path, OutputError("in use")):
                pass
    finally:
        if os.getpid() != parent:
            os._exit(0)


def test_what_the_system_refuses_to_write_is_an_output_error(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    with (
        pytest.raises(OutputError, match="the book cannot be written: Is a directory") as caught,
        writing(path, "the book"),
    ):
        path.write_bytes(b"")
    assert caught.value.where == str(path)
    with (
        pytest.raises(OutputError, match=f"^{path}: cannot be written: .*. Try there.$"),
        writing(path, remedy="Try there."),
    ):
        path.write_bytes(b"")
