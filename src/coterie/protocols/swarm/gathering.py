"""How sites come together to begin a training: who is there founds its chain, and who comes later is given it.

    1  A site asks all members whether they train under this name. Who does, and knows the chain's charter, gives it.
    2  Of those who still gather, the first in the members' order convenes. Once ``min_peers`` are there, and it has
       found the same ones twice, it offers a charter with all of them as voters.
    3  Who takes that one for the convener too promises itself; a promise is to one, and good for some seconds.
    4  When all have promised, the convener tells them to begin. If it dies meanwhile, the promises end, and those who
       were told have the charter for the others.

A site that was there before and has merged nothing yet looks for the others' charter first: its own may be one that
nobody else has.

Threat model: as the training's own quorum is for members that crash and do not lie, so is this. A member that lies can
give a newcomer a charter of its own; where several are given, the one that most give is taken. Nothing secret is told:
the names of trainings and their settings are for all members.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec

from coterie.errors import LedgerError, MessageError, SpecError
from coterie.identity.vrf import VrfKey, is_vrf_key
from coterie.ledger.encoding import Hash, pack
from coterie.ledger.shared import Charter, QuorumRule, Voter, Voters
from coterie.network import Message, message
from coterie.protocols.peer import Peer, PeerId
from coterie.protocols.swarm.joins import LASTS
from coterie.protocols.swarm.records import Agreed, Name, chain_genesis

_LOOK = 0.5
"""Seconds between two looks at who is there."""
_ANSWER = 2.0
_PROMISE = 10.0
"""Seconds for which a promise is good."""
_MOST_NAMED = 32
_Charter = Annotated[bytes, msgspec.Meta(max_length=1 << 19)]


@message
class GatherAsk(Message, frozen=True):
    """I would train under this name, by these terms: are you in it?"""

    contract: Name
    agreed: Agreed
    size: Annotated[int, msgspec.Meta(ge=1, lt=1 << 40)]
    """Elements of the sender's model."""
    vrf: Hash


@message
class GatherAnswer(Message, frozen=True):
    """Where the sender stands."""

    trains: Annotated[tuple[Name, ...], msgspec.Meta(max_length=_MOST_NAMED)]
    """Names of all its trainings."""
    own: GatherAsk | None
    """Its own question, where it trains under that name."""
    charter: _Charter
    """Of that training, where it has begun; else empty."""
    waited: Annotated[int, msgspec.Meta(ge=0, lt=1 << 48)]
    """Milliseconds since the sender would train under that name."""


@message
class CharterOffer(Message, frozen=True):
    """Would you begin with this charter?"""

    contract: Name
    charter: _Charter


@message
class CharterPromise(Message, frozen=True):
    given: bool


@message
class CharterBegin(Message, frozen=True):
    """All have promised: begin."""

    contract: Name
    charter: _Charter


@dataclass
class _Wish:
    """One training that this site is in, or would be in."""

    ask: GatherAsk
    began: float
    charter: Charter | None = None
    present: Mapping[PeerId, GatherAsk] = field(default_factory=dict)
    """The others that gather, as of the last look."""
    differ: Mapping[PeerId, str] = field(default_factory=dict)
    """Those that came later and train on other terms, and in what."""
    promised: tuple[PeerId, float] = ("", 0.0)
    """To whom, and until when."""


