"""What every test of bad input asks of a command that fails."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from typer.testing import CliRunner

from coterie.cli import app

SMALL = """
[federation]
peers = 3
rounds = 2
[data]
partition = "iid"
[model]
name = "softmax"
[training]
local_steps = 1
[run]
checkpoint_every = 1
"""


def listing(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in path.parts}


def fails(folder, line, code, where, says, status=2, kept=False):
    """The line ends in one error of this code, place and text, in words and as JSON, and leaves nothing behind."""
    before = listing(folder)
    words = shlex.split(line)
    has_json = words[0] in ("run", "resume", "matrix", "reproduce")
    for arguments in (words, [*words, "--json"])[: 1 + has_json]:
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == status, (done.exit_code, done.stderr)
        for part in ("error: ", "\n  where: ", "\n  what to do: ", where, says):
            assert part in done.stderr, done.stderr
        assert len(re.findall("(?m)^error: ", done.stderr)) == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert "internal" not in done.stderr
        if not kept:
            assert listing(folder) == before
        assert not [name for name in listing(folder) if Path(name).name.startswith((".", "coterie-traceback"))]
    if not has_json:
        assert done.stdout == ""
        return None
    record = json.loads(done.stdout)
    assert record["status"] == "failed"
    error = record["error"]
    assert error["code"] == code, error
    assert where in error["where"], error
    assert says in error["what"] + " " + error["remedy"], error
    assert error["remedy"], error
    return record
