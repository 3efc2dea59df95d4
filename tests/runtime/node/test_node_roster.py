"""Who has which number of the spec, and what a newcomer's home is told beside the records."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from coterie.protocols.membership import Briefing
from coterie.runtime.node.founding import _enter, found_run
from coterie.runtime.node.home import Home, NodeTable
from coterie.runtime.node.roster import Roster


@pytest.mark.parametrize(
    ("places", "gone", "numbered"),
    [
        ("ab", "", "ab"),
        ("abc", "", "abc"),
        ("abcd", "", "abc"),
        ("abc", "c", "abc"),  # the place stays empty
        ("abcd", "b", "adc"),  # the next who came has it
        ("abcde", "ac", "dbe"),
        ("abcd", "bd", "abc"),
    ],
)
def test_the_first_places_are_numbers_and_newcomers_take_the_free_ones(places: str, gone: str, numbered: str) -> None:
    roster = Roster.__new__(Roster)
    members = {peer: None for peer in places if peer not in gone}
    roster.book = SimpleNamespace(membership=SimpleNamespace(places=tuple(places), members=members))
    assert "".join(roster.numbered(3)) == numbered


@pytest.mark.parametrize("forged", [False, True])
def test_a_newcomer_takes_the_spec_that_the_founder_signed_and_addresses_that_are_some(
    tmp_path: Path, forged: bool
) -> None:
    import coterie.runtime.catalog  # noqa: F401 - fills the registries
    from coterie import data
    from coterie import spec as specs
    from coterie.runtime.work.runner import build_module
    from coterie.training.vector import VectorModule

    spec = specs.load(None, ()).with_values({"model.name": "softmax", "federation.peers": 2})
    dataset = data.load(spec.dataset, None)
    layout = VectorModule(build_module(spec, dataset.shape, dataset.classes)).layout
    founder, _ = found_run([tmp_path / "a", tmp_path / "b"], spec, layout, ["a", "b"], [0, 1])
    text, signature = founder.spec_text or ("", b"")
    contacts = ("192.0.2.7:7400", "junk", "[::]:1", "b.example:7400")
    briefing = Briefing(text + "\n" * forged, signature, contacts)
    roster = Roster(founder.path, founder.table.federation)
    genesis, records = roster.book.replay.graph.genesis, [node.record for node in roster.book.log(0, 9)]
    roster.close()

    async def talk(home: Home) -> SimpleNamespace:
        return SimpleNamespace(genesis=genesis, records=records, briefing=briefing)

    home, _ = asyncio.run(_enter(tmp_path / "c", NodeTable(), None, genesis.id, talk))
    assert (home.spec_text is None) == forged
    assert home.table.contacts == ["192.0.2.7:7400", "b.example:7400"]
    given = NodeTable(contacts=["c.example:1"])
    home, _ = asyncio.run(_enter(tmp_path / "d", given, None, genesis.id, talk))
    assert home.table.contacts == ["c.example:1"]