class Gatherings:
    """One member's part in beginning trainings.

    ``federation``: id of the genesis record. ``members``: all members now, this one too, in an order all agree on.
    ``called``: how a member is shown to people.
    """

    def __init__(
        self, peer: Peer, federation: bytes, members: Callable[[], Sequence[PeerId]], called: Callable[[PeerId], str]
    ) -> None:
        self._peer, self._federation, self._members, self._called = peer, federation, members, called
        self._wishes: dict[str, _Wish] = {}
        peer.handle(GatherAsk, self._on_ask)
        peer.handle(CharterOffer, self._on_offer)
        peer.handle(CharterBegin, self._on_begin)

    async def charter(
        self,
        contract: str,
        agreed: Agreed,
        size: int,
        say: Callable[[str], None],
        quorum: Literal["majority", "two thirds"] = "majority",
        kept: Charter | None = None,
        begun: bool = False,
    ) -> Charter:
        """The charter of the training with this name, once there is one; ``leave`` must follow.

        ``size``: elements of the model. ``say``: told what is waited for. ``quorum``: of the voters, where this site
        convenes. ``kept``: the charter it had before; ``begun``: and has merged with. Raises SpecError where others,
        who were there before, train on other terms.
        """
        vrf = VrfKey.of(self._peer.identity, chain_genesis(self._federation, contract)).public
        wish = self._wishes[contract] = _Wish(GatherAsk(contract, agreed, size, vrf), self._peer.clock.time())
        if kept is not None and begun:
            wish.charter = kept
        before: list[PeerId] | None = None
        while wish.charter is None:
            answers = await self._look(wish)
            wish.charter = wish.charter or self._given(contract, answers) or kept
            if wish.charter is not None:
                break
            present = self._present(wish)
            if len(present) < agreed.min_peers:
                say(self._told(wish, answers))
            if len(present) >= agreed.min_peers and present[0] == self._peer.id and present == before:
                await self._convene(wish, present, quorum)
            before = present
            if wish.charter is None:
                await asyncio.sleep(_LOOK)
        return wish.charter

    def leave(self, contract: str) -> None:
        """This site is in that training no more."""
        self._wishes.pop(contract, None)

    # Asking

    async def _look(self, wish: _Wish) -> dict[PeerId, GatherAnswer]:
        """What the others answer. Raises SpecError where one that was there before trains on other terms."""
        others = [peer for peer in self._members() if peer != self._peer.id]
        replies = await self._peer.ask_all(others, wish.ask, _ANSWER)
        answers = {p: r for p, r in zip(others, replies, strict=True) if isinstance(r, GatherAnswer)}
        with_it = {p: a.own for p, a in answers.items() if a.own is not None and a.own.contract == wish.ask.contract}
        differ = {peer: text for peer, own in with_it.items() if (text := _difference(wish.ask, own))}
        waited = self._waited(wish)
        earlier = {p: text for p, text in differ.items() if answers[p].charter or answers[p].waited >= waited}
        if earlier:
            told = "; ".join(f"at {self._called(peer)}: {text}" for peer, text in earlier.items())
            raise SpecError(
                f"the others train on other terms: {told}",
                where=f"trainingContract {wish.ask.contract}",
                remedy="Use the same model and settings at all sites, or another trainingContract.",
            )
        wish.differ = differ
        wish.present = {
            p: own
            for p, own in with_it.items()
            if p not in differ and not answers[p].charter and is_vrf_key(own.vrf)  # of which a charter can be made
        }
        return {peer: answer for peer, answer in answers.items() if peer not in differ}

    def _given(self, contract: str, answers: Mapping[PeerId, GatherAnswer]) -> Charter | None:
        """The charter that the most give; among equals the one with the most voters."""
        given: Counter[bytes] = Counter()
        found: dict[bytes, Charter] = {}
        for peer, answer in answers.items():
            if answer.own is not None and answer.charter:
                try:
                    charter = self._read(contract, answer.charter)
                except MessageError as error:
                    self._peer.metrics.dropped(peer, error)
                    continue
                given[charter.id] += 1
                found[charter.id] = charter
        return max(found.values(), key=lambda c: (given[c.id], len(c.voters), c.id)) if found else None

    def _present(self, wish: _Wish) -> list[PeerId]:
        return [peer for peer in self._members() if peer == self._peer.id or peer in wish.present]

    def _told(self, wish: _Wish, answers: Mapping[PeerId, GatherAnswer]) -> str:
        """What is waited for, for the user."""
        present, needed, contract = self._present(wish), wish.ask.agreed.min_peers, wish.ask.contract
        told = f"waits for sites: {len(present)} of at least {needed} (minPeers) train as {contract!r}"
        elsewhere = [
            f"{self._called(peer)} trains {', '.join(map(repr, answer.trains))}"
            for peer, answer in answers.items()
            if answer.own is None and answer.trains
        ]
        known = {*present, *wish.differ, *(peer for peer, answer in answers.items() if answer.own or answer.trains)}
        idle = [peer for peer in self._members() if peer not in known]
        if idle:
            elsewhere.append(f"not started: {', '.join(map(self._called, idle))}")
        elsewhere += [f"{self._called(peer)} trains on other terms: {text}" for peer, text in wish.differ.items()]
        if len(self._members()) < needed:
            elsewhere.append(f"the federation has {len(self._members())} members: invite others")
        return "; ".join([told, *elsewhere])

    # Beginning

    async def _convene(self, wish: _Wish, present: Sequence[PeerId], quorum: Literal["majority", "two thirds"]) -> None:
        own = self._peer
        if self._is_promised(wish, own.id):
            return
        wish.promised = (own.id, own.clock.time() + _PROMISE)
        charter = self._draft(wish, present, quorum)
        others = [peer for peer in present if peer != own.id]
        offer = CharterOffer(wish.ask.contract, charter.encode())
        replies = await own.ask_all(others, offer, _ANSWER)
        if all(isinstance(reply, CharterPromise) and reply.given for reply in replies) and wish.charter is None:
            wish.charter = charter
            for peer in others:
                own.send(peer, CharterBegin(wish.ask.contract, offer.charter))
        wish.promised = ("", 0.0)

    def _draft(self, wish: _Wish, present: Sequence[PeerId], quorum: Literal["majority", "two thirds"]) -> Charter:
        keys = {peer: ask.vrf for peer, ask in wish.present.items()} | {self._peer.id: wish.ask.vrf}
        voters = Voters.of(Voter(peer, keys[peer], 1) for peer in present)
        genesis = chain_genesis(self._federation, wish.ask.contract)
        beacon = hashlib.sha256(pack((genesis, voters.hash))).digest()
        rule = QuorumRule(quorum, wish.ask.agreed.min_peers)
        # A key that has left is locked for evidence against it to count: against liars, whom a majority does not bear.
        lock = {"lock_epochs": LASTS} if quorum == "majority" else {}
        return Charter.make(self._peer.identity, genesis, voters, beacon, rule, **lock)

    def _read(self, contract: str, data: bytes) -> Charter:
        """A charter of this training. Raises MessageError."""
        try:
            charter = Charter.decode(data)
        except LedgerError as error:
            raise MessageError(error.what) from None
        if charter.genesis != chain_genesis(self._federation, contract):
            raise MessageError("a charter of another training")
        return charter

    def _is_promised(self, wish: _Wish, to: PeerId) -> bool:
        """Whether it is promised to somebody else."""
        whom, until = wish.promised
        return whom not in ("", to) and self._peer.clock.time() < until

    # Answering

    def _on_ask(self, sender: PeerId, ask: GatherAsk) -> GatherAnswer:
        trains = tuple(sorted(self._wishes))[:_MOST_NAMED]
        wish = self._wishes.get(ask.contract)
        if wish is None:
            return GatherAnswer(trains, None, b"", 0)
        if wish.charter is None and not _difference(wish.ask, ask) and is_vrf_key(ask.vrf):
            wish.present = {**wish.present, sender: ask}
        charter = wish.charter.encode() if wish.charter is not None else b""
        return GatherAnswer(trains, wish.ask, charter, self._waited(wish))

    def _waited(self, wish: _Wish) -> int:
        return max(0, int(1000 * (self._peer.clock.time() - wish.began)))

    def _on_offer(self, sender: PeerId, offer: CharterOffer) -> CharterPromise:
        wish = self._wishes.get(offer.contract)
        if wish is None or wish.charter is not None or self._is_promised(wish, sender):
            return CharterPromise(False)
        charter = self._read(offer.contract, offer.charter)
        place = charter.voters.index(self._peer.id)
        first = self._present(wish)[0]
        good = place is not None and charter.voters.members[place].vrf == wish.ask.vrf and charter.founder == sender
        if not good or first != sender:
            return CharterPromise(False)
        wish.promised = (sender, self._peer.clock.time() + _PROMISE)
        return CharterPromise(True)

    def _on_begin(self, sender: PeerId, begin: CharterBegin) -> None:
        wish = self._wishes.get(begin.contract)
        if wish is None or wish.charter is not None or wish.promised[0] != sender:
            return
        wish.charter = self._read(begin.contract, begin.charter)


def _difference(here: GatherAsk, there: GatherAsk) -> str:
    """In what two sites differ; empty where they do not."""
    if here.agreed.layout != there.agreed.layout:
        sizes = f"{here.size:,} numbers here and {there.size:,} there"
        same_size = "in names, shapes, dtypes or order, or in the frozen base of an adapter"
        alike = same_size if here.size == there.size else sizes
        rest = here.agreed.against(msgspec.structs.replace(there.agreed, layout=here.agreed.layout))
        return f"the model is another one ({alike})" + (f", {rest}" if rest else "")
    return here.agreed.against(there.agreed)
