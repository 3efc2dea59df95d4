"""Simplex consensus (Chan and Pass, TCC 2023, eprint 2023/463) over one epoch, as a state machine.

A step is a function of the state and an event; it gives actions. No clock, network, disk or chance. Numbers of rules
are those of the design:

    1, 2  what signatures cover, what a quorum is    coterie.ledger.shared.votes and .voters
    3     the leader of a height                     ``Standing.leads``
    4     the timer of a height                      ``Simplex._begin``
    5     what a proposal must bring                 ``Standing.proposal`` and ``Standing.follows``
    6     one block vote a height                    ``Voting._may``
    7     the timer fires: a dummy vote              ``Simplex._fired``
    8     certified: go on, and a final vote         ``Simplex._leave``
    9     a quorum of final votes                    ``Simplex._finalise``
    10    never final and dummy; log before sending  ``Voting._may`` and ``Voting._vote``
    11    evidence                                   ``Tally.add`` and ``Simplex._on_proposed``
    12    after a dummy the next leader tries        ``Simplex._enter``
    13    after the closing block only empty ones    ``Simplex._consider``, ``Simplex._propose``

Two things differ from the paper, neither touches safety. A certificate is not broadcast at once by everybody, which
costs n^3 signatures: the next proposal bears it, and who has not shown within D / 2 that it knows is sent it, by eight
voters, and by all others D / 2 later. And the timer of a height starts once the application says that a block is due;
also where more than a third of the voters think so, where a proposal has come, and where what was notarised before has
not become final in time.

Safety: with less than a third of the stake lying, a quorum of final votes at a height excludes a dummy certificate and
a certificate of another block there; every later block follows this one. Entering a height late, or passing over
heights on the strength of a certificate, only means fewer votes.
"""

from __future__ import annotations

from coterie.errors import LedgerError
from coterie.ledger.shared import (
    Certificate,
    Evidence,
    FullSharedBlock,
    Proposal,
    SharedBlock,
    Vote,
    check_block,
)
from coterie.ledger.shared.chain import check_proposer
from coterie.ledger.shared.votes import NO_BLOCK
from coterie.protocols.consensus import repeats, steps
from coterie.protocols.consensus.standing import closed_by
from coterie.protocols.consensus.tally import Tally
from coterie.protocols.consensus.voting import Voting

AHEAD = 8
"""Votes and proposals are kept for so many heights ahead. Who is further behind pulls."""
BACKOFF = 8
"""The timer grows to so many times its first length."""


