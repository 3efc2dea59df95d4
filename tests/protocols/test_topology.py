"""Graphs: the degree and connection each kind promises, from the seed alone."""

import random
import tracemalloc

import networkx
import pytest

import coterie.runtime.catalog  # noqa: F401 - fills the registries
from coterie.errors import SpecError
from coterie.protocols import Neighbourhood, Topology
from coterie.registry import topologies
from coterie.spec import load

CASES = [
    ("full", 1, {}),
    ("full", 7, {}),
    ("ring", 1, {}),
    ("ring", 2, {}),
    ("ring", 9, {}),
    ("regular", 10, {"degree": 3}),
    ("regular", 11, {}),
    ("regular", 4, {"degree": 3}),
    ("regular", 2, {"degree": 1}),
    ("small_world", 20, {}),
    ("small_world", 20, {"degree": 2, "rewire": 0.0}),
    ("small_world", 20, {"degree": 6, "rewire": 1.0}),
    ("scale_free", 20, {}),
    ("scale_free", 20, {"links": 1}),
    ("scale_free", 6, {"links": 5}),
    ("edges", 4, {"edges": [[0, 1], [3, 1], [1, 2], [2, 1]]}),
]


def build(kind, peers, seed=7, **settings):
    return Topology.of(load({"federation": {"seed": seed}, "topology": {"kind": kind, **settings}}), peers)


def lists(topology):
    return [list(neighbours) for neighbours in topology.adjacency]


def graph(topology):
    made = networkx.empty_graph(len(topology.adjacency))
    made.add_edges_from(topology.edges())
    return made


@pytest.mark.parametrize("seed", [0, 7, 8])
@pytest.mark.parametrize(("kind", "peers", "settings"), CASES)
def test_every_graph(kind, peers, settings, seed):
    topology = build(kind, peers, seed, **settings)
    adjacency = lists(topology)
    assert len(adjacency) == peers
    for index, neighbours in enumerate(adjacency):
        assert neighbours == sorted(set(neighbours)), "ascending, each once"
        assert index not in neighbours
        assert all(index in adjacency[other] for other in neighbours), "symmetric"
    edges = list(topology.edges())
    assert len(edges) == topology.edge_count == len(set(edges))
    assert all(low < high for low, high in edges)
    assert {(i, j) for i, js in enumerate(adjacency) for j in js if i < j} == set(edges)
    assert networkx.is_connected(graph(topology))
    assert lists(build(kind, peers, seed, **settings)) == adjacency


def test_every_kind_is_tested():
    assert {kind for kind, _, _ in CASES} == {component.name for component in topologies}


def test_degrees():
    assert {len(n) for n in build("full", 7).adjacency} == {6}
    assert {len(n) for n in build("ring", 9).adjacency} == {2}
    assert lists(build("ring", 4)) == [[1, 3], [0, 2], [1, 3], [0, 2]]
    assert {len(n) for n in build("regular", 10, degree=3).adjacency} == {3}
    assert {len(n) for n in build("regular", 11).adjacency} == {4}
    assert lists(build("small_world", 6, degree=2, rewire=0.0)) == lists(build("ring", 6))
    assert {len(n) for n in build("small_world", 20, degree=6, rewire=0.0).adjacency} == {6}
    assert build("small_world", 20, degree=6, rewire=0.5).edge_count == 60  # an edge is rewired, never lost
    assert min(len(n) for n in build("scale_free", 200, links=3).adjacency) == 3
    assert max(len(n) for n in build("scale_free", 200, links=3).adjacency) > 15
    assert build("scale_free", 20, links=2).edge_count == 2 * 18
    assert lists(build("edges", 4, edges=[[3, 1], [1, 3], [0, 1]])) == [[1], [0, 3], [], [1]]


@pytest.mark.parametrize("kind", ["regular", "small_world", "scale_free"])
def test_the_seed_decides(kind):
    drawn = [str(lists(build(kind, 30, seed))) for seed in range(10)]
    assert len(set(drawn)) == 10
    assert lists(build("small_world", 30, 1, rewire=0.0)) == lists(build("small_world", 30, 2, rewire=0.0))


