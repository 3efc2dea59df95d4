"""A real peer before its protocol begins: it can talk, and that is all."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from coterie.errors import CoterieError, NodeError
from coterie.identity import PeerId, short_name
from coterie.ledger import Ledger
from coterie.network import Codec, Transport
from coterie.protocols import Mixed, Peer

_log = logging.getLogger("coterie.node")


def new_peer(own: PeerId, transport: Transport, ledger: Ledger, refusals: Refusals) -> Peer:
    """A peer without members, data or state: ``Life.enter`` brings them."""
    loop, secrets = asyncio.get_running_loop(), random.SystemRandom()
    return Peer(
        id=own,
        members=(own,),
        neighbours=(),
        learner=_Nothing(),
        ledger=ledger,
        store=_Nothing(),
        random=secrets,
        secrets=secrets,
        clock=loop,
        metrics=refusals,
        transport=transport,
        codec=Codec(),
    )


@dataclass
class Refusals:
    """Implements ``Metrics`` for a peer that does no rounds; one that does goes on counting here."""

    refused: Counter[PeerId] = field(default_factory=Counter)
    """Messages and vectors refused, by sender."""
    reasons: Counter[str] = field(default_factory=Counter)
    """The same, by the code of the error."""

    def round_done(self, round: int, loss: float, mixed: Mixed | None) -> None:
        """There are none."""

    def dropped(self, sender: PeerId, error: CoterieError) -> None:
        """Count one more. It is logged when the count is a power of two: nobody fills a disk by being refused."""
        self.reasons[error.code] += 1
        self.refused[sender] += 1
        count = self.refused[sender]
        if count & (count - 1) == 0:
            _log.warning("refused of %s: %s (%d so far)", short_name(sender), error, count)


class _Nothing:
    """What is not there yet."""

    def __getattr__(self, name: str) -> Any:
        raise NodeError(f"the protocol has not begun, and there is no {name!r} yet")
