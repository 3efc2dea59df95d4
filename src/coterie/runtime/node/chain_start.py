"""What a node's shared chain starts from: the founder's charter, or a checkpoint.

    shared.start    it, once it is known
    shared.pin      epoch and id of the checkpoint that it must be, where this peer has joined by an invitation

The founder asks the members that take part for their keys, signs the charter, and gives it to whoever asks; so does
everybody who has it. What comes is believed for the founder's signature. A newcomer is told the id of the present
checkpoint by who lets it in, at the join port that its invitation names, and begins with that one: so it cannot be
shown another history, written with stolen keys of earlier voters.

Threat model: the founder could sign two charters and tell them to different members; these then never agree on
anything, and whoever has both has its signatures under both. Who lets a newcomer in could tell it a false checkpoint,
as it could tell it of a false federation.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from coterie.errors import CoterieError, LedgerError
from coterie.files import write_file, writing
from coterie.identity import PeerId, is_vrf_key, short_name
from coterie.identity.vrf import VrfKey
from coterie.ledger.encoding import Hash, Height
from coterie.ledger.shared import Charter, Checkpoint
from coterie.ledger.shared.charter import decode_start
from coterie.network import Message, message
from coterie.protocols import Peer
from coterie.protocols.consensus import ChainTerms
from coterie.runtime.node.roster import Roster

START, PIN = "shared.start", "shared.pin"
_LOOK = 0.5
_ANSWER = 5.0
_MOST_START = 15 << 16
_log = logging.getLogger("coterie.chain")
_pin = msgspec.msgpack.Decoder(tuple[int, bytes])


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

    charter: Annotated[bytes, msgspec.Meta(max_length=_MOST_START)]


@message
class CheckpointAsk(Message, frozen=True):
    """What did this epoch begin with?"""

    epoch: Height


@message
class CheckpointText(Message, frozen=True):
    """With this checkpoint; empty where the sender does not know."""

    checkpoint: Annotated[bytes, msgspec.Meta(max_length=_MOST_START)]


def save_pin(folder: Path, pin: tuple[int, bytes]) -> None:
    """Write down which checkpoint a new node must begin with: its epoch and id. Raises OutputError."""
    _write(folder / PIN, msgspec.msgpack.encode(pin))


class ChainStart:
    """Where one node gets it, and gives it to others. ``say``: see ``NodeChain``."""

    def __init__(self, folder: Path, roster: Roster, peer: Peer, say: Callable[[str, Sequence[PeerId]], Any]) -> None:
        self._folder, self._roster, self._peer, self._say = folder, roster, peer, say
        self._vrf = VrfKey.of(peer.identity, roster.store.genesis).public
        self._found: Charter | Checkpoint | None = None
        peer.handle(VoterAsk, lambda sender, question: VoterKey(self._vrf))
        peer.handle(CharterAsk, self._on_charter_ask)

    async def get(self, terms: ChainTerms) -> Charter | Checkpoint:
        """It, once it is known; the founder signs a charter by these terms. Raises LedgerError, OutputError."""
        self._found = self._kept() or await self._obtained(terms)
        terms.require(self._found)
        return self._found

    def _kept(self) -> Charter | Checkpoint | None:
        data = _read(self._folder / START)
        if data is None:
            return None
        try:
            return self._believed(decode_start(data))
        except LedgerError as error:
            _log.warning("%s is no good (%s): the others are asked for it", self._folder / START, error)
            return None

    def _believed(self, start: Charter | Checkpoint) -> Charter | Checkpoint:
        """A charter by this federation's founder, or the checkpoint that is pinned. Raises LedgerError."""
        pin = self._pinned()
        if isinstance(start, Charter) and pin is None:
            good = (start.genesis, start.founder) == (self._roster.store.genesis, self._roster.founder)
        else:
            good = start.genesis == self._roster.store.genesis and pin == (_epoch(start), start.id)
        if not good:
            raise LedgerError("not what this federation's shared chain starts from")
        return start

    def _pinned(self) -> tuple[int, bytes] | None:
        data = _read(self._folder / PIN)
        try:
            return None if data is None else _pin.decode(data)
        except (msgspec.MsgspecError, ValueError):
            raise LedgerError(
                "which checkpoint the shared chain starts from is written there, and cannot be read",
                where=str(self._folder / PIN),
                remedy="Join again with a new invitation and a new --home; the old key can be succeeded.",
            ) from None

    async def _obtained(self, terms: ChainTerms) -> Charter | Checkpoint:
        own, pin = self._peer.id, self._pinned()
        while True:
            others = self._roster.others(own)
            start = await self._of_others(others, pin)
            if start is None and pin is None and own == self._roster.founder:
                start = await self._founded(terms)
            if start is not None:
                _write(self._folder / START, start.encode())
                return start
            what = "charter of the shared chain, which the founder signs"
            await self._say(f"waits for the {what if pin is None else 'checkpoint that it joined with'}", others)
            await asyncio.sleep(_LOOK)

    async def _of_others(self, others: Sequence[PeerId], pin: tuple[int, bytes] | None) -> Charter | Checkpoint | None:
        question = CharterAsk() if pin is None else CheckpointAsk(pin[0])
        for peer, answer in zip(others, await self._peer.ask_all(others, question, _ANSWER), strict=True):
            data = answer.charter if isinstance(answer, CharterText) else b""
            data = answer.checkpoint if isinstance(answer, CheckpointText) else data
            try:
                if data:
                    return self._believed(decode_start(data))
            except LedgerError as error:
                self._peer.metrics.dropped(peer, error)
        return None

    async def _founded(self, terms: ChainTerms) -> Charter | None:
        """The charter, signed, once all who are to vote have told their keys."""
        weights = terms.weights or {peer: 1 for peer in self._peer.members if self._roster.membership_has(peer)}
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
        return terms.charter(self._peer.identity, self._roster.store.genesis, voters)

    def _on_charter_ask(self, sender: PeerId, question: CharterAsk) -> CharterText:
        """Also before this node's protocol has begun, and after its end."""
        try:
            self._found = self._found or self._kept()
        except CoterieError as error:
            _log.error("%s", error)
        return CharterText(self._found.encode() if isinstance(self._found, Charter) else b"")


def _epoch(start: Charter | Checkpoint) -> int:
    return start.epoch if isinstance(start, Checkpoint) else 0


def _read(path: Path) -> bytes | None:
    """Raises LedgerError for a file that is there and cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LedgerError(
            f"what the shared chain starts from cannot be read: {error.strerror or error}",
            where=str(path),
            remedy="Check the permissions.",
        ) from None


def _write(path: Path, content: bytes) -> None:
    with writing(path, "what the shared chain starts from"):
        write_file(path, content)
