"""The fenced blocks of a Markdown file, and how the tests run them: as written, one after another, in one folder."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from coterie.cli import app

CHECKOUT = Path(__file__).resolve().parents[1]
SLOW = "<!-- slow -->"
"""On the line above a block: its commands are not run, but the specs they name must load."""
_FENCE = re.compile(r"^(?P<before>[^\n]*)\n```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(coterie [^`]+)`")
_FILE = re.compile(r"# (\S+\.\w+)\n")


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    slow: bool
    line: int

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command; comments are left out."""
        return [words for line in self.text.splitlines() if (words := shlex.split(line, comments=True))]

    @property
    def file(self) -> str:
        """The file that the first line names as a comment; empty where it names none."""
        named = _FILE.match(self.text)
        return named[1] if named else ""


def blocks(path: Path) -> Iterator[Block]:
    """All fenced blocks that name a language."""
    content = path.read_text()
    for found in _FENCE.finditer(content):
        line = content.count("\n", 0, found.start("text")) + 1
        yield Block(found["language"], found["text"], found["before"].strip() == SLOW, line)


def inline_commands(path: Path) -> list[list[str]]:
    """``coterie ...`` in backquotes, with something after the command's name."""
    return [words for text in _INLINE.findall(path.read_text()) if len(words := shlex.split(text)) > 2]


def invoke(words: list[str]) -> None:
    """A coterie command in this process. Fails with what it said."""
    done = CliRunner().invoke(app, words[1:])
    assert done.exit_code == 0, f"{shlex.join(words)}: {done.output}"


def named_spec(words: list[str]) -> tuple[str | None, list[str]]:
    """The file and the ``--set`` values of ``coterie run``."""
    assert words[:2] == ["coterie", "run"], words
    sets = [after for option, after in itertools.pairwise(words) if option == "--set"]
    files = [word for word in words[2:] if word.endswith(".toml")]
    return (files[0] if files else None), sets
