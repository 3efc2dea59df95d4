"""One training of a script: its chain and state on disk, its conversation with the other sites, its task on the loop.

In the home's ``state/trainings/NAME-HASH/`` lie ``contract``, the name, ``charter``, what the chain begins with,
``chain.sqlite``, the chain, ``*.state``, what the protocol keeps, and ``models/``, where large ones of others are, and
what is merged of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from coterie.errors import NodeError
from coterie.files import write_file
from coterie.identity import PeerId
from coterie.layout import Layout
from coterie.ledger.shared import Charter, SharedStore
from coterie.network import Codec
from coterie.network.spool import Spool
from coterie.protocols import Peer
from coterie.protocols.swarm import Settings, Swarm, Terms
from coterie.protocols.swarm.audit import CHAIN, CHARTER, CONTRACT, TRAININGS
from coterie.runtime.node.daemon import Node
from coterie.runtime.node.roster import now_ms
from coterie.runtime.node.store import StateStore
from coterie.runtime.work.memory import Arena, SharedMemory
from coterie.swarm.site import ScriptSite

_LOOK = 0.1
"""Seconds between two looks at how far the others are."""
_ROWS = 4
"""Vectors in a piece of memory; more pieces are taken as needed."""
_IN_MEMORY = 4_000_000
"""Bytes of a model; larger ones that come in, and what is made of them, are on disk: a leader has those of all."""
_MODELS = "models"


class Files:
    """Where one training is kept in a home."""

    def __init__(self, home: Path, contract: str) -> None:
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", contract)[:40]
        self.folder = home / TRAININGS / f"{plain}-{hashlib.sha256(contract.encode()).hexdigest()[:12]}"
        self.chain = self.folder / CHAIN
        self._charter = self.folder / CHARTER
        self._contract = contract

    @property
    def charter(self) -> Charter | None:
        """What its chain begins with; None where there is none yet. Raises LedgerError for a damaged file."""
        try:
            return Charter.decode(self._charter.read_bytes())
        except FileNotFoundError:
            return None

    def begin(self, charter: Charter) -> None:
        """Keep this charter. What was kept with another one, by which nothing was merged, goes."""
        kept = self.charter
        if kept is not None and kept.id != charter.id:
            for path in self.folder.iterdir():
                if path.is_file():
                    path.unlink()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_file(self._charter, charter.encode())
        write_file(self.folder / CONTRACT, self._contract.encode())

    def merges(self, charter: Charter) -> int:
        """How many merges this site knows of."""
        if not self.chain.exists():
            return 0
        with SharedStore(self.chain, charter) as chain:
            return chain.chain.state.epoch


class Training:
    """One training at work. ``site`` is the script's side of it; ``close`` ends it."""

    def __init__(
        self,
        node: Node,
        charter: Charter,
        terms: Terms,
        layout: Layout,
        settings: Settings,
        say: Callable[[str | None], None],
    ) -> None:
        """Raises LedgerError where what is kept cannot be used."""
        files = Files(node.home.path, terms.contract)
        files.begin(charter)
        returned = files.chain.exists()
        self._node, self.line, self.terms = node, charter.id, terms
        with contextlib.ExitStack() as closing:
            memory = SharedMemory()
            closing.callback(memory.close)
            arena = Arena(memory, layout.size, _ROWS, travels=True)
            store = StateStore(files.folder, arena, layout.hash)
            closing.callback(store.close)
            self.ledger = closing.enter_context(SharedStore(files.chain, charter))
            spool = Spool(files.folder / _MODELS) if 4 * layout.size > _IN_MEMORY else None
            if spool is not None:
                node.spools[layout.hash] = spool
            self.site = ScriptSite(terms, layout, spool, say)
            self.peer = self._peer(store, returned=returned)
            node.layouts[layout.hash] = layout.size
            node.lines[self.line] = self.peer
            closing.callback(node.lines.pop, self.line, None)
            closing.callback(self.peer.close)
            self._swarm = Swarm(
                self.peer, self.site, self.ledger, settings, key_of=self._member, peer_of=self._member, now=now_ms
            )
            self._closing = closing.pop_all()
        self._task = asyncio.create_task(self._swarm.run(), name=f"training {terms.contract}")
        self._task.add_done_callback(self._on_end)

    @property
    def merges(self) -> int:
        """How many there have been."""
        return self.ledger.chain.state.epoch

    @property
    def over(self) -> bool:
        """Whether all sites have done their training."""
        return self._swarm.training.state.over

    def members_changed(self, members: Sequence[PeerId]) -> None:
        """Somebody came or went."""
        self.peer.members = members

    async def settle(self, seconds: float) -> None:
        """Let the protocol come to its end, and the others to the last merge, for so long.

        Whoever is behind asks, and is answered from what is here. One that says nothing may only be busy.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.wait([self._task])
                while self._are_behind():
                    await asyncio.sleep(_LOOK)

    def _are_behind(self) -> bool:
        """Whether one of the last merge has not shown that it has the final model, and has not left."""
        training = self._swarm.training
        return any(key != self.peer.id and training.lacks_the_end(key) for key in training.state.parts)

    def leave(self) -> None:
        """Tell the others; ``close``, or ``close_now``, must follow."""
        self._swarm.leave()

    async def close(self) -> None:
        """End here. The others are told, and go on; what is kept stays."""
        self._task.cancel()
        await asyncio.wait([self._task])
        self.leave()
        self._closing.close()

    def close_now(self) -> None:
        """``close``, where nobody can wait any more."""
        self._task.cancel()
        self._closing.close()

    def _peer(self, store: StateStore, *, returned: bool) -> Peer:
        node, own = self._node, self._node.peer
        return Peer(
            id=own.id,
            members=node.roster.peers,
            neighbours=(),
            learner=self.site,  # type: ignore[arg-type]  # swarm asks its site; the peer itself asks for samples only
            ledger=own.ledger,
            store=store,
            random=own.secrets,
            secrets=own.secrets,
            clock=own.clock,
            metrics=own.metrics,
            transport=node.transport,
            codec=Codec(self.line),
            identity=node.identity,
            returned=returned,
        )

    def _member(self, peer: PeerId) -> PeerId | None:
        return peer if self._node.roster.membership_has(peer) else None

    def _on_end(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self.site.fail(NodeError("the training was left", where=self.terms.contract))
        elif (error := task.exception()) is not None:
            self.site.fail(error)
