"""Signs of life, and who leads when: each peer looks with its own eyes, and the consensus settles it.

The leader of a merge is the first of the rotation that is there, has checked in and waits. It is silent for
``silence``, or does not get on for ``leader_patience``: the next one leads. A merge that a dead leader has let enough
others have goes on without it. Two who take themselves for the leader cost a merge too many, and do no harm.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from coterie.errors import LedgerError, MessageError
from coterie.identity import PeerId as Key
from coterie.layout import Snapshot
from coterie.ledger.records import Record
from coterie.protocols.consensus.chores import Chores
from coterie.protocols.consensus.messages import ConsensusAhead
from coterie.protocols.peer import PeerId
from coterie.protocols.swarm import quorum
from coterie.protocols.swarm import state as rules
from coterie.protocols.swarm.joins import LASTS, make_join, make_leave
from coterie.protocols.swarm.leader import lead_order
from coterie.protocols.swarm.messages import MOST_HELD, SwarmBeat, SwarmProposal
from coterie.protocols.swarm.ordering import Ordering
from coterie.protocols.swarm.records import CheckInRecord, merge_record, read_check_in, read_merge
from coterie.protocols.swarm.roll import Heard
from coterie.protocols.swarm.training import Proposal, Training

_RESEND = 1.0
_PAUSE = 0.01
"""Between two looks at least: what many peers say at nearly the same time is looked at once."""
_log = logging.getLogger("coterie.swarm")


class Leading:
    """What a peer does for the merges of all, whether it trains meanwhile or not."""

    def __init__(self, training: Training, ordering: Ordering, chores: Chores) -> None:
        self._training, self._ordering, self._chores = training, ordering, chores
        self._leads = False
        self._fetches: dict[bytes, Key] = {}
        """Proposals whose models are on the way, by the ids of their records, and their leaders."""
        self._enough: float | None = None
        self._first: float | None = None
        """When ``min_peers`` were ready, and when the first was, as seen here."""
        self._epoch = -1
        self._told: SwarmBeat | None = None
        self._told_at = float("-inf")
        self._sent: dict[tuple[bytes, PeerId], float] = {}
        self._left = False
        self._join: tuple[int, bytes] = (-LASTS, b"")
        """The epoch in which the consent to vote was made, and the consent."""
        training.peer.handle(SwarmBeat, self._on_beat)
        training.peer.handle(SwarmProposal, self._on_proposal)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            rung = self._training.bell.rung
            self._tick()
            await asyncio.sleep(_PAUSE)
            if self._training.bell.rung == rung:
                await self._training.bell.wait(self._training.settings.beat)

    def _tick(self) -> None:
        training = self._training
        if self._epoch != training.state.epoch:
            self._epoch, self._enough, self._first, self._sent = training.state.epoch, None, None, {}
        self._say()
        if training.state.over:
            self._tell_user(None)
            return
        self._ordering.let_go()
        decision = self._decide()
        self._tell_user(decision.reason + self._odd() if isinstance(decision, quorum.Blocked) else None)
        if isinstance(decision, quorum.Merge) and self._acting() == training.key:
            if training.proposals:
                for name in sorted(training.proposals):
                    self._spread(training.proposals[name])
            elif not self._leads and not any(training.there(leader) for leader in self._fetches.values()):
                self._leads = True
                self._chores.begin(self._lead(training.state.epoch))
        for name in sorted(training.proposals):
            if training.proposals[name].found.leader == training.key:
                self._spread(training.proposals[name])

    # Saying

    def beat(self) -> SwarmBeat:
        """What this peer has to say now."""
        training = self._training
        check_in, epoch = training.check_in, training.state.epoch
        fits = check_in is not None and check_in.says.epoch == epoch
        join = b""
        chain = training.ledger.chain.state
        locked = any(entry.key == training.key for entry in chain.locked)
        if training.key not in chain.following and not locked and not training.state.over:
            if self._join[0] + LASTS // 2 <= epoch:
                self._join = epoch, make_join(training.peer.identity, training.genesis, epoch)
            join = self._join[1]
        holds = {held.digest for held in training.proposals.values()}
        if training.state.over and training.state.merged is not None and training.merged is not None:
            holds.add(training.state.merged)
        return SwarmBeat(
            epoch,
            check_in.record.encode() if fits and check_in is not None else b"",
            fits and training.idle,
            training.progress,
            tuple(sorted(holds))[:MOST_HELD],
            join,
            leaving=False,
            leave=b"",
        )

    def leave(self) -> None:
        """The last word: the others do not wait for a silence. One that leaves before the end gives up its vote."""
        if self._left:
            return
        self._left = True
        training, record = self._training, b""
        epoch = training.state.epoch
        if training.key in training.ledger.chain.state.following and not training.state.over:
            record = make_leave(training.peer.identity, training.genesis, epoch, training.now())
        training.peer.send_all(
            training.others(), SwarmBeat(epoch, b"", False, training.progress, (), b"", leaving=True, leave=record)
        )

    def _say(self) -> None:
        training, beat = self._training, self.beat()
        if self._left:
            return
        now = training.peer.clock.time()
        if beat == self._told and now < self._told_at + training.settings.beat * 0.999:
            return
        self._told, self._told_at = beat, now
        for peer in training.others():
            training.peer.send(peer, beat)

    def _spread(self, proposal: Proposal) -> None:
        """Tell those who do not show that they have it; again after a while."""
        training, now = self._training, self._training.peer.clock.time()
        holders = training.holders(proposal)
        for peer in training.others():
            mark = (proposal.found.record.id, peer)
            if training.key_of(peer) not in holders and self._sent.get(mark, float("-inf")) + _RESEND <= now:
                self._sent[mark] = now
                training.peer.send(peer, SwarmProposal(tuple(record.encode() for record in proposal.records)))

    # Hearing

    def _on_beat(self, sender: PeerId, beat: SwarmBeat) -> None:
        training = self._training
        key = training.key_of(sender)
        if key is None:
            raise MessageError("one that is no member takes part in a training", where=sender)
        last = training.roll.heard.get(key)
        check_in = self._read(sender, key, beat, last) if beat.check_in else None
        changed = last is None or last.beat != beat
        training.roll.heard[key] = Heard(training.peer.clock.time(), beat, check_in)
        if beat.epoch < training.state.epoch and not beat.leaving:
            stands = training.ledger.chain
            training.peer.send(sender, ConsensusAhead(stands.state.epoch, max(stands.height, 1)))
        if changed:
            training.bell.ring()

    def _read(self, sender: PeerId, key: Key, beat: SwarmBeat, last: Heard | None) -> CheckInRecord | None:
        if last is not None and last.beat.check_in == beat.check_in:
            return last.check_in
        training = self._training
        try:
            check_in = read_check_in(Record.decode(beat.check_in), training.genesis)
        except LedgerError as error:
            raise MessageError(error.what, where=sender) from None
        if check_in.author != key or check_in.says.epoch != beat.epoch or check_in.says.base > beat.epoch:
            raise MessageError("a check-in that is not the sender's own, or of another epoch", where=sender)
        if difference := training.agreed.against(check_in.says.agreed):
            _log.error("%s trains on other terms: %s. It is not merged", training.name(key), difference)
        return check_in

    def _on_proposal(self, sender: PeerId, message: SwarmProposal) -> None:
        training = self._training
        if training.key_of(sender) is None:
            raise MessageError("one that is no member takes part in a training", where=sender)
        try:
            records = tuple(Record.decode(data) for data in message.records)
            found = rules.read_block(records, training.genesis)
            if found is None or found.merge.epoch != training.state.epoch:
                return
            self._ordering.require(found)
        except LedgerError as error:
            raise MessageError(error.what, where=sender) from None
        name = found.record.id
        if name not in training.proposals and name not in self._fetches:
            self._fetches[name] = found.leader
            self._chores.begin(self._hold(found))

    async def _hold(self, found: rules.MergeBlock) -> None:
        try:
            await self._ordering.hold(found)
        finally:
            del self._fetches[found.record.id]
            self._training.bell.ring()

    # Deciding

    def _decide(self) -> quorum.Decision:
        training, now = self._training, self._training.peer.clock.time()
        terms, settings, voters = training.site.terms, training.settings, training.voters
        ready = training.check_ins()
        heard = [key for key in training.roll.heard if training.is_member(key)]
        members = tuple(sorted({training.key, *heard, *(voter.key for voter in voters.members)}))
        there = tuple(key for key in members if training.there(key) and not training.differs(key))
        self._first = self._first if self._first is not None else (now if ready else None)
        if len(ready) < terms.min_peers:
            self._enough = None
        elif self._enough is None:
            self._enough = now
        rule = training.ledger.chain.state.rule
        votes = next(
            (count for count in range(1, len(voters) + 1) if rule.enough(voters, count, count)), len(voters) + 1
        )
        present = tuple(key for key in there if key in voters)
        gathering = quorum.Gathering(
            members=tuple(map(training.name, members)),
            reachable=tuple(map(training.name, there if len(present) >= votes else present)),
            ready=tuple(map(training.name, ready)),
            seconds=0.0 if self._first is None else now - self._first,
            since_enough=None if self._enough is None else now - self._enough,
        )
        decision = quorum.decide(
            quorum.Quorum(terms.min_peers, votes, settings.full_wait, settings.deadline), gathering
        )
        few = len(present) < votes or len(there) < terms.min_peers
        training.alone = isinstance(decision, quorum.Blocked) and few
        done, training_still = all(c.says.finished for c in ready.values()), any(key not in ready for key in there)
        if isinstance(decision, quorum.Merge) and done and training_still:
            return quorum.Wait(settings.full_wait)  # those who are done wait for those who train
        return decision

    def _acting(self) -> Key | None:
        """Who is to lead: the first of the rotation that can."""
        training, now = self._training, self._training.peer.clock.time()
        order = lead_order(
            [voter.key for voter in training.voters.members], training.state.turns, training.state.beacon
        )
        for key in order:
            own, heard = key == training.key, training.there(key) and key not in training.liars
            waits = training.idle if own else heard and training.roll.is_idle(key, training.state.epoch)
            if waits and (own or not training.roll.is_stuck(key, now, training.settings.leader_patience)):
                return key
        return None

    def _odd(self) -> str:
        """A sentence on those who train on other terms."""
        training = self._training
        odd = [training.name(key) for key in sorted(training.roll.heard) if training.differs(key)]
        return f" On other terms: {', '.join(odd)}." if odd else ""

    def _tell_user(self, reason: str | None) -> None:
        training = self._training
        if reason == training.blocked:
            return
        training.blocked = reason
        training.site.blocked(reason)
        training.bell.ring()

    # Leading

    async def _lead(self, epoch: int) -> None:
        training = self._training
        try:
            check_ins = await self._gathered(list(training.check_ins().values()))
            if check_ins is None or training.state.epoch != epoch:
                return
            merged = await self._ordering.merge(check_ins, training.key)
            if merged is None or training.state.epoch != epoch:
                return
            training.progress += 1
            digest = await training.site.digest(merged)
            over = all(check_in.says.finished for check_in in check_ins)
            record = merge_record(training.peer.identity, training.genesis, epoch, digest, over, training.now())
            found = rules.MergeBlock(training.key, record, read_merge(record, training.genesis), tuple(check_ins))
            if training.state.epoch == epoch:
                await self._ordering.hold(found, merged)
                training.progress += 1
        finally:
            self._leads = False

    async def _gathered(self, check_ins: list[CheckInRecord]) -> list[CheckInRecord] | None:
        """Those of the check-ins whose models are here, having got them; None where they are too few."""
        training = self._training
        shares = rules.contributions(training.state, check_ins, training.key, training.agreed)
        wanted = [c for c, share in zip(check_ins, shares, strict=True) if share.weight > 0 and not share.merged]
        pulls = [asyncio.ensure_future(self._ordering.model(check_in, len(wanted))) for check_in in wanted]
        try:
            await self._until_pulled(wanted, pulls)
            lacking = [c.author for c, p in zip(wanted, pulls, strict=True) if not p.done() or p.result() is None]
        finally:
            for pull in pulls:
                pull.cancel()
        found = [check_in for check_in in check_ins if check_in.author not in lacking]
        return found if len(found) >= training.site.terms.min_peers else None

    async def _until_pulled(
        self, wanted: Sequence[CheckInRecord], pulls: Sequence[asyncio.Future[Snapshot | None]]
    ) -> None:
        """Returns when all are here, or cannot be had, or take longer than they may since the last one came.

        That is the time of one model for each that is on its way, as these share the line.
        """
        training, left, came = self._training, len(pulls) + 1, 0.0
        while True:
            now = training.peer.clock.time()
            open_ = [c.author for c, pull in zip(wanted, pulls, strict=True) if not pull.done()]
            if len(open_) < left:
                left, came = len(open_), now
            sending = sum(training.models.sends(peer) for peer in map(training.peer_of, open_) if peer is not None)
            given = max(sending, 1) * training.models.seconds
            if not open_ or now >= came + given:
                return
            training.progress += sending > 0
            await training.bell.wait(training.settings.beat)
