"""Refusals are counted one by one, and logged ever more rarely."""

from __future__ import annotations

import logging

import pytest

from coterie.errors import MessageError
from coterie.network import Codec, Envelope
from coterie.runtime.node.messages import Standing
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


@pytest.mark.parametrize("state", ["\x1b[2J", "ready\n", "", "all good", "x" * 17])
def test_a_state_that_is_none_is_refused(state: str) -> None:
    """It stands in the status and the log of whoever has asked."""
    frame = Codec().encode(Envelope("send", 0, Standing(state, 0, 0)))
    with pytest.raises(MessageError, match="not a message"):
        Codec().decode(frame.header, ())
