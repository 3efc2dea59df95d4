"""Where a node has the federation's spec from: its home, or members that have it with the founder's signature."""

from __future__ import annotations

import asyncio
import logging

from coterie.errors import NodeError, SpecError
from coterie.identity import verify
from coterie.network.compression import encoding
from coterie.protocols import Peer
from coterie.runtime.node.home import Home
from coterie.runtime.node.messages import SpecAsk, SpecText, signed_spec
from coterie.runtime.node.roster import Roster
from coterie.runtime.node.waits import Waits
from coterie.spec import Spec

_LOOK = 1.0
"""Seconds between two questions."""
_ANSWER = 5.0
_log = logging.getLogger("coterie.node")


class SpecSource:
    """The spec of one node's federation. It answers others that ask for it."""

    def __init__(self, home: Home, roster: Roster, peer: Peer, waits: Waits) -> None:
        """Raises SpecError, PluginError or NodeError where there is a spec that cannot be used."""
        self._home, self._roster, self._peer, self._waits = home, roster, peer, waits
        self.spec: Spec | None = self._checked() if home.spec_text is not None else None
        """None while it is not known."""
        peer.handle(SpecAsk, lambda sender, question: self._answer())

    async def get(self) -> Spec:
        """The spec; asks members until one has it."""
        while self.spec is None:
            others = self._roster.others(self._peer.id)
            answers = await self._peer.ask_all(others, SpecAsk(), _ANSWER)
            if not any(answers):
                await self._waits.say("waits for the spec: no member that has it has answered yet", others)
            for answer in answers:
                if self.spec is None and isinstance(answer, SpecText):
                    self._take(answer)
            if self.spec is None:
                await asyncio.sleep(_LOOK)
        return self.spec

    def _take(self, answer: SpecText) -> None:
        federation, founder = self._roster.store.genesis, self._roster.founder
        if not verify(founder, "spec", signed_spec(federation, answer.toml), answer.signature):
            _log.warning("a member sent a spec that the founder has not signed")
            return
        self._home.save_spec(answer.toml, answer.signature)
        self.spec = self._checked()

    def _checked(self) -> Spec:
        spec = self._home.spec
        if bytes.fromhex(spec.hash) != self._roster.genesis.spec:
            raise NodeError(
                "the spec is not the one that the federation was founded with",
                where=str(self._home.path / "spec.toml"),
                remedy="Bring back the spec, and the files that it names, as they were.",
            )
        compression = self._home.table.compression
        if spec.federation.protocol == "swarm" and encoding(compression).lossy:
            raise SpecError(
                f"{compression} rounds models on their way, and protocol swarm knows a model by the hash of its bytes",
                where=f"{self._home.path / 'node.toml'}: compression",
                remedy='Set it to "zstd", which loses nothing, or to "none".',
            )
        return spec

    def _answer(self) -> SpecText | None:
        found = self._home.spec_text
        return None if found is None else SpecText(*found)
