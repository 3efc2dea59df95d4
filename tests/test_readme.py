"""What README.md says works: its commands and its Python are run as they are written."""

import re
import shutil

import pytest

import coterie.runtime.catalog  # noqa: F401 - fills the registries
from coterie import spec as specs
from fenced_blocks import CHECKOUT, blocks, inline_commands, invoke, named_spec

README = CHECKOUT / "README.md"
SHELLS = ("sh", "console")
LOCAL = re.compile(r"\]\((?!https?:|#)([^)#]+)")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What a stranger sees after a checkout, in a folder of the test's own."""
    shutil.copytree(CHECKOUT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__", "runs"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_blocks_run_one_after_another(folder):
    known = [block for block in blocks(README) if block.language in (*SHELLS, "python") and not block.slow]
    assert {block.language for block in known} >= {"sh", "python"}
    for block in known:
        if block.language == "python":
            exec(compile(block.text, f"README.md, line {block.line}", "exec"), {"__name__": "__main__"})  # noqa: S102
        else:
            for words in block.commands:
                if words[0] != "make":
                    invoke(words)


def test_make_has_the_targets(folder):
    makefile = (CHECKOUT / "Makefile").read_text()
    named = [words[1] for block in blocks(README) for words in block.commands if words[0] == "make"]
    assert named == ["run", "test"]
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_slow_blocks_and_commands_in_the_text_name_specs_that_load(folder):
    slow = [words for block in blocks(README) if block.slow for words in block.commands]
    written = [words for words in inline_commands(README) if words[1] == "run"]
    assert slow
    assert written
    for words in slow + written:
        specs.load(*named_spec(words))


def test_links_lead_somewhere():
    for path in (README, CHECKOUT / "CONTRIBUTING.md", *(CHECKOUT / "docs").glob("*.md")):
        for target in LOCAL.findall(path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_images_are_small():
    for image in (CHECKOUT / "docs/images").iterdir():
        assert image.stat().st_size < 150_000, image
