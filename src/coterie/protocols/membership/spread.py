"""How members keep the same records: each pulls from a few others what it lacks, every so often and on news.

A peer's records stand in a log, in the order they came to it, each after those it follows. Another member asks for the
ids from a place on, fetches those it does not know, and remembers the place. After a new record a peer tells ``TOLD``
others how long its log has become; they come and look. Records are pulled only, never pushed: nobody can make a peer
hold what it did not ask for.

Every record is checked (``Record.decode``, then ``Book.offer``); the first bad one ends the pull and is counted against
the member it came from, as is whatever else no honest peer would answer. Limits: ``MOST_IDS`` ids and ``MOST_FETCHED``
records a message, ``MOST_STEPS`` messages a pull, one pull at a time from one member and ``MOST_PULLS`` in all,
``ASKS_A_SECOND`` answered to one member, and those of ``Book``. A pull ends after ``every`` seconds; from a member
whose news was none, none is heard for as long.

Threat model. Only members are asked or answered. A hostile member can withhold records, also for good: they come by way
of any honest one that has them. With false news it costs a partner one pull an interval. It learns what all members
know. A partition delays records until it heals. What two peers believe while one lacks a record differs; ``replay``
makes them agree as soon as they have the same.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated

import msgspec

from coterie.errors import LedgerError, MembershipError, MessageError, PeerUnreachable
from coterie.identity import PeerId
from coterie.ledger import StoreError
from coterie.ledger.records import Record, RecordId
from coterie.network import Message, message
from coterie.protocols.allowance import Allowance
from coterie.protocols.membership.book import MOST_LOG, Book
from coterie.protocols.membership.records import MOST_BYTES, Hash
from coterie.protocols.peer import Peer

MOST_IDS = 1000
MOST_FETCHED = 64
MOST_STEPS = 400
ANSWER = 10.0
"""Seconds that a member has to answer."""
ASKS_A_SECOND = 50.0
MOST_PULLS = 8
TOLD = 8
"""Members, drawn at random, to whom a peer passes news on. Of those who hear of it so, the share s solves
s = 1 - exp(-TOLD s): all but one in 3000, where with two it would be all but one in 5. The others see it on a look."""
_BURST = 100.0
_READ_ANEW = 16
"""One look in so many reads a member's log from the start."""
_RECORD_BYTES = MOST_BYTES + 4096
"""Of an encoded record: its content, up to 64 parents, and the rest."""
_log = logging.getLogger(__name__)
Place = Annotated[int, msgspec.Meta(ge=0, le=MOST_LOG)]


@message
class MembershipNews(Message, frozen=True):
    """My log now has so many records; ``latest`` is the last of them."""

    size: Place
    latest: Hash


@message
class MembershipLog(Message, frozen=True):
    """Which records have you, from this place in your log on?"""

    start: Place


@message
class MembershipIds(Message, frozen=True):
    """Ids of the records from ``start`` on, as many as fit, of ``size``."""

    start: Place
    size: Place
    ids: Annotated[tuple[Hash, ...], msgspec.Meta(max_length=MOST_IDS)]


@message
class MembershipFetch(Message, frozen=True):
    """Give me these records."""

    ids: Annotated[tuple[Hash, ...], msgspec.Meta(min_length=1, max_length=MOST_FETCHED)]


@message
class MembershipRecords(Message, frozen=True):
    """Those of the records asked for that are here, in the order asked."""

    records: Annotated[
        tuple[Annotated[bytes, msgspec.Meta(max_length=_RECORD_BYTES)], ...], msgspec.Meta(max_length=MOST_FETCHED)
    ]


