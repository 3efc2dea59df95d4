import networkx
import numpy as np
import pytest
import torch
from aggregation_worlds import draw, world
from hypothesis import given
from hypothesis import strategies as some

from coterie.aggregation import aggregate, metropolis_weights
from coterie.aggregation.means import mean, metropolis, weighted_mean
from coterie.errors import SpecError


def slow(own, received, shares):
    total = np.zeros(len(own))
    for share, row in zip(shares, (own, *received), strict=True):
        total = total + float(share) / sum(map(float, shares)) * np.asarray(row, dtype=np.float64)
    return total


@given(seed=some.integers(0, 1000), count=some.integers(0, 12), size=some.integers(1, 40))
def test_means_agree_with_loops(seed, count, size):
    base, own, received = draw(seed, count, size, spread=1.0)
    random = np.random.default_rng(seed)
    samples = tuple(int(m) for m in random.integers(1, 1000, count + 1))
    graph = torch.from_numpy(random.dirichlet(np.ones(count + 1)).astype(np.float32))
    context = world(base, count, samples=samples, weights=graph)
    for rule, shares in ((mean, [1] * (count + 1)), (weighted_mean, samples), (metropolis, graph.tolist())):
        vector, weights, state = rule(own, received, context, "as it was", None)
        np.testing.assert_allclose(vector.numpy(), slow(own, received, shares), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(weights.numpy(), np.array(shares) / sum(shares), rtol=1e-5)
        assert state == "as it was"


@pytest.mark.parametrize("rule", [mean, weighted_mean, metropolis])
def test_the_mean_of_identical_vectors_is_that_vector(rule):
    base, own, _ = draw(1, 1, 500)
    received = own.repeat(7, 1)
    vector, _, _ = rule(own, received, world(base, 7), None, None)
    assert torch.allclose(vector, own, rtol=1e-6)


def test_no_samples_at_all_keeps_own():
    base, own, received = draw(1, 3, 10)
    vector, weights, _ = weighted_mean(own, received, world(base, 3, samples=(0, 0, 0, 0)), None, None)
    assert torch.equal(vector, own)
    assert weights.tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["sparse", "scale_free", "ring", "star", "full"])
def test_metropolis_weights_are_symmetric_and_doubly_stochastic(seed, kind):
    graph = {
        "sparse": lambda: networkx.gnp_random_graph(20, 0.2, seed=seed),
        "scale_free": lambda: networkx.barabasi_albert_graph(20, 3, seed=seed),
        "ring": lambda: networkx.cycle_graph(5 + seed),
        "star": lambda: networkx.star_graph(5 + seed),
        "full": lambda: networkx.complete_graph(5 + seed),
    }[kind]()
    matrix = np.zeros((len(graph), len(graph)))
    for i in graph:
        neighbours = sorted(graph[i])
        weights = metropolis_weights(graph.degree(i), [graph.degree(j) for j in neighbours])
        assert weights.dtype == torch.float32
        matrix[i, [i, *neighbours]] = weights.numpy()
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-7)
    np.testing.assert_allclose(matrix.sum(axis=0), 1, atol=1e-6)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)


def test_a_neighbour_not_heard_leaves_its_weight_to_own():
    assert torch.allclose(metropolis_weights(3, [3, 1]), torch.tensor([0.5, 0.25, 0.25]))
    assert metropolis_weights(0, []).tolist() == [1.0]
    assert metropolis_weights(4, []).tolist() == [1.0]


@pytest.mark.parametrize(("own", "others"), [(1, [2, 2]), (2, [0])])
def test_degrees_that_cannot_be_are_refused(own, others):
    with pytest.raises(SpecError):
        metropolis_weights(own, others)


@pytest.mark.parametrize("rule", [mean, weighted_mean, metropolis])
@pytest.mark.parametrize("count", [0, 1, 4])
def test_vectors_where_they_lie_give_what_their_matrix_gives(rule, count):
    random = torch.Generator().manual_seed(count)
    base, own = torch.randn(2, 50, generator=random)
    received = [torch.randn(50, generator=random) for _ in range(count)]
    context = world(base, count, samples=tuple(range(1, count + 2)))
    matrix = torch.stack([own, *received])[1:]
    whole, apart = (aggregate(rule, own, rows, context, None, None) for rows in (matrix, received))
    torch.testing.assert_close(apart.vector, whole.vector)
    assert apart.weights == whole.weights


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_vector_that_is_not_finite_is_refused_where_it_lies(bad):
    base, own = torch.zeros(4), torch.ones(4)
    received = [torch.full((4,), 2.0), torch.tensor([0.0, bad, 0.0, 0.0])]
    outcome = aggregate(mean, own, received, world(base, 2), None, None)
    assert outcome.refused == ("peer2",)
    assert outcome.vector.tolist() == [1.5] * 4
