"""A node's part in the protocol: it gets the spec, waits until the others are ready, and lives the protocol to its end.

Who takes part, and as which number of the spec, follows from the membership alone, so that all nodes agree: the first
members by their seats, as many as the spec wants. A successor has its predecessor's number, also in mid-run. The number
of one that was expelled or has left goes to the next newcomer, or stays empty: those who have begun go on without.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from coterie import data
from coterie.adversary import attackers as attackers_of
from coterie.errors import CoterieError, NodeError
from coterie.files import write_pieces, writing
from coterie.identity import PeerId
from coterie.layout import element_bytes
from coterie.network.grpc.transport import GrpcTransport
from coterie.protocols import Peer, Topology
from coterie.protocols.consensus import ChainTerms, PeerChain
from coterie.runtime._result import facts_of, final_figures
from coterie.runtime.node.chains import Chains
from coterie.runtime.node.home import Home
from coterie.runtime.node.life import Life
from coterie.runtime.node.messages import Standing, StandingAsk
from coterie.runtime.node.metrics import NodeMetrics
from coterie.runtime.node.roster import Roster, now_ms
from coterie.runtime.node.shared import NodeChain
from coterie.runtime.node.site import FinalModel, Site, data_here, part_of
from coterie.runtime.node.spec_source import SpecSource
from coterie.runtime.node.waits import Waits
from coterie.runtime.results import Result, RunDirectory
from coterie.runtime.work.placement import place
from coterie.spec import Spec

_LOOK = 1.0
"""Seconds between two looks at whether the others are ready."""
_ANSWER = 5.0
_AT_WORK = ("ready", "training", "done")
_NOT_PROTOCOLS = "invitations"
"""What else lies in a home's state."""
_FOR_SCRIPTS = (
    "model and data are in each site's own training script: this node lets newcomers in and answers members, no more. "
    "Stop it, and start the script with COTERIE_HOME set to this home"
)
_log = logging.getLogger("coterie.node")