class Spread:
    """Keeps one peer's book like the others'. ``run`` goes on until it is cancelled.

    ``every``: seconds between two looks at ``fanout`` members drawn at random. Increase it if idle federations talk too
    much; news does not wait for it.
    """

    def __init__(self, peer: Peer, book: Book, *, every: float = 30.0, fanout: int = 2) -> None:
        self.peer, self.book, self.every, self.fanout = peer, book, every, fanout
        self._places: dict[PeerId, int] = {}
        """How much of each member's log has been seen."""
        self._due: dict[PeerId, RecordId | None] = {}
        """Whom to pull from, and the record that it says is new."""
        self._pulls: dict[PeerId, asyncio.Task[None]] = {}
        self._deaf: dict[PeerId, float] = {}
        """Until when a member's news is not heard."""
        self._followed: dict[RecordId, set[PeerId]] = {}
        self._allowance = Allowance(ASKS_A_SECOND, _BURST)
        self._news = False
        self._wake = asyncio.Event()
        book.watchers.append(self._on_record)
        peer.handle(MembershipNews, self._on_news)
        peer.handle(MembershipLog, self._on_log)
        peer.handle(MembershipFetch, self._on_fetch)

    async def run(self) -> None:
        """Look, tell, and wait for the next occasion."""
        next_look = 0.0
        try:
            while True:
                if self.peer.clock.time() >= next_look:
                    next_look = self.peer.clock.time() + self.every * (0.5 + self.peer.secrets.random())
                    self._look()
                if self._news:
                    self._tell()
                self._start_pulls()
                try:
                    async with asyncio.timeout(max(0.0, next_look - self.peer.clock.time())):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                self._wake.clear()
        finally:
            self.book.watchers.remove(self._on_record)
            for task in self._pulls.values():
                task.cancel()

    def follow(self, record: RecordId) -> set[PeerId]:
        """The members that fetch a record from this peer; the set grows from now on."""
        return self._followed.setdefault(record, set())

    def tell(self) -> None:
        """Tell some members once more what the newest record here is."""
        self._on_record()

    def _look(self) -> None:
        for partner in self._some(self.fanout):
            self._due.setdefault(partner, None)
            if not self.peer.secrets.randrange(_READ_ANEW):
                self._places[partner] = 0  # its log may have another order since it lost a disk

    def _start_pulls(self) -> None:
        for partner, task in list(self._pulls.items()):
            if task.done():
                del self._pulls[partner]
                try:
                    task.result()  # an error of this peer's own ends ``run``
                except StoreError as error:  # but for a full disk: a later look fetches what could not be kept
                    _log.error("membership records are not on disk: %s", error)
        for partner in list(self._due):
            if partner not in self._pulls and len(self._pulls) < MOST_PULLS:
                self._pulls[partner] = asyncio.ensure_future(self._visit(partner, self._due.pop(partner)))

    async def _visit(self, partner: PeerId, latest: RecordId | None) -> None:
        answered = False
        try:
            async with asyncio.timeout(self.every):
                answered = await self.pull(partner)
        except TimeoutError:
            pass
        finally:
            self._wake.set()
        if answered and latest is not None and not self.book.has(latest):
            self._deaf[partner] = self.peer.clock.time() + self.every

    async def pull(self, partner: PeerId) -> bool:
        """Fetch what ``partner`` has and this peer lacks; whether it answered.

        Whatever is wrong with what it says ends the pull, and is counted against it.
        """
        try:
            await self._pull(partner)
        except PeerUnreachable:
            return False
        except (MembershipError, MessageError) as error:
            self.peer.metrics.dropped(partner, error)
        return True

    # Asking

    async def _pull(self, partner: PeerId) -> None:
        for _ in range(MOST_STEPS):
            if not self.book.membership.is_member(partner):
                return
            start = self._places.get(partner, 0)
            answer = await self.peer.ask(partner, MembershipLog(start), ANSWER)
            if not isinstance(answer, MembershipIds) or answer.start not in (start, 0):
                raise MessageError("an answer about membership records is not what was asked for", where=partner)
            if answer.start != start:
                self._places[partner] = 0  # it has lost records, and begins anew
                continue
            if not await self._take(partner, answer.ids):
                return
            self._places[partner] = start + len(answer.ids)
            if self._places[partner] >= answer.size or not answer.ids:
                return

    async def _take(self, partner: PeerId, ids: tuple[RecordId, ...]) -> bool:
        """Fetch those of the ids that are unknown. False: some must be asked for again another time."""
        lacking = [name for name in ids if not self.book.has(name)]
        for first in range(0, len(lacking), MOST_FETCHED):
            for record in await self._fetch(partner, lacking[first : first + MOST_FETCHED]):
                outcome = self.book.offer(record)
                if outcome == "waiting":
                    outcome = await self._take_cited(partner, record)
                if outcome == "early":
                    return False
        return True

    async def _take_cited(self, partner: PeerId, record: Record) -> str:
        """Take a record of which ancestors were refused here because their author has filled its share."""
        if not self.book.may_widen(record.author):
            return "full"
        lacking = await self._ancestors(partner, record)
        for first in range(0, len(lacking), MOST_FETCHED):
            for ancestor in await self._fetch(partner, lacking[first : first + MOST_FETCHED]):
                cited = ancestor.author != record.author  # nobody widens its own share
                outcome = self.book.offer(ancestor, cited=cited, by=record.author)
                if outcome in ("early", "full"):
                    return outcome
        outcome = self.book.offer(record)
        if outcome == "waiting":
            raise MembershipError("a record follows what does not come", where=record.where)
        return outcome

    async def _ancestors(self, partner: PeerId, record: Record) -> list[RecordId]:
        """What a record follows and this peer lacks, in the order of the partner's log: each after those it follows.

        The log is read backwards, many records a message. Link by link, a chain could be longer than a pull.
        """
        log: list[RecordId] = []
        while record.id not in log and len(log) < MOST_LOG:
            answer = await self.peer.ask(partner, MembershipLog(len(log)), ANSWER)
            if not isinstance(answer, MembershipIds) or answer.start != len(log) or not answer.ids:
                raise MessageError("an answer about membership records is not what was asked for", where=partner)
            log += answer.ids
        before = [name for name in log[: log.index(record.id)] if not self.book.has(name)] if record.id in log else []
        wanted, found = set(self.book.replay.graph.missing(record)), list[RecordId]()
        for end in range(len(before), 0, -MOST_FETCHED):
            if len(found) == len(wanted):
                break
            for ancestor in reversed(await self._fetch(partner, before[max(0, end - MOST_FETCHED) : end])):
                if ancestor.id in wanted:
                    found.append(ancestor.id)
                    wanted |= set(self.book.replay.graph.missing(ancestor))
        return found[::-1]

    async def _fetch(self, partner: PeerId, ids: list[RecordId]) -> list[Record]:
        answer = await self.peer.ask(partner, MembershipFetch(tuple(ids)), ANSWER)
        if not isinstance(answer, MembershipRecords):
            raise MessageError("an answer about membership records is not what was asked for", where=partner)
        try:
            records = [Record.decode(data) for data in answer.records]
        except LedgerError as error:
            raise MessageError(error.what, where=partner) from None
        if [record.id for record in records] != ids:
            raise MessageError("membership records that were announced did not come", where=partner)
        return records

    # Answering

    def _on_news(self, sender: PeerId, news: MembershipNews) -> None:
        self._require_member(sender)
        if not self.book.has(news.latest) and self.peer.clock.time() >= self._deaf.get(sender, 0.0):
            self._due[sender] = news.latest
            self._wake.set()

    def _on_log(self, sender: PeerId, question: MembershipLog) -> MembershipIds:
        self._require_member(sender)
        start = question.start if question.start <= self.book.size else 0
        ids = tuple(node.id for node in self.book.log(start, MOST_IDS))
        return MembershipIds(start, self.book.size, ids)

    def _on_fetch(self, sender: PeerId, question: MembershipFetch) -> MembershipRecords:
        self._require_member(sender)
        known = self.book.replay.graph.by_id
        nodes = [known[name] for name in question.ids if name in known]
        for name in question.ids:
            if name in self._followed:
                self._followed[name].add(sender)
        return MembershipRecords(tuple(node.record.encode() for node in nodes))

    def _require_member(self, sender: PeerId) -> None:
        """Raise MessageError for one that is no member, or asks too often."""
        if not self.book.membership.is_member(sender):
            raise MessageError("one that is no member asked for membership records", where=sender)
        if not self._allowance.take(sender, self.peer.clock.time()):
            raise MessageError("a member asks for membership records too often", where=sender)

    # Telling

    def _on_record(self) -> None:
        self._news = True
        self._wake.set()

    def _tell(self) -> None:
        self._news = False
        news = MembershipNews(self.book.size, self.book.log(self.book.size - 1, 1)[0].id)
        for member in self._some(TOLD):
            self.peer.send(member, news)

    def _some(self, most: int) -> list[PeerId]:
        """So many members drawn at random, never this one."""
        others = [peer for peer in self.book.membership.members if peer != self.peer.id]
        return self.peer.secrets.sample(others, min(most, len(others)))
