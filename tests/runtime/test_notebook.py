"""Progress where a federation is run from Python: in a real notebook, in a script, and as asked for."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient

from coterie.runtime.notebook import NotebookProgress, in_notebook, shown
from coterie.runtime.progress import Quiet, RichProgress

SETS = ["federation.rounds=4", "federation.peers=3", "evaluation.samples=50"]
RUN = f"""
import coterie
result = coterie.run(sets={SETS})
"""
DISPLAYS = re.compile(r"round (\d+)/4")


class Tables:
    """As much of a spec as progress reads."""

    seed = 3

    class federation:  # noqa: N801 - as the spec calls it
        name, protocol, rounds = "<b>", "gossip", 1000


class Recorder(NotebookClient):
    """Keeps each picture that a cell shows, also those that a later one replaces."""

    pictures: tuple = ()

    def process_message(self, msg, cell, cell_index):
        if msg["msg_type"] in ("display_data", "update_display_data"):
            self.pictures = (*self.pictures, (msg["msg_type"], msg["content"]["data"].get("text/html", "")))
        return super().process_message(msg, cell, cell_index)


def notebook(tmp_path, *cells):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = Recorder(book, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    return book, client.pictures


def test_a_notebook_shows_a_live_bar_and_then_a_line(tmp_path):
    failing = """
try:
    coterie.run(sets=["data.dataset=csv:nowhere.csv"])
except coterie.errors.DataError as error:
    print(error.code)
"""
    quiet = f"coterie.run(sets={SETS}, progress=False).model_hash == result.model_hash"
    book, pictures = notebook(tmp_path, RUN, quiet, "import coterie.errors\n" + failing, "result.accuracy['mean']")
    kinds = [kind for kind, picture in pictures if DISPLAYS.search(picture)]
    assert kinds[0] == "display_data"
    assert set(kinds[1:]) == {"update_display_data"}
    assert '<progress value="0" max="4">' in pictures[0][1]
    assert len(book.cells[0].outputs) == 1, "one place, updated"
    final = book.cells[0].outputs[0]["data"]["text/html"]
    assert "digits, seed 7" in final
    assert "done: round 4/4, accuracy" in final
    assert "<progress" not in final
    assert [output["data"]["text/plain"] for output in book.cells[1].outputs] == ["True"], "no bar, the same bits"
    assert [output["text"] for output in book.cells[2].outputs] == ["data\n"], "a run that cannot start shows no bar"
    assert 0 < float(book.cells[3].outputs[0]["data"]["text/plain"]) <= 1


def test_a_script_says_nothing_unless_asked(tmp_path):
    script = f"""
import sys, coterie
for asked in (None, False, True):
    print("asked", asked, file=sys.stderr)
    coterie.run(sets={SETS}, progress=asked)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, cwd=tmp_path, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    first, second, third, *shown = done.stderr.splitlines()
    assert [first, second, third] == ["asked None", "asked False", "asked True"]
    assert shown[0] == "digits, seed 7: 3 peers, 4 rounds, gossip"
    assert shown[-1].startswith("digits, seed 7: round 4/4, accuracy")


def test_who_is_told():
    own = NotebookProgress()
    for given, kind in ((None, Quiet), (False, Quiet), (True, RichProgress), (own, NotebookProgress)):
        with shown(given) as told:
            assert isinstance(told, kind)
    assert told is own


def test_a_run_that_breaks_off_leaves_a_line(monkeypatch):
    drawn = []
    monkeypatch.setattr("coterie.runtime.notebook.in_notebook", lambda: True)
    monkeypatch.setattr(
        NotebookProgress, "_draw", lambda self, content: self.__setattr__("_handle", drawn.append(content) or 1)
    )
    with pytest.raises(RuntimeError), shown(None) as told:
        told.start(Tables, 5)
        told.round_done(1, 1000, [], 10)
        raise RuntimeError
    assert "<progress" in drawn[0]
    assert "stopped: round 1/1000, 5 peers" in drawn[-1]
    assert "<progress" not in drawn[-1]


@pytest.mark.parametrize(("shell", "expected"), [(None, False), (object(), False), ("kernel", True)])
def test_a_kernel_is_told_from_a_shell(monkeypatch, shell, expected):
    class Kernel:
        kernel = object()

    class Module:
        @staticmethod
        def get_ipython():
            return Kernel() if shell == "kernel" else shell

    monkeypatch.setitem(sys.modules, "IPython", Module)
    assert in_notebook() is expected


def test_not_drawn_oftener_than_a_browser_can_show(monkeypatch):
    now, drawn = [0.0], []
    bar = NotebookProgress(clock=lambda: now[0])
    monkeypatch.setattr(bar, "_draw", lambda content: (drawn.append(content), setattr(bar, "_drawn", now[0])))

    bar.start(Tables, 5)
    for number in range(1, 1001):
        now[0] += 0.01
        bar.round_done(number, 1000, [0.5], 10)
    assert 90 <= len(drawn) <= 102
    assert "<b>" not in drawn[0]
    assert "&lt;b&gt;, seed 3" in drawn[0]
