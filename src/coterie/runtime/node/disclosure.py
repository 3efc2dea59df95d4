"""``node --dry-run``: what would leave this site, how often, and to whom."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import coterie.runtime.catalog  # noqa: F401 - fills the registries
from coterie.errors import NodeError
from coterie.runtime.node.control import call
from coterie.runtime.node.home import Home, NodeTable
from coterie.runtime.node.roster import Roster
from coterie.runtime.node.site import data_here
from coterie.runtime.progress import size
from coterie.spec import Spec

_MOST_CLASSES = 10


def disclosure(path: Path) -> Iterator[str]:
    """Lines for the person in charge of this site's data. Raises what would keep the node from starting."""
    home = Home(path)
    table, spec = home.table, home.spec
    if spec.is_for_scripts:
        yield from _of_scripts(spec, table, _others(home))
        return
    dataset, layout = data_here(spec, table)
    others = _others(home, lambda roster: roster.require_layout(layout.hash, dataset))
    yield f"federation   {spec.federation.name} ({table.federation[:16]}), protocol {spec.federation.protocol}"
    yield f"data         {table.dataset or spec.data.dataset}: read on this machine, and never sent"
    if names := dataset.class_names[:_MOST_CLASSES]:
        more = " ..." if len(dataset.class_names) > len(names) else ""
        listed = ", ".join(f"{number} is {name!r}" for number, name in enumerate(names))
        yield f"classes      {listed}{more}: at all sites the same, or they train against each other"
    yield (
        f"sent         the whole model after each of {spec.federation.rounds} rounds: {layout.size:,} numbers, "
        f"{size(4 * layout.size)}, in the clear to the members that pull it"
    )
    yield "             with each model, the number of training samples here"
    yield f"to           {', '.join(others) or 'nobody yet'}; and to whoever is admitted later"
    yield "signed       a record of each model's hash and round, kept in this site's ledger"
    where = table.announce or table.listen
    yield f"address      {where or 'none is announced: this node only dials out'}"
    yield (
        "not hidden   a model tells things about the data it was trained on. This protocol adds no noise and no "
        "encryption against the members themselves"
    )


def _of_scripts(spec: Spec, table: NodeTable, others: list[str]) -> Iterator[str]:
    yield f"federation   {spec.federation.name} ({table.federation[:16]}), protocol swarm"
    yield "data         the training script's own: the node never reads them, and they are never sent"
    yield "sent         by the script's callback, every syncFrequency batches: all weights of the model, in the clear,"
    yield "             to the merge's leader, who changes; any member may lead"
    yield "             and to all: batches and epochs trained, nodeWeightage, loss and metric on adsValData if given"
    yield f"to           {', '.join(others) or 'nobody yet'}; and to whoever is admitted later"
    yield "signed       a record of each check-in: the model's hash and these figures, kept by all members"
    yield "not hidden   weights tell things about the data they were trained on. No noise is added"


def _others(home: Home, look: Callable[[Roster], None] = lambda roster: None) -> list[str]:
    """The other members' names, from the running node, or from the ledger where none runs; ``look`` sees that too."""
    try:
        members = call(home.socket, {"command": "status"})["members"]
        return [member["name"] for member in members if not member["this"]]
    except NodeError:
        pass
    with Roster(home.path, home.table.federation) as roster:
        look(roster)
        return [member.name for peer, member in roster.membership.members.items() if peer != home.identity.id]
