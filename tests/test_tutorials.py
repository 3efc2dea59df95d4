"""The tutorials run as they are written: blocks one after another, Python in one namespace as in a notebook."""

import shutil
from pathlib import Path

import pytest

from fenced_blocks import CHECKOUT, blocks, invoke

TUTORIALS = sorted((CHECKOUT / "docs").glob("tutorial-*.md"))


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_the_blocks_run_one_after_another(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(CHECKOUT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__", "runs"))
    names = {"__name__": "__main__"}
    ran = set()
    for block in blocks(path):
        if block.slow:
            continue
        ran.add(block.language)
        if block.file:
            Path(block.file).write_text(block.text)
        elif block.language == "python":
            exec(compile(block.text, f"{path.name}, line {block.line}", "exec"), names)  # noqa: S102
        elif block.language == "sh":
            for words in block.commands:
                invoke(words)
    assert ran >= {"python", "sh"}


def test_there_is_one_for_researchers():
    assert "tutorial-researcher" in {path.stem for path in TUTORIALS}
