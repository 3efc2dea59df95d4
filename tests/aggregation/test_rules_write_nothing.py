"""Built-in rules are given published vectors themselves, not copies: none may write into what it is given."""

import pytest
import torch
from aggregation_worlds import world
from linear_judge import LinearJudge

import coterie.runtime.catalog  # noqa: F401 - fills the registries
from coterie.aggregation import aggregate
from coterie.registry import rules
from coterie.spec import Choice


@pytest.mark.parametrize("component", list(rules), ids=lambda component: component.name)
def test_a_rule_writes_nothing_into_what_it_is_given(component):
    judge = LinearJudge(seed=1)
    random = torch.Generator().manual_seed(2)
    base = torch.randn(judge.size, generator=random)
    own, received = base + 0.1, base + 0.2 * torch.randn(5, judge.size, generator=random)
    received[3] = received[2]
    rule, state = Choice(component, component.settings({}, "aggregation")), None
    for number in range(3):
        given = [tensor.clone() for tensor in (base, own, received)]
        outcome = aggregate(rule, own, received, world(base, 5, number=number), state, judge)
        state = outcome.state
        for tensor, before in zip((base, own, received), given, strict=True):
            assert torch.equal(tensor, before)
