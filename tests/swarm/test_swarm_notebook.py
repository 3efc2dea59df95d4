"""A callback in a notebook, whose own event loop runs in the thread of the cells."""

import sys
from pathlib import Path

import nbclient
import nbformat

CELL = f"""
import asyncio, sys, torch, coterie
sys.path.insert(0, {str(Path(__file__).parent)!r})
from swarm_meeting import Meeting

asyncio.get_running_loop()
meeting = Meeting(1)
swarm = coterie.SwarmCallback(2, 1, model=torch.nn.Linear(3, 2), session=meeting.session())
for epoch in swarm.epochs(2):
    for batch in range(3):
        swarm.on_batch_end()
print(meeting.rounds, swarm.stopped)
"""


def test_a_cell_trains_in_a_swarm(tmp_path, monkeypatch):
    kernel = tmp_path / "kernels/here"
    kernel.mkdir(parents=True)
    command = f'["{sys.executable}", "-m", "ipykernel_launcher", "-f", "{{connection_file}}"]'
    (kernel / "kernel.json").write_text(f'{{"argv": {command}, "display_name": "here", "language": "python"}}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="here").execute()
    assert notebook.cells[0].outputs[0].text == "4 True\n"
