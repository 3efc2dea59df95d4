"""What a site is told of its data before training: the classes as they are numbered, and what will not do."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from coterie import spec as specs
from coterie.errors import NodeError
from coterie.protocols.membership import Policy
from coterie.runtime.node.daemon import Node
from coterie.runtime.node.disclosure import disclosure
from coterie.runtime.node.founding import found_with_data
from coterie.runtime.node.home import Home, NodeTable

SECONDS = 60.0


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A founder's, whose table has two columns and the labels sick and well; the federation wants two peers."""
    values = {"model.name": "softmax", "federation.peers": 2, "data.scaling": "none", "data.partition": "iid"}
    write(tmp_path, "0.5,1,well", "1.5,0,sick")
    table = NodeTable(listen="127.0.0.1:0", private_networks=True, dataset=f"csv:{tmp_path / 'own.csv'}")
    spec = specs.load(None, ()).with_values(values)
    return found_with_data(tmp_path / "a", spec, table, name="a", policy=Policy())


def write(folder: Path, *rows: str) -> None:
    (folder / "own.csv").write_text("\n".join(rows * 5))


def test_a_dry_run_shows_which_class_is_which(home: Home, tmp_path: Path) -> None:
    assert any("0 is 'sick', 1 is 'well'" in line for line in disclosure(home.path))
    write(tmp_path, "0.5,1,7", "1.5,0,3")
    assert any("0 is '3', 1 is '7'" in line for line in disclosure(home.path))


def test_a_dry_run_refuses_data_that_make_another_model(home: Home, tmp_path: Path) -> None:
    for rows in (("0.5,1,2,well", "1.5,0,2,sick"), ("0.5,1,well", "1.5,0,sick", "2.5,0,dead")):
        write(tmp_path, *rows)
        with pytest.raises(NodeError, match="the same features, in the same order, and the same classes"):
            list(disclosure(home.path))


@pytest.mark.parametrize(
    ("rows", "words"),
    [(("0.5,1,well", "1.5,,sick"), "'' is not a finite number"), (("1,well", "2,sick"), "another one than the fed")],
)
def test_a_node_that_waits_for_others_warns_of_its_data(
    home: Home, tmp_path: Path, caplog: pytest.LogCaptureFixture, rows: tuple[str, ...], words: str
) -> None:
    write(tmp_path, *rows)

    async def main() -> None:
        node = Node(home)
        task = asyncio.create_task(node.run())
        async with asyncio.timeout(SECONDS):
            await node.ready.wait()
            while not any(words in record.message for record in caplog.records):
                await asyncio.sleep(0.01)
        node.stop()
        await asyncio.wait_for(task, SECONDS)

    with caplog.at_level(logging.WARNING, "coterie.node"):
        asyncio.run(main())
    assert any(record.message.startswith("training will fail here") for record in caplog.records)
