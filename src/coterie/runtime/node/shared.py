"""A node's shared chain: where its charter comes from, and the files it lies in.

    shared.start    what the chain starts from: the charter
    shared.sqlite   the chain

The founder asks the members that take part for their keys, signs the charter, and gives it to whoever asks; so does
everybody who has it. What comes is believed for the founder's signature.

Whether a peer may begin an empty log of its votes, or has lost one, is told by its own ledger, which others keep for
it: before it votes for the first time it records there that it takes part. So a home that was put together anew around
an old key, without its log, keeps silent until it knows that nothing it may have signed matters any more.

Threat model: the founder could sign two charters and tell them to different members; these then never agree on
anything, and whoever has both has its signatures under both.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from coterie.errors import CoterieError, LedgerError, OutputError
from coterie.files import write_file
from coterie.identity import PeerId, is_vrf_key, short_name
from coterie.identity.vrf import VrfKey
from coterie.ledger import Record
from coterie.ledger.encoding import Hash
from coterie.ledger.shared import Charter, SharedStore
from coterie.network import Message, message
from coterie.protocols import Peer
from coterie.protocols.consensus import ChainTerms, PeerChain, create, log
from coterie.protocols.consensus.messages import (
    ConsensusAhead,
    ConsensusCertificate,
    ConsensusProposal,
    ConsensusPull,
    ConsensusVote,
)
from coterie.runtime.node.charter import Charter as Members
from coterie.runtime.node.charter import now_ms

FILE, START = "shared.sqlite", "shared.start"
KIND = "shared chain"
_LOOK = 0.5
_ANSWER = 5.0
_MOST_CHARTER = 1 << 18
_log = logging.getLogger("coterie.chain")


@message
class VoterAsk(Message, frozen=True):
    """What is your public key for verifiable random functions?"""


@message
class VoterKey(Message, frozen=True):
    """This one, 32 bytes."""

    vrf: Hash


@message
class CharterAsk(Message, frozen=True):
    """What does the shared chain start from?"""


@message
class CharterText(Message, frozen=True):
    """This charter."""

    charter: Annotated[bytes, msgspec.Meta(max_length=_MOST_CHARTER)]


class NodeChain:
    """The shared chain of one node: ``open`` it when the protocol asks, ``close`` it with the node.

    ``say``: told what is waited for, and which members have not answered.
    """

    def __init__(self, folder: Path, members: Members, peer: Peer, say: Callable[[str, Sequence[PeerId]], Any]) -> None:
        self._folder, self._members, self._peer, self._say = folder, members, peer, say
        self._vrf = VrfKey.of(peer.identity).public
        self._charter: Charter | None = None
        self._store: SharedStore | None = None
        self._chain: PeerChain | None = None
        peer.handle(VoterAsk, lambda sender, question: VoterKey(self._vrf))
        peer.handle(CharterAsk, self._on_charter_ask)
        for kind in (ConsensusVote, ConsensusProposal, ConsensusCertificate, ConsensusAhead, ConsensusPull):
            peer.handle(kind, lambda sender, message: None)  # others may have begun already; consensus takes these over

    async def open(self, terms: ChainTerms) -> PeerChain:
        """The chain, once there is a charter. Raises LedgerError, and OutputError where the disk says no."""
        if self._chain is None:
            charter = self._charter = self._kept() or await self._obtained(terms)
            terms.require(charter)
            founding = self._members.store.record(charter.genesis)
            self._store = store = SharedStore(self._folder / FILE, charter, founding)
            if store.damage is not None:
                _log.warning("%s", store.damage)
            self._begin_log(charter)
            self._chain = PeerChain(store, self._known, self._known, now_ms)
        return self._chain

    @property
    def status(self) -> dict[str, Any] | None:
        """For the node's owner: where the chain stands; None while there is none.

        ``silent``: whom the height waits for, once its time is over.
        """
        chain, store = self._chain, self._store
        if chain is None or store is None:
            return None
        state, consensus = store.chain.state, chain.consensus
        height = consensus.stands[1] if consensus is not None else 0
        stuck = consensus.machine.missing() if consensus is not None and consensus.machine.fired else []
        return {
            "charter": store.start.id.hex(),
            "epoch": state.epoch,
            "final": store.chain.height,
            "height": height,
            "leader": state.leader(height) if height else None,
            "voters": [voter.key for voter in state.voters.members],
            "silent": [state.voters.members[place].key for place in stuck],
        }

    def close(self) -> None:
        if self._store is not None:
            self._store.close()

    # The charter

    def _kept(self) -> Charter | None:
        path = self._folder / START
        try:
            return self._read(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LedgerError(
                f"what the shared chain starts from cannot be read: {error.strerror or error}",
                where=str(path),
                remedy="Check the permissions.",
            ) from None
        except LedgerError as error:
            _log.warning("%s is no good (%s): the others are asked for it", path, error)
            return None

    def _read(self, data: bytes) -> Charter:
        """A charter of this federation's founder. Raises LedgerError."""
        charter = Charter.decode(data)
        if (charter.genesis, charter.founder) != (self._members.store.genesis, self._members.founder):
            raise LedgerError("a charter of another federation, or by another founder")
        return charter

    async def _obtained(self, terms: ChainTerms) -> Charter:
        while True:
            own = self._peer.id
            others = self._members.others(own)
            charter = await self._of_others(others)
            if charter is None and own == self._members.founder:
                charter = await self._founded(terms)
            if charter is not None:
                self._keep(charter)
                return charter
            await self._say("waits for the charter of the shared chain, which the founder signs", others)
            await asyncio.sleep(_LOOK)

    async def _of_others(self, others: Sequence[PeerId]) -> Charter | None:
        for peer, answer in zip(others, await self._peer.ask_all(others, CharterAsk(), _ANSWER), strict=True):
            if isinstance(answer, CharterText) and answer.charter:
                try:
                    return self._read(answer.charter)
                except LedgerError as error:
                    self._peer.metrics.dropped(peer, error)
        return None

    async def _founded(self, terms: ChainTerms) -> Charter | None:
        """The charter, signed, once all who are to vote have told their keys."""
        weights = terms.weights or {peer: 1 for peer in self._peer.members if self._members.membership_has(peer)}
        keys = {self._peer.id: self._vrf}
        others = [peer for peer in weights if peer != self._peer.id]
        answers = await self._peer.ask_all(others, VoterAsk(), _ANSWER)
        for peer, answer in zip(others, answers, strict=True):
            if isinstance(answer, VoterKey) and is_vrf_key(answer.vrf):
                keys[peer] = answer.vrf
        if silent := [peer for peer in weights if peer not in keys]:
            names = ", ".join(map(short_name, silent))
            await self._say(f"cannot found the shared chain before all voters have told their keys: {names}", silent)
            return None
        voters = {peer: (keys[peer], weight) for peer, weight in weights.items()}
        return terms.charter(self._peer.identity, self._members.store.genesis, voters)

    def _keep(self, charter: Charter) -> None:
        path = self._folder / START
        try:
            write_file(path, charter.encode())
        except OSError as error:
            raise OutputError(
                f"the charter cannot be written: {error.strerror or error}", where=str(path), remedy="Make room."
            ) from None

    def _on_charter_ask(self, sender: PeerId, question: CharterAsk) -> CharterText:
        """Also before this node's protocol has begun, and after its end."""
        try:
            self._charter = self._charter or self._kept()
        except CoterieError as error:
            _log.error("%s", error)
        return CharterText(b"" if self._charter is None else self._charter.encode())

    # Who is who, and what was said before

    def _known(self, peer: PeerId) -> PeerId | None:
        return peer if self._members.membership_has(peer) else None

    def _begin_log(self, charter: Charter) -> None:
        """Begin the log of this peer's votes, unless it has taken part before."""
        content, own = {"start": charter.id.hex()}, self._peer
        recorded = any(record.kind == KIND and record.content == content for record in self._own_records())
        if not recorded and log.read(own.store, charter.genesis) is None:
            create(own.store, charter.genesis)
        if not recorded:
            own.ledger.append(KIND, content)

    def _own_records(self) -> list[Record]:
        store, found, height = self._members.store, list[Record](), 0
        while blocks := store.blocks(self._peer.id, height):
            height += len(blocks)
            found += [Record.decode(data) for full in blocks for data in full.records]
        return found
