"""Refusals are counted one by one, and logged ever more rarely."""

from __future__ import annotations

import logging
from typing import Any

import pytest

import coterie.runtime.catalog  # noqa: F401 - fills the registries
from coterie import spec as specs
from coterie.errors import MessageError
from coterie.network import Codec, Envelope
from coterie.protocols import Mixed
from coterie.runtime.node.messages import Standing
from coterie.runtime.node.metrics import NodeMetrics
from coterie.runtime.node.newcomer import Refusals


def test_who_is_refused_often_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Refusals()
    with caplog.at_level(logging.WARNING, "coterie"):
        for _ in range(1000):
            metrics.dropped("ab" * 32, MessageError("no good"))
        metrics.dropped("cd" * 32, MessageError("no good"))
    assert metrics.refused == {"ab" * 32: 1000, "cd" * 32: 1}
    assert len(caplog.messages) == 11  # 1, 2, 4, ... 512, and the other's first
    assert "(512 so far)" in caplog.messages[-2]


def test_what_was_refused_before_the_protocol_began_still_counts() -> None:
    refusals, other = Refusals(), "ab" * 32
    refusals.dropped(other, MessageError("no good"))
    learner: Any = None  # nothing is evaluated
    spec = specs.load({"evaluation": {"every": 5}})
    metrics = NodeMetrics(spec, "cd" * 32, 0, False, learner, lambda: 0.0, lambda: 0, lambda _: None, refusals)
    metrics.dropped(other, MessageError("no better"))
    metrics.round_done(0, 1.0, Mixed({"cd" * 32: 1.0}, None, None, (other,)))
    assert refusals.refused == {other: 3}
    assert refusals.reasons == {"message": 2, "rule": 1}


@pytest.mark.parametrize("state", ["\x1b[2J", "ready\n", "", "all good", "x" * 17])
def test_a_state_that_is_none_is_refused(state: str) -> None:
    """It stands in the status and the log of whoever has asked."""
    frame = Codec().encode(Envelope("send", 0, Standing(state, 0, 0)))
    with pytest.raises(MessageError, match="not a message"):
        Codec().decode(frame.header, ())
