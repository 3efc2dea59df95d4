"""Protocol swarm at one peer: train, check in, merge under leaders that take turns, go on from what was merged.

    1  The site trains to its next check-in.
    2  The peer signs the check-in - the model's hash, its weight, loss and metric - and tells everybody.
    3  Once all that can be reached have checked in, or enough have and the rest was waited for, the leader pulls the
       models, merges them, and lets everybody have the outcome.
    4  Who has it votes for it; the block that becomes final closes the epoch.
    5  Everybody goes on from the merged model. When all have done their training, it is the final one.

A site that comes too late for a merge is in the next one, by its age. Where too few can be reached, each trains on
alone and merges when they are back: two sides of a split never both merge, as one of them has no quorum.

Threat model. The leader of a merge, and with ``recompute`` every voter, sees the models of all sites in the clear; with
turns, in time everybody sees everybody's. With the crash-only quorum nobody may lie: one voter that signs two ways can
split the chain, and a leader can make any model the merged one, with its signature under it. With the quorum of two
thirds and ``recompute``, less than a third of the voters can neither split the chain nor pass off another merge; what
they can do to the merge by the models that they check in is up to the merge's rule. Weights, samples, losses and
metrics are the sites' own words. All members read all check-ins' figures.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from coterie.errors import RunError
from coterie.identity import PeerId as Key
from coterie.layout import Snapshot
from coterie.ledger.records import Record
from coterie.ledger.shared import SharedLedger
from coterie.protocols.consensus import Consensus, create
from coterie.protocols.consensus import log as consensus_log
from coterie.protocols.consensus.chores import Chores
from coterie.protocols.peer import Peer, PeerId
from coterie.protocols.swarm.leading import Leading
from coterie.protocols.swarm.ordering import Ordering
from coterie.protocols.swarm.packing import packed, unpacked
from coterie.protocols.swarm.records import check_in_record
from coterie.protocols.swarm.shelf import Shelf
from coterie.protocols.swarm.site import Adopted, Shared, SwarmSite
from coterie.protocols.swarm.training import Settings, Training

_KEY = "swarm"
_ASK_AGAIN = 1.0
_log = logging.getLogger("coterie.swarm")


class Swarm:
    """One peer in one training. ``run`` ends when the training is over, at the final model.

    ``ledger``: the training's chain, from its charter, whose genesis is ``records.chain_genesis``.
    """

    def __init__(
        self,
        peer: Peer,
        site: SwarmSite,
        ledger: SharedLedger,
        settings: Settings | None = None,
        *,
        key_of: Callable[[PeerId], Key | None] = lambda peer: peer,
        peer_of: Callable[[Key], PeerId | None] = lambda key: key,
        now: Callable[[], int] | None = None,
    ) -> None:
        self._now = now or (lambda: int(1000 * peer.clock.time()))
        self.training = Training(peer, site, ledger, settings or Settings(), key_of, peer_of, self._now)
        self._peer, self._site = peer, site
        self._chores = Chores(self._fail)
        self._over: asyncio.Future[None] | None = None
        self._ordering = Ordering(self.training, self._changed, self._fail)
        self._leading = Leading(self.training, self._ordering, self._chores)
        memory = peer.store.get(_KEY) or {}
        self._serial: int = memory.get("serial", 0)
        self._base: int = memory.get("base", 0)
        self._shelf = Shelf(peer.store, memory.get("places", {}))
        self._pending = unpacked(memory.get("pending"), self._shelf.get)
        """What this site has checked in and is not merged yet, or will stand for it to the end."""
        self._remember(memory)
        if not memory and not peer.returned and peer.store.get(consensus_log.KEY) is None:
            create(peer.store, ledger.chain.state.genesis, ledger.chain.state.epoch)
        self.consensus = Consensus(
            peer,
            ledger,
            self._ordering,
            delay=self.training.settings.delay,
            key_of=key_of,
            peer_of=peer_of,
            now=self._now,
        )
        peer.waiting = self.waits_for

    async def run(self) -> None:
        """Take part until the training is over. Raises what the site raises, and RunError after the deadline."""
        self._over = asyncio.get_running_loop().create_future()
        for work in (self.consensus.run(), self._leading.run(), self._live()):
            self._chores.begin(work)
        try:
            await self._over
        finally:
            self._chores.clear()

    def leave(self) -> None:
        """Tell the others that this peer takes part no more; before the end, give up its vote too. Once, at the end."""
        self._leading.leave()

    def waits_for(self) -> str:
        """What keeps this peer from going on, in words."""
        return self.training.blocked or f"the merge of epoch {self.training.state.epoch}"

    # Training

    async def _live(self) -> None:
        training = self.training
        while True:
            epoch = training.state.epoch
            await self._peer.checkpoint(epoch)
            # Step 5: go on from the merged model, unless work of this site still waits for a merge.
            if epoch > self._base and (training.state.over or not self._awaits()):
                await self._adopt()
                continue
            if training.state.over:
                break
            # Step 1: train.
            if self._pending is None or (training.alone and not self._pending.ending):
                await self._train()
            # Steps 2 to 4: check in, and wait for the merge.
            await self._wait(training.state.epoch)
        await self._linger()
        self.leave()
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    def _awaits(self) -> bool:
        """Whether work of this site has been checked in and is not merged."""
        return self._pending is not None and self.training.merged_serial < self._serial

    async def _train(self) -> None:
        training = self.training
        async with training.at_work:
            checked = await self._site.check_in(self._base)
        if self._pending is not None and not self._awaits():
            return  # what was checked in before has been merged meanwhile: that comes first
        self._pending, self._serial = checked, self._serial + 1
        training.models.publish(checked.digest, checked.snapshot, training.state.epoch)
        self._save()

    async def _wait(self, epoch: int) -> None:
        training, pending = self.training, self._pending
        if pending is None or training.state.epoch != epoch or training.state.over:
            return
        training.check_in = check_in_record(
            self._peer.identity,
            pending,
            genesis=training.genesis,
            epoch=epoch,
            base=self._base,
            serial=self._serial,
            agreed=training.agreed,
            time=self._now(),
        )
        training.idle = True
        training.bell.ring()
        alone_since: float | None = None
        try:
            while training.state.epoch == epoch and (pending.ending or not training.alone):
                now, deadline = self._peer.clock.time(), training.settings.deadline
                alone_since = None if not training.alone else now if alone_since is None else alone_since
                if alone_since is not None and now >= alone_since + deadline:
                    raise RunError(
                        training.blocked or "too few can be reached",
                        where=f"{training.site.terms.contract}, for {deadline:g} s",
                        remedy="Bring the others back and begin again: what was merged is kept.",
                    )
                await training.bell.wait(None if alone_since is None else alone_since + deadline - now)
        finally:
            training.idle = False

    async def _adopt(self) -> bool:
        """Go on from the last merged model; False where another one has been merged before it was here."""
        training = self.training
        state = training.state
        snapshot = await self._merged()
        if snapshot is None:
            return False
        adopted = Adopted(
            snapshot,
            state.epoch,
            state.interval,
            state.over,
            training.name(state.leader),
            {
                training.name(key): Shared(part.weight, part.loss, part.metric, part.epochs, part.finished)
                for key, part in state.parts.items()
            },
        )
        async with training.at_work:
            await self._site.adopt(adopted)
        if self._pending is not None and not self._pending.ending:
            self._pending = None
        self._base = state.epoch
        self._changed()
        return True

    async def _merged(self) -> Snapshot | None:
        """The last merged model, from whoever has it; None once there is a later one."""
        training, epoch = self.training, self.training.state.epoch
        while training.merged is None:
            digest = training.state.merged
            if digest is None:
                return None
            found = await training.models.get(digest, self._askable())
            if training.state.epoch != epoch:
                return None
            if found is None:
                _log.info("nobody reached has the model of merge %d yet", epoch)
                await training.bell.wait(_ASK_AGAIN)
                continue
            training.merged = found
            training.bell.ring()
            training.models.publish(digest, found, epoch)
        return training.merged

    def _askable(self) -> list[PeerId]:
        """Others: the last leader, those that are heard, then those that are not, as the ones that have ended."""
        training, others = self.training, self.training.others()
        self._peer.random.shuffle(others)
        leader = training.peer_of(training.state.leader)
        return sorted(others, key=lambda peer: (not training.there(training.key_of(peer) or ""), peer != leader))

    async def _linger(self) -> None:
        """Others may still need the last vote or the final model of this peer: stay until they show they have it."""
        training, clock = self.training, self._peer.clock
        until = clock.time() + 2 * training.settings.silence
        while clock.time() < until:
            if not any(training.there(key) and training.lacks_the_end(key) for key in training.roll.heard):
                return
            await training.bell.wait(training.settings.beat)

    def _changed(self) -> None:
        """A merge is final, proposed or adopted: remember it, and let go of older models."""
        training = self.training
        merged = [] if training.state.merged is None else [training.state.merged]
        pending = [] if self._pending is None else [self._pending.digest]
        training.models.keep([*merged, *pending, *(held.digest for held in training.proposals.values())])
        self._save()

    def _fail(self, error: BaseException) -> None:
        if self._over is None:
            raise error
        if not self._over.done():
            self._over.set_exception(error)

    # Memory

    def _save(self) -> None:
        training, pending = self.training, self._pending
        if pending is not None and not self._site.remembers and not pending.ending:
            pending = None  # it would not be taken up again
        models = {held.digest: held.snapshot for held in training.proposals.values()}
        if training.merged is not None and training.state.merged is not None:
            models[training.state.merged] = training.merged
        if pending is not None:
            models[pending.digest] = pending.snapshot
        self._shelf.put(models)
        memory: dict[str, Any] = {
            "serial": self._serial,
            "base": self._base,
            "pending": packed(pending),
            "proposals": [
                [[record.encode() for record in held.records], held.digest] for held in training.proposals.values()
            ],
            "places": dict(self._shelf.places),
        }
        self._peer.store.put(_KEY, memory)
        self._shelf.keep(models)

    def _remember(self, memory: dict[str, Any]) -> None:
        """Bring everything to where it stood, from the chain and from what was saved."""
        training = self.training
        self._ordering.replay()
        epoch = training.state.epoch
        if not self._site.remembers:
            self._pending = self._pending if self._pending is not None and self._pending.ending else None
        begins_there = training.state.over or not self._awaits()
        if begins_there and (self._peer.returned or not self._site.remembers):
            self._base = -1 if epoch else 0  # the last merged model is taken up, again where it was already
        if self._pending is not None:
            training.models.publish(self._pending.digest, self._pending.snapshot, epoch)
        digest = training.state.merged
        if digest is not None and (snapshot := self._shelf.get(digest)) is not None:
            training.merged = snapshot
            training.models.publish(digest, snapshot, epoch)
        for records, digest in memory.get("proposals", ()):
            if (snapshot := self._shelf.get(digest)) is not None:
                self._ordering.put_back(tuple(Record.decode(data) for data in records), snapshot)
