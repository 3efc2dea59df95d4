import pickle
from pathlib import Path

import pytest
import torch
from aggregation_worlds import draw, world

from coterie import registry
from coterie.aggregation import aggregate
from coterie.errors import CoterieError, LayoutMismatch, PluginError, SpecError, TrainingDiverged
from coterie.spec import Choice

RULES = ("mean", "weighted_mean", "metropolis", "clip_and_trust", "krum", "multi_krum", "bulyan", "median")
RULES += ("trimmed_mean", "geometric_median", "centred_clipping", "self_centred_clipping", "balance", "nnm")
RULES += ("spectral", "spectral_history")


def rule(name, **settings):
    component = registry.rules.resolve(name, Path(), "")
    return Choice(component, component.settings(settings, "aggregation"))


def keep(own, received, context, state, judge):
    return own, torch.eye(1, len(received) + 1)[0], state


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_rows_that_are_not_finite_are_refused_and_named(bad):
    base, own, received = draw(1, 4, 33)
    received[1, 7] = bad
    received[3, 32] = bad
    seen = {}

    def spy(own, received, context, state, judge):
        seen.update(received=received, context=context)
        return keep(own, received, context, state, judge)

    context = world(base, 4, weights=torch.tensor([0.1, 0.1, 0.2, 0.25, 0.35]), samples=(5, 1, 2, 3, 4))
    result = aggregate(spy, own, received, context, None, None)
    assert result.refused == ("peer2", "peer4")
    assert set(result.weights) == {"own", "peer1", "peer3"}
    assert torch.equal(seen["received"], received[[0, 2]])
    assert seen["context"].peer_ids == ("peer1", "peer3")
    assert seen["context"].samples == (5, 1, 3)
    assert torch.allclose(seen["context"].graph_weights, torch.tensor([0.65, 0.1, 0.25]))
    assert torch.equal(context.graph_weights, torch.tensor([0.1, 0.1, 0.2, 0.25, 0.35]))


def test_opposite_infinities_do_not_cancel():
    base, own, received = draw(1, 1, 8)
    received[0, 0], received[0, 1] = float("inf"), -float("inf")
    assert aggregate(keep, own, received, world(base, 1), None, None).refused == ("peer1",)


@pytest.mark.parametrize("name", RULES)
def test_huge_finite_rows_are_not_refused(name):
    base, own, received = draw(2, 5, 200)
    received[0] = 1e38
    received[1] = torch.where(torch.arange(200) % 2 == 0, 3e38, -3e38)
    result = aggregate(rule(name), own, received, world(base, 5), None, None)
    assert result.refused == ()
    assert bool(result.vector.isfinite().all())
    if name == "clip_and_trust":
        assert result.weights["peer1"] == result.weights["peer2"] == 0.0
        assert float((result.vector - base).norm()) < 1.0


def test_finite_rows_are_not_copied():
    base, own, received = draw(3, 4, 16)

    def same(own, rows, context, state, judge):
        assert rows is received
        return keep(own, rows, context, state, judge)

    aggregate(same, own, received, world(base, 4), None, None)


@pytest.mark.parametrize("name", RULES)
def test_with_no_rows_left_every_rule_keeps_own(name):
    base, own, received = draw(4, 2, 16)
    received[:] = float("nan")
    result = aggregate(rule(name), own, received, world(base, 2), None, None)
    assert torch.allclose(result.vector, own, rtol=1e-6)
    assert result.weights == {"own": 1.0}
    assert result.refused == ("peer1", "peer2")


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r[:, :-1],
        lambda r: r.double(),
        lambda r: r[0],
        lambda r: r[:-1],
        lambda r: r.half(),
    ],
)
def test_other_layouts_never_meet(change):
    base, own, received = draw(5, 3, 16)
    with pytest.raises(LayoutMismatch):
        aggregate(keep, own, change(received), world(base, 3), None, None)