class Simplex(Voting):
    """One voter in one epoch, or a peer that only follows: ``start``, then ``step`` with whatever happens."""

    # From outside

    def start(self) -> list[steps.Action]:
        """Enter the first height, or the one where the log ended."""
        heights = [tally.height + 1 for tally in self.tallies.values() if tally.certificates]
        heights += [tally.height for tally in self.tallies.values() if tally.mine]
        self.dummies = sum("dummy" in t.certificates or self._gave_up(t) for t in self.tallies.values())
        self._enter(max([self.height, self.final + 1, *heights]))
        self._out += repeats.unanswered(self)
        return self._done()

    def step(self, event: steps.Event) -> list[steps.Action]:
        """What follows from an event. Raises LedgerError for what no honest peer sends; nothing is then to be done."""
        self._out = []
        if self.over:
            return []
        match event:
            case steps.Voted(vote):
                self._on_voted(vote)
            case steps.Proposed(proposal):
                self._on_proposed(proposal)
            case steps.Certified(certificate):
                self._on_certified(certificate)
            case steps.Fetched(full):
                self._on_fetched(full)
            case steps.Due(height):
                if height == self.height:
                    self._begin()
            case steps.Drafted(full):
                self._on_drafted(full)
            case steps.Judged(height, block):
                tally = self.at(self.height)
                shown = tally.proposal is not None and tally.proposal.full.block.id == block
                if height == self.height and shown:  # not what an application says of an epoch that is over
                    self._vote("block", tally, block)
            case steps.Fired():
                self._fired(event)
            case steps.Adopted(height, head, certificate):
                self._adopt(height, head, certificate)
        return self._done()

    # Events

    def _on_voted(self, vote: Vote) -> None:
        place = self.state.voters.index(vote.voter)
        if place is None or (vote.kind == "dummy") != (vote.hash == NO_BLOCK):
            raise LedgerError("not a vote of this epoch's voters", where=vote.where)
        self._show(place, vote.height + (vote.kind == "final"))
        if vote.height <= self.final:
            if self._late.get(place) == vote.height:
                self._out.append(steps.Hint(place))  # it says so again: it does not know
            self._late[place] = vote.height
            return
        if vote.height > self.height + AHEAD:
            self._out.append(steps.Pull(urgent=True))
            return
        if vote.height > self.height:
            self._out.append(steps.Pull(urgent=False))
        tally = self.at(vote.height)
        if vote.height < self.height and vote.kind != "final" and self._is_behind(vote, tally, place):
            self._out.append(steps.Hint(place))
        self._add(tally, place, vote)
        self._count(tally, vote.kind, vote.hash)
        if vote.kind == "dummy" and vote.height == self.height and tally.share(("dummy", NO_BLOCK), self.state):
            self._begin()

    def _is_behind(self, vote: Vote, tally: Tally, place: int) -> bool:
        return vote.kind == "dummy" or tally.votes[vote.kind].get(place) == vote

    def _on_proposed(self, proposal: Proposal) -> None:
        block = proposal.full.block
        proposal.require_form()
        tally = self.tallies.get(block.height)
        if block.height <= self.final or (tally is not None and tally.knows(block, self.state)):
            return
        check_proposer(self.state, block)
        # first what only a quorum can make: a block's records take long to check, and everybody leads somewhere ahead
        new = [c for c in (proposal.notarised, *proposal.dummies) if c is not None and self._is_new(c)]
        self._check_first(proposal.full)
        for certificate in new:
            self._hold(certificate)
        if self.over or block.height <= self.final:
            return
        if block.height > self.height + AHEAD:
            self._out.append(steps.Pull(urgent=True))
            return
        place = self.state.voters.index(block.proposer)
        if place is not None:
            self._show(place, block.height)
        tally = self.at(block.height)
        if tally.proposal is not None:
            self._compare(tally, tally.proposal.full.block, block)
            return
        tally.proposal = proposal
        tally.blocks[block.id] = proposal.full
        if block.height == self.height:
            self._begin()
        self._consider()
        self._finalise()

    def _check_first(self, full: FullSharedBlock) -> None:
        """Look into a leader's block. Who has shown two that are no good at a height is not listened to there."""
        try:
            check_block(self.state, full, self.known)
        except LedgerError:
            if self.final < full.block.height <= self.height + AHEAD:
                self.at(full.block.height).spoilt += 1
            raise

    def _compare(self, tally: Tally, first: SharedBlock, second: SharedBlock) -> None:
        """Rule 11: two different blocks of one leader at one height."""
        place = self.state.voters.index(second.proposer)
        if first.id != second.id and place is not None and place not in tally.accused:
            tally.accused.append(place)
            self._out.append(steps.Accuse(Evidence.of(first, second)))

    def _on_certified(self, certificate: Certificate) -> None:
        if self._is_new(certificate):
            self._hold(certificate)

    def _is_new(self, certificate: Certificate) -> bool:
        """Whether it tells anything. Raises LedgerError where it is none of this epoch."""
        certificate.require_form()
        if certificate.epoch != self.state.epoch:
            raise LedgerError("a certificate of another epoch", where=certificate.where)
        tally = self.tallies.get(certificate.height)
        if certificate.height <= self.final or (tally is not None and certificate.kind in tally.certificates):
            return False
        certificate.check(self.state.genesis, self.state.voters, self.state.rule, self.known)
        return True

    def _on_fetched(self, full: FullSharedBlock) -> None:
        if full.block.id not in self.lacking():
            return
        check_block(self.state, full, self.known)
        tally = self.at(full.block.height)
        tally.blocks[full.block.id] = full
        if tally.proposal is not None:
            self._compare(tally, tally.proposal.full.block, full.block)
        self._finalise()
        if not self.over:
            self._propose()
            self._consider()

    def _on_drafted(self, full: FullSharedBlock) -> None:
        tally, block = self.at(self.height), full.block
        if block.height != self.height or tally.own is not None or not self.votes:
            return
        if self.follows(block) is None:  # something has become final meanwhile
            tally.drafted = False
            self._propose()
            return
        check_block(self.state, full, self.known)
        tally.own, tally.blocks[block.id] = block.id, full
        self._out.append(steps.Log())
        tally.proposal = self.proposal(full)
        self._out.append(steps.Tell(tally.proposal))
        self._consider()

    def _fired(self, event: steps.Fired) -> None:
        if event.height != self.height:
            return
        match event.kind:
            case "height":  # rule 7
                self.fired = True
                self._vote("dummy", self.at(self.height), NO_BLOCK)
                self._out.append(steps.Timer(steps.Fired("resend", self.height, 1), 2 * self.delay))
            case "resend":
                self._out += [*repeats.unanswered(self), steps.Stuck(event.stage), steps.Pull(urgent=True)]
                again = steps.Fired("resend", self.height, event.stage + 1)
                self._out.append(steps.Timer(again, 2 * self.delay * min(2**event.stage, BACKOFF)))
            case "relay":
                self._out += repeats.relayed(self, event.stage)
                if not event.stage:
                    self._out.append(steps.Timer(steps.Fired("relay", self.height, 1), self.delay / 2))
            case "nudge" if self.is_open():
                self._out.append(steps.Pull(urgent=True))
                if event.stage:
                    self._out += repeats.unanswered(self)
                    self._begin()
                else:
                    self._out.append(steps.Timer(steps.Fired("nudge", self.height, 1), 2 * self.delay))

    def _adopt(self, height: int, head: bytes, certificate: Certificate) -> None:
        if height <= self.final:
            return
        own = (certificate.height, certificate.hash) == (height, head)
        self._settle(height, head, certificate if own else None)
        if height >= self.height:
            self._enter(height + 1)
        if not own:
            self._hold(certificate)  # of a later block, not here yet
        self._finalise()
        if not self.over:
            self._propose()
            self._consider()

    # Heights

    def _enter(self, height: int) -> None:
        """Rules 4 and 12: the height begins, with the next leader."""
        self.height, self.begun, self.fired = height, False, False
        self._out.append(steps.Timer(steps.Fired("relay", height, 0), self.delay / 2))
        parent = self.parent()
        chain = None if parent is None else self.chain(*parent)
        if self.votes:
            if self.at(height).proposal is not None or closed_by(chain or ()):
                self._begin()
            else:
                self._out.append(steps.AskDue(self.view(chain or [])))
        if self.is_open():
            self._out.append(steps.Timer(steps.Fired("nudge", height, 0), 2 * self.delay))
        self._consider()

    def _begin(self) -> None:
        """Rule 4: a block is due; the timer starts, and the leader proposes."""
        if self.begun or self.over:
            return
        self.begun = True
        seconds = 3 * self.delay * min(2 ** min(self.dummies, 16), BACKOFF)
        if self.is_passed_over(self.state.leader(self.height)):
            seconds = self.delay
        self._out.append(steps.Timer(steps.Fired("height", self.height), seconds))
        self._propose()

    def _leave(self, certificate: Certificate) -> None:
        """Rule 8: the height is decided; say so, and enter the next."""
        leader = self.state.leader(certificate.height)
        if certificate.kind == "block":
            self.missed.discard(leader)
            self.dummies += self._gave_up(self.at(certificate.height))
            self._vote("final", self.at(certificate.height), certificate.hash)
            if self.over or self.height > certificate.height:
                return  # that vote has made it final, and the height has been left on that ground
        elif certificate.kind == "dummy":
            self.dummies += 1
            self.missed.add(leader)
        self._out.append(steps.Log())
        self._enter(certificate.height + 1)

    def _gave_up(self, tally: Tally) -> bool:
        """Whether this peer's timer has fired. A block may be certified all the same, and can then not become final."""
        return "dummy" in tally.mine

    def _hold(self, certificate: Certificate) -> None:
        """A checked certificate."""
        if self.over or certificate.height <= self.final:
            return
        tally = self.at(certificate.height)
        tally.certificates[certificate.kind] = certificate
        said = (certificate.epoch, certificate.height, certificate.kind, certificate.hash)
        for place, signature in certificate.votes:  # who has told this peer something else has contradicted itself
            if place != self.place:
                self._add(tally, place, Vote(self.state.voters.members[place].key, *said, signature))
        if self._signed_unknowingly(certificate, tally):
            self.votes = False
            self._out.append(steps.Forgot())
        if certificate.kind == "final":
            self._finalise()
        if self.over:
            return
        if certificate.height >= self.height:
            self._leave(certificate)
        elif self.final < self.height:
            self._propose()  # it may have been what lacked
            self._consider()

    def _signed_unknowingly(self, certificate: Certificate, tally: Tally) -> bool:
        if (
            not self.votes
            or certificate.height <= self.unremembered
            or all(place != self.place for place, _ in certificate.votes)
        ):
            return False
        mine = tally.mine.get(certificate.kind)
        return mine is None or mine.hash != certificate.hash

    # Proposals

    def _propose(self) -> None:
        """Rule 5, as leader: the highest notarised block, and dummies for all heights since."""
        if not (self.votes and self.begun and self.leads(self.height)):
            return
        tally = self.at(self.height)
        own = None if tally.own is None or tally.proposal is not None else tally.blocks.get(tally.own)
        if own is not None and self.follows(own.block) is not None:  # it has been logged before a crash
            tally.proposal = self.proposal(own)
            self._out.append(steps.Tell(tally.proposal))
            self._consider()
        if tally.drafted or tally.own is not None:
            return
        parent = self.parent()
        chain = None if parent is None else self.chain(*parent)
        if parent is None or chain is None or (parent[0] == self.final > 0 and self.certified is None):
            self._out.append(steps.Pull(urgent=True))
            return
        tally.drafted = True
        self._out.append(steps.Draft(self.view(chain), *parent, closed=closed_by(chain), needed=bool(chain)))

    def _consider(self) -> None:
        """Rule 6: put the first proposal to the application, unless there was a block vote at this height."""
        tally = self.at(self.height)
        if tally.proposal is None or tally.considered or not self.votes or "block" in tally.mine:
            return
        full = tally.proposal.full
        chain = self.follows(full.block)
        if chain is None:
            self._out.append(steps.Pull(urgent=True))
            return
        tally.considered = True
        if full.block.closed != closed_by(chain):
            return  # rule 13
        if full.block.closed or full.block.id == tally.own:
            self._vote("block", tally, full.block.id)
        else:
            self._out.append(steps.Judge(self.view(chain), full))

    # Finality

    def _finalise(self) -> None:
        """Rules 9 and 13: the highest block with a final certificate, and its ancestors up to the closing one."""
        certificate = self.highest_final()
        if certificate is None or self.over:
            return
        final = self.finality(certificate)
        if final is None:
            self._out.append(steps.Pull(urgent=True))
            return
        blocks, finality = final
        self._out.append(steps.Final(blocks, finality))
        self.over = blocks[-1].block.closes
        self._settle(certificate.height, certificate.hash, certificate)

    def _settle(self, height: int, head: bytes, certificate: Certificate | None) -> None:
        self.final, self.head, self.certified, self.dummies = height, head, certificate, 0
        self.tallies = {number: tally for number, tally in self.tallies.items() if number > height}

    # Small things

    def _show(self, place: int, height: int) -> None:
        self.shown[place] = max(height, self.shown.get(place, 0))

    def _done(self) -> list[steps.Action]:
        out, self._out = self._out, []
        return out
