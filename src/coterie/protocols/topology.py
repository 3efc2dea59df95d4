"""Who may talk to whom: the neighbours of each peer, drawn from the seed."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, overload

import networkx
from pydantic import Field

from coterie.errors import PluginError, SpecError
from coterie.protocols.peer import PeerId
from coterie.registry import guarded, topologies
from coterie.seeds import derive
from coterie.spec import Spec

Adjacency = Sequence[Sequence[int]]
"""For each peer its neighbours' indices, ascending."""
_TRIES = 100


class _Others(Sequence[int]):
    """0..peers-1 without one of them, in constant space."""

    def __init__(self, peers: int, without: int) -> None:
        self._peers, self._without = peers, without

    def __len__(self) -> int:
        return self._peers - 1

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[int]: ...
    def __getitem__(self, index: int | slice) -> int | Sequence[int]:
        positions = range(self._peers - 1)[index]
        if isinstance(positions, int):
            return positions + (positions >= self._without)
        return [p + (p >= self._without) for p in positions]


class Neighbourhood(Sequence[PeerId]):
    """A peer's neighbours by id: a view on their indices."""

    def __init__(self, ids: Sequence[PeerId], indices: Sequence[int]) -> None:
        self._ids, self._indices = ids, indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> PeerId: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[PeerId]: ...
    def __getitem__(self, index: int | slice) -> PeerId | Sequence[PeerId]:
        chosen = self._indices[index]
        return self._ids[chosen] if isinstance(chosen, int) else [self._ids[i] for i in chosen]


@dataclass(frozen=True)
class Topology:
    """The graph of a federation. ``full`` graphs are held in constant space a peer."""

    adjacency: Adjacency

    @classmethod
    def of(cls, spec: Spec, peers: int) -> Topology:
        """The spec's graph over ``peers`` peers. Raises SpecError where there is none of that kind and size.

        Raises PluginError where a user's own function fails or gives no such lists.
        """
        choice = spec.choices["topology"]
        with guarded(choice.component, "topology.kind"):
            found = choice(peers, derive(spec.seed, "topology"))
        return cls(_checked(found, peers) if choice.component.file else found)

    def induced(self, kept: Sequence[int]) -> Topology:
        """The graph among ``kept`` alone, renumbered in their order."""
        if all(isinstance(neighbours, _Others) for neighbours in self.adjacency):
            return Topology(full(len(kept), 0))
        number = {old: new for new, old in enumerate(kept)}
        return Topology([sorted(number[n] for n in self.adjacency[old] if n in number) for old in kept])

    def edges(self) -> Iterator[tuple[int, int]]:
        """Each undirected edge once, lower index first."""
        for index, neighbours in enumerate(self.adjacency):
            yield from ((index, other) for other in neighbours if other > index)

    @property
    def edge_count(self) -> int:
        return sum(len(neighbours) for neighbours in self.adjacency) // 2


@topologies.register("full")
def full(peers: int, seed: int) -> Adjacency:
    """Everybody is everybody's neighbour."""
    return [_Others(peers, index) for index in range(peers)]


@topologies.register("ring")
def ring(peers: int, seed: int) -> Adjacency:
    """A circle: two neighbours each."""
    return _lists(networkx.cycle_graph(peers) if peers > 1 else networkx.empty_graph(peers))


@topologies.register("regular")
def regular(peers: int, seed: int, *, degree: Annotated[int, Field(ge=1)] = 4) -> Adjacency:
    """A connected random graph in which everybody has ``degree`` neighbours."""
    if degree >= peers or degree * peers % 2:
        raise SpecError(
            f"no graph of {peers} peers has {degree} neighbours each",
            where="topology.degree",
            remedy="Take a degree below the number of peers; one of the two must be even.",
        )
    return _connected(lambda attempt: networkx.random_regular_graph(degree, peers, seed=derive(seed, attempt)))


@topologies.register("small_world")
def small_world(
    peers: int,
    seed: int,
    *,
    degree: Annotated[int, Field(ge=2, multiple_of=2)] = 4,
    rewire: Annotated[float, Field(ge=0, le=1)] = 0.1,
) -> Adjacency:
    """Watts and Strogatz 1998: a ring of ``degree`` nearest neighbours, each edge rewired with this probability."""
    if degree >= peers:
        raise SpecError(
            f"{degree} neighbours are too many for {peers} peers", where="topology.degree", remedy="Take fewer."
        )
    return _connected(lambda attempt: networkx.watts_strogatz_graph(peers, degree, rewire, seed=derive(seed, attempt)))


@topologies.register("scale_free")
def scale_free(peers: int, seed: int, *, links: Annotated[int, Field(ge=1)] = 2) -> Adjacency:
    """Barabasi and Albert 1999: each newcomer links to ``links`` peers, likelier to those with many links."""
    if links >= peers:
        raise SpecError(f"{links} links are too many for {peers} peers", where="topology.links", remedy="Take fewer.")
    return _lists(networkx.barabasi_albert_graph(peers, links, seed=derive(seed, 0)))


@topologies.register("edges")
def edges(peers: int, seed: int, *, edges: list[list[int]]) -> Adjacency:
    """The undirected edges written in the spec, as pairs of peer numbers counted from 0."""
    graph = networkx.empty_graph(peers)
    for pair in edges:
        if len(pair) != 2 or pair[0] == pair[1] or not all(0 <= end < peers for end in pair):
            raise SpecError(
                f"{pair} is not an edge", where="topology.edges", remedy=f"Write pairs of two peers in 0..{peers - 1}."
            )
        graph.add_edge(*pair)
    return _lists(graph)


def _checked(found: Any, peers: int) -> Adjacency:
    """The lists of neighbours that a user's own function gave; sorted, as the order must not matter."""
    try:
        lists = [sorted(map(operator.index, neighbours)) for neighbours in found]
    except TypeError:
        lists = []
    for own, neighbours in enumerate(lists):
        if own in neighbours or len(set(neighbours)) < len(neighbours) or not all(0 <= n < peers for n in neighbours):
            raise PluginError(
                f"peer {own} cannot have the neighbours {neighbours[:10]}",
                where="topology.kind",
                remedy=f"Name each neighbour once, by its number in 0..{peers - 1}, and never the peer itself.",
            )
    if len(lists) != peers:
        raise PluginError(
            f"the topology gave {len(lists)} lists of neighbours for {peers} peers",
            where="topology.kind",
            remedy="Return a list of neighbours' numbers for each peer.",
        )
    return lists


def _connected(draw: Callable[[int], networkx.Graph[int]]) -> Adjacency:
    for attempt in range(_TRIES):
        graph = draw(attempt)
        if networkx.is_connected(graph):
            return _lists(graph)
    raise SpecError(
        f"no connected graph in {_TRIES} draws", where="topology", remedy="Take a higher degree or another seed."
    )


def _lists(graph: networkx.Graph[int]) -> Adjacency:
    return [sorted(graph.neighbors(index)) for index in range(graph.number_of_nodes())]