def test_own_and_base_must_fit_and_senders_differ():
    base, own, received = draw(5, 3, 16)
    with pytest.raises(LayoutMismatch):
        aggregate(keep, own[:-1], received, world(base, 3), None, None)
    with pytest.raises(LayoutMismatch):
        aggregate(keep, own, received, world(base, 3, weights=torch.ones(3)), None, None)
    with pytest.raises(LayoutMismatch):
        aggregate(keep, own, received, world(base, 3, ids=("a", "b", "a")), None, None)
    with pytest.raises(LayoutMismatch):
        aggregate(keep, own, received, world(base, 3, samples=(1, 2)), None, None)


@pytest.mark.parametrize("which", ["own", "base"])
def test_a_diverged_peer_is_told(which):
    base, own, received = draw(6, 3, 16)
    (own if which == "own" else base)[3] = float("nan")
    with pytest.raises(TrainingDiverged) as caught:
        aggregate(keep, own, received, world(base, 3, number=12), None, None)
    assert "round 12" in str(caught.value)


def test_a_rule_that_raises_is_named():
    base, own, received = draw(7, 3, 16)

    def broken(own, received, context, state, judge):
        raise ZeroDivisionError("by nothing")

    with pytest.raises(PluginError, match=r"'broken' raised ZeroDivisionError: by nothing"):
        aggregate(broken, own, received, world(base, 3), None, None)

    def careful(own, received, context, state, judge):
        raise SpecError("no root sample")

    with pytest.raises(CoterieError) as caught:
        aggregate(careful, own, received, world(base, 3), None, None)
    assert type(caught.value) is SpecError


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (None, "NoneType"),
        ((1, 2), "tuple"),
        (([0.0] * 16, torch.ones(4), None), "list as vector"),
        ((torch.zeros(15), torch.ones(4), None), r"shape \(15,\)"),
        ((torch.zeros(16, dtype=torch.float64), torch.ones(4), None), "float64"),
        ((torch.full((16,), torch.nan), torch.ones(4), None), "not finite"),
        ((torch.zeros(16), torch.ones(3), None), r"weights of shape \(3,\)"),
        ((torch.zeros(16), torch.full((4,), torch.inf), None), "weights with a value"),
        ((torch.zeros(16), {"own": 1.0}, None), "dict as weights"),
        ((torch.zeros(16), torch.ones(4, dtype=torch.int64), None), "int64"),
        ((torch.zeros(16), torch.ones(4), {"trust": [1.0]}), '"trust" is no dict'),
        ((torch.zeros(16), torch.ones(4), {"trust": {"peer1": "much"}}), '"trust" is no dict'),
        ((torch.zeros(16), torch.ones(4), {"trust": {"peer1": float("nan")}}), '"trust" is no dict'),
    ],
)
def test_nonsense_from_a_rule_is_named(result, said):
    base, own, received = draw(8, 3, 16)

    def odd(own, received, context, state, judge):
        return result

    with pytest.raises(PluginError, match=r"the rule 'odd' returned") as caught:
        aggregate(odd, own, received, world(base, 3), None, None)
    assert caught.match(said)


def test_trust_and_state_are_reported():
    base, own, received = draw(9, 3, 16)
    result = aggregate(rule("clip_and_trust"), own, received, world(base, 3), None, None)
    assert result.trust == result.state["trust"]
    assert result.trust is not result.state["trust"]
    assert set(result.trust) == {"peer1", "peer2", "peer3"}
    assert pickle.loads(pickle.dumps(result.state)) == result.state  # noqa: S301 - our own bytes
    assert aggregate(rule("mean"), own, received, world(base, 3), None, None).trust is None


def test_settings_are_checked_by_name_and_bound():
    with pytest.raises(SpecError, match=r"aggregation\.memory"):
        rule("clip_and_trust", memory=1.5)
    with pytest.raises(SpecError, match="Did you mean 'newcomer_trust'"):
        rule("clip_and_trust", newcomers_trust=0.5)
