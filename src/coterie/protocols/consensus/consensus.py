"""Consensus as a peer's coroutine: the state machine's actions done, in simulation and for real by the same code.

Order matters: what is final goes to disk first, then the log, then messages leave. A log that cannot be written
silences the voter for the rest of the epoch: what it signed last has not left.

Threat model. Senders are known by the transport; votes and proposals count only from their voter. Of each voter at most
three votes and two blocks a height are kept, for ``AHEAD`` heights from the present one, and ``_EARLY`` messages for
the next epoch. What is of another federation, badly signed or of nobody here is dropped, and counted against its
sender. A third of the weight or more, silent, stops the chain; the log and ``Peer.waits_for`` say who is silent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeAlias

from coterie.errors import LedgerError, MessageError, OutputError
from coterie.identity import PeerId as Key
from coterie.identity import short_name
from coterie.ledger import StoreError
from coterie.ledger.shared import (
    Accusation,
    Batch,
    Certificate,
    CheckedBlock,
    Evidence,
    FullSharedBlock,
    Proposal,
    SharedLedger,
    Vote,
    check_block,
)
from coterie.protocols.consensus import log, steps
from coterie.protocols.consensus.application import Application, Payload, View
from coterie.protocols.consensus.catchup import CatchUp
from coterie.protocols.consensus.chores import Chores
from coterie.protocols.consensus.drafting import accusations, make_block
from coterie.protocols.consensus.messages import ConsensusCertificate, ConsensusProposal, ConsensusVote
from coterie.protocols.consensus.simplex import Simplex
from coterie.protocols.peer import Peer, PeerId

_EARLY = 8
_NAMED = 10
Said: TypeAlias = ConsensusVote | ConsensusProposal | ConsensusCertificate
_log = logging.getLogger("coterie.consensus")


class Consensus:
    """One peer's part in a federation's shared chain, as a voter or as one that follows. ``run`` goes on for ever.

    ``delay``: D, seconds within which messages should arrive: a height without a block takes 3 D at least. Increase it
    if idle federations count many dummies; decrease it if a silent leader stops you for too long.
    ``key_of`` and ``peer_of`` translate where peers are not named by their keys, and give None for who is no member.
    ``now`` gives ms since 1970, for blocks and records of this peer.
    """

    machine_type = Simplex

    def __init__(
        self,
        peer: Peer,
        ledger: SharedLedger,
        application: Application,
        *,
        delay: float = 1.0,
        key_of: Callable[[PeerId], Key | None] = lambda peer: peer,
        peer_of: Callable[[Key], PeerId | None] = lambda key: key,
        now: Callable[[], int] | None = None,
    ) -> None:
        self.peer, self.ledger, self.application, self.delay = peer, ledger, application, delay
        self._key_of, self._peer_of = key_of, peer_of
        self._now = now or (lambda: int(1000 * peer.clock.time()))
        self._genesis = ledger.chain.state.genesis
        self._log = log.read(peer.store, self._genesis)
        self._start: int | None = self._log.start if self._log else None
        """The first epoch in which this peer may vote; None until a quorum has told."""
        self._heard: dict[Key, None] = {}
        """Voters that have nothing newer than this peer, while its log is lost."""
        self.evidence: dict[Key, Evidence] = {}
        """Not on the chain yet; one for each liar."""
        self._early: dict[PeerId, list[Said]] = {}
        self._chores = Chores(self._fail)
        self._stood = (0, 0)
        self._over: asyncio.Future[None] | None = None
        self._new_machine()
        self._catch_up = CatchUp(self)
        peer.handle(ConsensusVote, self._on_message)
        peer.handle(ConsensusProposal, self._on_message)
        peer.handle(ConsensusCertificate, self._on_message)
        peer.waiting = self.waits_for

    async def run(self) -> None:
        """Take part until cancelled. Raises what the application raises, and LedgerError for a disk that is full."""
        self._over = asyncio.get_running_loop().create_future()
        pulls = asyncio.ensure_future(self._catch_up.run())
        pulls.add_done_callback(self._pulls_ended)
        try:
            self._replay()
            self._perform(self.machine.start())
            self._catch_up.want()
            await self._over
        finally:
            pulls.cancel()
            self._chores.clear()

    @property
    def stands(self) -> tuple[int, int]:
        """(epoch, height) that this peer is at."""
        return self.machine.state.epoch, self.machine.height

    def waits_for(self) -> str:
        """What keeps this peer from going on, and who is silent."""
        state, silent = self.machine.state, self.machine.missing()
        if self.machine.place is None:
            return f"final blocks of epoch {state.epoch} from its voters"
        if self.machine.votes and not self.machine.begun:
            return f"a block to be due at {state.epoch}.{self.machine.height}"
        quiet = sum(state.voters.members[place].weight for place in silent)
        keys = [state.voters.members[place].key for place in silent]
        names = ", ".join(map(self._called, keys[:_NAMED]))
        more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
        where = f"{state.epoch}.{self.machine.height}"
        heard = f"{state.voters.total - quiet} of {state.voters.total} of the weight"
        return f"a quorum of voters at {where}: {heard} is heard; silent: {names or 'nobody'}{more}"

    # The machine

    def step(self, event: steps.Event) -> None:
        """Let something happen to the machine, and do what follows. Raises LedgerError for what is no good."""
        self._perform(self.machine.step(event))

    def receive(self, batch: Batch) -> bool:
        """Final blocks from another peer; whether they were new. Raises LedgerError for what is no good."""
        epoch = self.machine.state.epoch
        try:
            checked = self.ledger.receive(batch)
        except StoreError as error:
            self._end(error)
            return False
        self._guard(partial(self._finalised, checked))  # what goes wrong from here on is not the sender's fault
        if self.ledger.chain.state.epoch > epoch:
            self._next_epoch()
        elif checked:
            chain = self.ledger.chain
            self.step(steps.Adopted(chain.height, chain.head, batch.finality.certificate))
        return bool(checked)

    def _new_machine(self) -> None:
        chain = self.ledger.chain
        self.machine = machine = self.machine_type(chain.state, self.peer.identity, self.ledger.known, self.delay)
        if self._start is None or chain.state.epoch < max(self._start, self._log.epoch if self._log else 0):
            machine.votes = False
        machine.final, machine.head = chain.height, chain.head
        if chain.height:
            last = self.ledger.blocks(chain.state.epoch, chain.height - 1, 1)
            if last is not None and not last.finality.headers:
                machine.certified = last.finality.certificate
        if self._log is not None:
            log.restore(machine, self._log)

    def _next_epoch(self) -> None:
        self._chores.clear()
        self._new_machine()
        _log.info("epoch %d begins", self.machine.state.epoch)
        self._perform(self.machine.start())
        if not self.machine.votes:
            self._catch_up.want()  # from now on nobody tells it anything
        early, self._early = self._early, {}
        for sender in sorted(early):
            for message in early[sender]:
                try:
                    self._on_message(sender, message)
                except MessageError as error:
                    self.peer.metrics.dropped(sender, error)

    def _perform(self, actions: Sequence[steps.Action]) -> None:
        self._guard(partial(self._do_all, actions))

    def _guard(self, work: Callable[[], None]) -> None:
        """Do what follows from a step. What goes wrong here is this peer's own trouble: it ends ``run``."""
        try:
            work()
        except Exception as error:
            self._end(error)

    def _end(self, error: Exception) -> None:
        self.machine.over = True
        self._fail(error)

    def _do_all(self, actions: Sequence[steps.Action]) -> None:
        machine = self.machine
        closed = False
        for action in actions:
            if isinstance(action, steps.Final):
                self._finalised(self.ledger.add(action.blocks, action.finality))
                closed = closed or machine.over
        if any(isinstance(action, steps.Log) for action in actions):
            self._write_log()
        if self.stands != self._stood:  # what was asked about the height before is of no use any more
            self._stood = self.stands
            self._chores.cancel_tasks()
        for action in actions:
            self._do(action)
        if closed and self.machine is machine:
            self._next_epoch()

    def _do(self, action: steps.Action) -> None:
        machine = self.machine
        match action:
            case steps.Tell(what, to):
                self._tell(what, to)
            case steps.Timer(fired, seconds):
                self._chores.later(fired.kind, seconds, lambda: self.step(fired))
            case steps.AskDue(view) if view.height == machine.height:
                self._chores.begin(self._ask_due(view))
            case steps.Draft(view) if view.height == machine.height:
                self._chores.begin(self._draft(action))
            case steps.Judge(view, full) if view.height == machine.height:
                self._chores.begin(self._judge(view, full))
            case steps.Hint(place):
                if (whom := self._peer_at(place)) is not None:
                    self._catch_up.hint(whom)
            case steps.Accuse(evidence):
                _log.warning("%s has contradicted itself in epoch %d", evidence.voter, evidence.epoch)
                self.evidence.setdefault(evidence.voter, evidence)
            case steps.Refuse(place, error):
                key = machine.state.voters.members[place].key
                self.peer.metrics.dropped(self._peer_of(key) or key, error)
            case steps.Pull(urgent):
                if urgent:
                    self._catch_up.want()
                elif not self._chores.awaits("pull"):
                    self._chores.later("pull", self.delay, partial(self._catch_up.want, self.stands))
            case steps.Stuck(times):
                if times > 1 and not times & (times - 1):
                    _log.warning("consensus waits for %s", self.waits_for())
            case steps.Forgot():
                _log.error("a vote of this peer in epoch %d is not in its log: it abstains", machine.state.epoch)
                self._start = machine.state.epoch + 2
                self._save_log()
                self._catch_up.want()

    def _write_log(self) -> None:
        if self.machine.votes and not self._save_log():
            self.machine.votes, self.machine.unlogged = False, True

    def _save_log(self) -> bool:
        """Whether the log is on disk."""
        machine = self.machine
        if self._start is None:
            return False
        self._log = log.Log(self._genesis, self._start, machine.state.epoch, machine.final, log.entries(machine))
        try:
            log.write(self.peer.store, self._log)
        except OutputError as error:
            _log.error("consensus abstains in epoch %d: %s", machine.state.epoch, error)
            return False
        return True

    def _tell(self, what: Vote | Proposal | Certificate, to: tuple[int, ...] | None) -> None:
        if isinstance(what, Vote):
            message: Said = ConsensusVote(what)
        elif isinstance(what, Proposal):
            message = ConsensusProposal(what)
        else:
            message = ConsensusCertificate(what)
        if not self.machine.may_tell(what):
            return  # it is not in the log
        whom = self.others() if to is None else [peer for place in to if (peer := self._peer_at(place)) is not None]
        self.peer.send_all(whom, message)

    # The application

    def _finalised(self, blocks: Sequence[CheckedBlock]) -> None:
        for checked in blocks:
            for change in checked.changes:
                if isinstance(change.says, Accusation):
                    self.evidence.pop(change.says.shown.voter, None)
            self.application.final(checked.block, checked.records)

    def _replay(self) -> None:
        """Tell the application what has become final since it last stood."""
        epoch, height = self.application.stands
        while epoch <= self.ledger.chain.state.epoch:
            while (batch := self.ledger.blocks(epoch, height)) is not None:
                for full in batch.blocks:
                    self.application.final(full.block, full.read_records())
                height = batch.blocks[-1].block.height
            epoch, height = epoch + 1, 0

    def _as_told(self, view: View) -> View:
        """The view without ancestors that have become final, and been told, since the machine asked."""
        return replace(view, ancestors=tuple(a for a in view.ancestors if a.block.height > self.machine.final))

    async def _ask_due(self, view: View) -> None:
        await self.application.due(self._as_told(view))
        self.step(steps.Due(view.height))

    async def _judge(self, view: View, full: FullSharedBlock) -> None:
        checked = check_block(view.state, full, self.ledger.known)  # has been done, and is remembered
        if await self.application.accepts(self._as_told(view), checked.block, checked.records):
            self.step(steps.Judged(view.height, full.block.id))

    async def _draft(self, draft: steps.Draft) -> None:
        payload = Payload() if draft.closed else await self.application.payload(self._as_told(draft.view))
        if payload is None:
            if not draft.needed:
                return
            payload = Payload()
        if not draft.closed:
            shown = accusations(self.peer.identity, draft.view, self.evidence, self._now(), payload.records)
            payload = Payload([*payload.records, *shown], payload.closes)
        self.step(steps.Drafted(make_block(self.peer.identity, draft, payload, self._now())))

    # Messages

    def require_member(self, sender: PeerId) -> Key:
        """The sender's key. Raises MessageError for one that is no member."""
        key = self._key_of(sender)
        if key is None:
            raise MessageError("one that is no member takes part in consensus", where=sender)
        return key

    def _on_message(self, sender: PeerId, message: Said) -> None:
        key = self.require_member(sender)
        event: steps.Event
        match message:
            case ConsensusVote(vote):
                event, author, epoch, height = steps.Voted(vote), vote.voter, vote.epoch, vote.height
            case ConsensusProposal(proposal):
                block = proposal.full.block
                event, author, epoch, height = steps.Proposed(proposal), block.proposer, block.epoch, block.height
            case ConsensusCertificate(certificate):
                event, author, epoch, height = steps.Certified(certificate), key, certificate.epoch, certificate.height
        if self._over is None:
            return  # this peer has not begun
        if author != key:
            raise MessageError("a vote or a proposal that is not the sender's own", where=sender)
        here = self.machine.state.epoch
        self._catch_up.claims(sender, epoch, height)
        if epoch == here:
            try:
                self.step(event)
            except LedgerError as error:
                raise MessageError(error.what, where=error.where or sender) from None
        elif epoch < here:
            self._catch_up.hint(sender)
        elif epoch == here + 1 and key in self.machine.state.following:
            self._keep(sender, message)
            self._do(steps.Pull(urgent=False))
        else:
            self._catch_up.want()

    def _keep(self, sender: PeerId, message: Said) -> None:
        """Keep a message for the next epoch, which this peer is about to enter."""
        kept = self._early.setdefault(sender, [])
        proposals = sum(isinstance(earlier, ConsensusProposal) for earlier in kept)
        if len(kept) < _EARLY and not (proposals and isinstance(message, ConsensusProposal)):
            kept.append(message)

    # A lost log

    def unheard(self) -> list[PeerId]:
        """Whom to ask how far they are, while this peer's log is lost."""
        if self._start is not None:
            return []
        return [peer for peer in self.others() if self._key_of(peer) not in self._heard]

    def answered(self, whom: PeerId, epoch: int) -> None:
        """A peer has shown all it has; after a quorum of *others* it is known when this peer may vote again.

        Whoever voted in epoch e had seen a quorum close e - 1, and any two quorums have an honest voter in common, who
        is not this peer: it remembers nothing. So some answer came from epoch e - 1 or later, and nothing that this
        peer has said is newer than the epoch after this one. That holds while epoch e - 1 has the voters of this one.
        """
        key = self._key_of(whom)
        state = self.machine.state
        if self._start is not None or key is None or epoch > state.epoch:
            return
        self._heard[key] = None
        places = [place for key in self._heard if (place := state.voters.index(key)) is not None]
        if state.rule.reached(state.voters, places):
            self._start = state.epoch + 2
            _log.warning("the log of this voter was lost: it abstains until epoch %d", self._start)
            if not self._save_log():
                self._start = None

    # Peers

    def others(self) -> list[PeerId]:
        """The voters' peers, without this one."""
        found = [self._peer_at(place) for place in range(len(self.machine.state.voters))]
        return [peer for peer in found if peer is not None and peer != self.peer.id]

    def members(self) -> list[PeerId]:
        """All members that this peer knows of, without itself, voters or not."""
        return [peer for peer in self.peer.members if peer != self.peer.id and self._key_of(peer) is not None]

    def _peer_at(self, place: int) -> PeerId | None:
        return self._peer_of(self.machine.state.voters.members[place].key)

    def _called(self, key: Key) -> str:
        """As logs have it."""
        name = self._peer_of(key)
        return short_name(key) if name in (None, key) else str(name)

    def _pulls_ended(self, pulls: asyncio.Future[None]) -> None:
        if not pulls.cancelled() and (error := pulls.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if self._over is None:
            raise error
        if not self._over.done():
            self._over.set_exception(error)