@pytest.mark.parametrize(
    ("kind", "peers", "settings", "where"),
    [
        ("regular", 4, {"degree": 4}, "topology.degree"),
        ("regular", 5, {"degree": 3}, "topology.degree"),
        ("regular", 1, {"degree": 1}, "topology.degree"),
        ("regular", 10, {"degree": 1}, "topology"),  # five pairs: never connected
        ("regular", 10, {"degree": 0}, "topology.degree"),
        ("small_world", 4, {"degree": 4}, "topology.degree"),
        ("small_world", 9, {"degree": 3}, "topology.degree"),  # half to each side
        ("small_world", 9, {"rewire": 1.1}, "topology.rewire"),
        ("scale_free", 2, {"links": 2}, "topology.links"),
        ("scale_free", 9, {"links": 0}, "topology.links"),
        ("edges", 3, {}, "topology.edges"),
        ("edges", 3, {"edges": [[0, 3]]}, "topology.edges"),
        ("edges", 3, {"edges": [[0, -1]]}, "topology.edges"),
        ("edges", 3, {"edges": [[1, 1]]}, "topology.edges"),
        ("edges", 3, {"edges": [[0, 1, 2]]}, "topology.edges"),
        ("edges", 3, {"edges": [[0]]}, "topology.edges"),
        ("ring", 3, {"degree": 2}, "topology.degree"),
        ("rign", 3, {}, "topology.kind"),
    ],
)
def test_what_there_is_no_graph_for(kind, peers, settings, where):
    with pytest.raises(SpecError) as caught:
        build(kind, peers, **settings)
    assert caught.value.where == where
    assert caught.value.remedy


def test_a_full_graph_is_held_in_constant_space_a_peer():
    peers = 100_000
    tracemalloc.start()
    try:
        topology = build("full", peers)
        names = Neighbourhood(range(peers), topology.adjacency[77])
        drawn = [random.Random(seed).sample(names, 5) for seed in range(200)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 400 * peers
    assert topology.edge_count == peers * (peers - 1) // 2
    assert len(names) == peers - 1
    for sample in drawn:
        assert len(set(sample)) == 5
        assert 77 not in sample
        assert all(0 <= other < peers for other in sample)
    assert drawn[0] == random.Random(0).sample(names, 5)
    near = topology.adjacency[77]
    assert [near[0], near[76], near[77], near[-1], near[peers - 2]] == [0, 76, 78, peers - 1, peers - 1]
    with pytest.raises(IndexError):
        near[peers - 1]


def test_neighbourhoods_are_views_by_id():
    ids = ["a", "b", "c", "d"]
    for neighbours in (build("full", 4).adjacency[1], [0, 2, 3]):
        view = Neighbourhood(ids, neighbours)
        assert list(view) == ["a", "c", "d"]
        assert (len(view), view[0], view[-1], view[1:], view[::2]) == (3, "a", "d", ["c", "d"], ["a", "d"])
        assert "c" in view
        assert "b" not in view
        assert random.Random(1).sample(view, 3) == random.Random(1).sample(["a", "c", "d"], 3)
        with pytest.raises(IndexError):
            view[3]


@pytest.mark.parametrize(("kind", "peers", "settings"), CASES)
def test_induced_graphs(kind, peers, settings):
    topology = build(kind, peers, **settings)
    for kept in (list(range(peers)), list(range(0, peers, 2)), list(range(peers))[::-1][: peers // 2], [0], []):
        induced = topology.induced(kept)
        number = {old: new for new, old in enumerate(kept)}
        expected = {
            tuple(sorted((number[i], number[j]))) for i, j in graph(topology).edges if i in number and j in number
        }
        assert set(induced.edges()) == expected
        assert lists(induced) == [sorted(neighbours) for neighbours in lists(induced)]
        assert len(induced.adjacency) == len(kept)
    assert lists(topology.induced(range(peers))) == lists(topology)


def test_a_full_graph_without_some_stays_small():
    induced = build("full", 1000).induced(range(0, 1000, 2))
    assert induced.edge_count == 500 * 499 // 2
    assert not any(isinstance(neighbours, list) for neighbours in induced.adjacency)