class Part:
    """One node's part. ``run`` ends with the protocol; ``close`` gives the memory back."""

    def __init__(
        self,
        home: Home,
        roster: Roster,
        peer: Peer,
        chains: Chains,
        transport: GrpcTransport,
        at_door: Callable[[Sequence[PeerId]], Awaitable[list[PeerId]]],
    ) -> None:
        """``at_door``: which of some peers can be dialled, whether they let this one in or not.

        Raises SpecError, PluginError or NodeError where there is a spec that cannot be used.
        """
        self._home, self._roster, self._peer = home, roster, peer
        self._chains, self._transport = chains, transport
        self._state, self._failure = "waiting", ""
        self._waits = Waits(roster, at_door)
        self._source = SpecSource(home, roster, peer, self._waits)
        self._site: Site | None = None
        self._life: Life | None = None
        self.chain = NodeChain(home.path, roster, peer, self._waits.say)
        peer.open_chain = self._open_chain
        peer.handle(StandingAsk, lambda sender, question: self.standing())

    async def run(self) -> None:
        """Wait for the others, then live the protocol to its end."""
        try:
            await self._take_part()
        except Exception:
            self._state = "failed"
            raise

    async def _take_part(self) -> None:
        spec = await self._source.get()
        if spec.is_for_scripts:
            self._state, self._waits.why = "idle", _FOR_SCRIPTS
            _log.warning("%s", _FOR_SCRIPTS)
            return
        if len(self._roster.peers) < spec.federation.peers:
            await asyncio.to_thread(self._look_at_data, spec)
        ids = await self._complete(spec.federation.peers)
        if self._peer.id not in ids:
            _log.info("the federation is complete without this peer; it keeps records and answers")
            self._state, self._waits.why = "spare", ""
            return
        number = ids.index(self._peer.id)
        await self._chains.recover(self._others())
        site, topology, attackers = await asyncio.to_thread(self._open_site, spec, ids, number)
        self._site, self._state = site, "ready"
        self._transport.limit_snapshots(site.layout.hash, site.layout.size)
        returned = any(site.store.get(key) is not None for key in self._kept())
        late = await self._until_all_are_ready(spec.federation.peers)
        directory = RunDirectory(self._home.path)
        finished = (self._home.path / "result.json").exists()  # a restart after the end must not change the outcome
        life = Life(spec, site, self._roster.numbered(len(ids)), number, topology, attackers, directory.metrics)
        life.enter(self._peer, returned=returned or late)
        self._life, self._state, self._waits.why = life, "training", ""
        _log.info("begins%s", ", where it had stopped" if returned else ", late" if late else "")
        began = time.monotonic()
        await life.run()
        if not (returned and finished):
            final = await site.final()
            await asyncio.to_thread(self._write_result, spec, site, directory, final, time.monotonic() - began)
        self._state = "done"
        accuracy = directory.result.accuracy["mean"]
        _log.info("done: accuracy on the test set %.3f; it answers the others until it is stopped", accuracy)

    @property
    def spec(self) -> Spec | None:
        """None while it is not known."""
        return self._source.spec

    @property
    def state(self) -> str:
        """See ``Standing``; "failed" also where another part of the node has ended."""
        return "failed" if self._failure else self._state

    @property
    def why(self) -> str:
        """What is waited for, or what has failed."""
        return self._failure or self._waits.why

    def fail(self, why: str) -> None:
        """A part of the node has ended; others may go on."""
        self._failure = self._failure or why

    def standing(self) -> Standing:
        """What others are told: of the protocol, which may go on where another part of the node has ended."""
        round = self._life.metrics.round if self._life is not None else -1
        return Standing(self._state, round, now_ms())

    @property
    def metrics(self) -> NodeMetrics | None:
        """What it has measured; None before it has begun."""
        return None if self._life is None else self._life.metrics

    @property
    def jobs(self) -> Mapping[str, tuple[int, float]]:
        """By kind of job: how many there were here, and seconds in all."""
        return {} if self._site is None else dict(self._site.jobs.seconds)

    def members_changed(self) -> None:
        """Somebody came or went: perhaps another one has a number now."""
        if self._life is not None:
            self._life.take_in(self._roster.numbered(len(self._life.ids)))

    def close(self) -> None:
        self.chain.close()
        if self._site is not None:
            self._site.close()

    async def _open_chain(self, terms: ChainTerms) -> PeerChain:
        chain = await self.chain.open(terms)
        self._waits.why = ""
        return chain

    # The others

    def _others(self) -> list[PeerId]:
        return self._roster.others(self._peer.id)

    async def _complete(self, wanted: int) -> tuple[PeerId, ...]:
        """Who takes part, by number, once all numbers are taken; sooner where it has begun, here or with the others."""
        while True:
            ids, members = self._roster.numbered(wanted), self._roster.membership.members
            here = sum(peer in members for peer in ids)
            if self._peer.id in members and (here == wanted or (len(ids) == wanted and await self._goes_on(ids))):
                return ids
            await self._waits.say(f"waits for members: {here} of {wanted} are there")
            await asyncio.sleep(_LOOK)

    async def _goes_on(self, ids: Sequence[PeerId]) -> bool:
        """Whether it has begun already, and one of its members is gone."""
        others = self._present(ids)
        return bool(self._kept()) or _have_begun(await self._peer.ask_all(others, StandingAsk(), _ANSWER))

    async def _until_all_are_ready(self, wanted: int) -> bool:
        """Wait for the others. Whether they have begun already: most of them say so."""
        while True:
            others = self._present(self._roster.numbered(wanted))
            answers = await self._peer.ask_all(others, StandingAsk(), _ANSWER)
            standings = [answer for answer in answers if isinstance(answer, Standing)]
            if _have_begun(answers):
                return True
            if sum(one.state in _AT_WORK for one in standings) == len(others):
                return False
            await self._waits.say(f"waits for {self._not_ready(others, answers)}", () if standings else others)
            await asyncio.sleep(_LOOK if len(standings) < len(others) else 0.05)

    def _present(self, ids: Sequence[PeerId]) -> list[PeerId]:
        """Those who are members, but this one."""
        members = self._roster.membership.members
        return [peer for peer in ids if peer in members and peer != self._peer.id]

    def _not_ready(self, others: Sequence[PeerId], answers: Sequence[Any]) -> str:
        states = [answer.state if isinstance(answer, Standing) else "no answer" for answer in answers]
        named = [f"{self._waits.called(p)}: {s}" for p, s in zip(others, states, strict=True) if s not in _AT_WORK]
        return ", ".join(named) or "the others"

    # This site

    def _kept(self) -> list[str]:
        """Keys under which the protocol has kept something here: it had begun before this start."""
        found = sorted((self._home.path / "state").glob("*.state"))
        return [path.stem for path in found if path.stem != _NOT_PROTOCOLS]

    def _look_at_data(self, spec: Spec) -> None:
        """Warn of data that cannot be trained on while there is time to mend them: they are read when all are there."""
        try:
            dataset, layout = data_here(spec, self._home.table)
            self._roster.require_layout(layout.hash, dataset)
        except CoterieError as error:
            _log.warning("training will fail here: %s", error)

    def _open_site(self, spec: Spec, ids: tuple[PeerId, ...], number: int) -> tuple[Site, Topology, frozenset[PeerId]]:
        table = self._home.table
        if table.dataset is not None:
            own = spec.with_values({"data.dataset": table.dataset, "federation.peers": 1, "data.partition": "iid"})
            part = replace(place(own, data.load(own.dataset, None)), numbers=(number,))
        else:
            parts = place(spec, data.load(spec.dataset, None))
            part = part_of(parts, table.part if table.part is not None else number)
        site = Site.open(spec, part, self._peer.id, ids, self._home.path / "state")
        try:
            self._roster.require_layout(site.layout.hash, part.dataset)
        except NodeError:
            site.close()
            raise
        malicious = frozenset(ids[index] for index in attackers_of(spec) if index < len(ids))
        return site, Topology.of(spec, len(ids)), malicious

    def _write_result(self, spec: Spec, site: Site, directory: RunDirectory, final: FinalModel, seconds: float) -> None:
        evaluation, digest, state = final
        result = Result(
            status="ok",
            run=str(self._home.path),
            **facts_of(spec),
            **final_figures([(evaluation.accuracy, evaluation.loss, evaluation.auc, evaluation.attack_rate)]),
            bytes_sent=self._transport.bytes_sent,
            model_hash=digest,
            seconds=seconds,
        )
        directory.write_model("final", state, site.dataset.shape, site.dataset.classes)
        vector = self._home.path / "final.f32"
        with writing(vector, "the final vector"):
            write_pieces(vector, [element_bytes(site.vector)])
        directory.write_result(result)


def _have_begun(answers: Sequence[Any]) -> bool:
    """Whether most of those asked say that they are in a round, or through."""
    begun = [a for a in answers if isinstance(a, Standing) and a.state in ("training", "done") and a.round >= 0]
    return 2 * len(begun) > len(answers)
