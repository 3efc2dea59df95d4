"""The real session: a script in a swarm, by the node in its process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from typing import TypeVar

import torch

from coterie.aggregation.merging import prepare
from coterie.errors import NodeError
from coterie.layout import Layout
from coterie.protocols.swarm import Settings
from coterie.protocols.swarm.records import Agreed
from coterie.spec import Spec
from coterie.swarm.process import ProcessNode
from coterie.swarm.session import CheckIn, Merged, Terms
from coterie.swarm.training import Files, Training
from coterie.training.frameworks import Figures

_SAY = 30.0
"""Seconds between two lines about the same."""
_LEAVE = 15.0
"""Seconds that the others are given, at most, to have what this site has, before it leaves."""
_log = logging.getLogger("coterie.swarm")
T = TypeVar("T")


@dataclass
class Notices:
    """What the user is told while the script waits: at once, when it changes, and now and then."""

    name: Callable[[str], str]
    """Puts members' names for their ids."""
    _said: tuple[str, float] = ("", 0.0)

    def say(self, text: str | None) -> None:
        if text is None:
            if self._said[0]:
                _log.warning("the swarm goes on")
            self._said = ("", 0.0)
            return
        said, at = self._said
        if text != said or time.monotonic() >= at + _SAY:
            self._said = text, time.monotonic()
            _log.warning("%s", self.name(text))


@dataclass
class FederatedSession:
    """Implements ``AsyncSession``. ``find`` gives the node of this process, started."""

    find: Callable[[], Awaitable[ProcessNode]]
    _node: ProcessNode | None = None
    _training: Training | None = None
    _begun: tuple[Terms, Layout] | None = None

    async def begin(self, terms: Terms, layout: Layout, vector: torch.Tensor) -> Merged:
        self._begun = terms, layout
        training = await self._at_work()
        if training.over:
            _log.warning(
                "the training %r is over already: the model is its outcome. For a new training give another "
                "trainingContract",
                terms.contract,
            )
        return await training.site.bring(CheckIn(vector, 1, 0, 0, Figures(None, None)))

    async def sync(self, checkin: CheckIn) -> Merged:
        return await (await self._at_work()).site.bring(checkin)

    async def end(self, checkin: CheckIn) -> Merged:
        return await (await self._at_work()).site.bring(checkin, ending=True)

    async def close(self, figures: Figures | None) -> None:
        (training, self._training), (node, self._node) = (self._training, None), (self._node, None)
        if training is None or node is None:
            return
        part = node.part
        if figures is not None:
            await training.settle(_LEAVE)
        if part.trainings.get(training.terms.contract) is training:
            del part.trainings[training.terms.contract]
            part.names.discard(training.terms.contract)
            part.gatherings.leave(training.terms.contract)
            await training.close()

    async def _at_work(self) -> Training:
        """The training, at work; begun again where it had ended by an error."""
        if self._training is not None and not self._training.site.failed:
            return self._training
        await self.close(None)
        if self._begun is None:
            raise NodeError("the training has not begun", where="SwarmCallback", remedy="Call on_train_begin() first.")
        self._node = await self.find()
        self._training = await self._open(self._node, *self._begun)
        return self._training

    async def _open(self, process: ProcessNode, terms: Terms, layout: Layout) -> Training:
        part, node = process.part, process.node
        if terms.contract in part.names:
            raise NodeError(
                f"another callback of this process trains as {terms.contract!r}",
                where="SwarmCallback: trainingContract",
                remedy="Give each training a name of its own; close() a callback that is not used any more.",
            )
        part.names.add(terms.contract)
        if isinstance(terms.merge, str):  # this site may lead the first merge, and all wait for it
            asyncio.get_running_loop().run_in_executor(None, prepare, terms.merge)
        notices = Notices(lambda text: _named(text, process))
        try:
            spec = await _waiting(asyncio.shield(part.spec_checked), lambda: notices.say(part.why or None))
            files = Files(node.home.path, terms.contract)
            kept = files.charter
            agreed, begun = Agreed.of(terms, layout.hash), kept is not None and files.merges(kept) > 0
            charter = await part.gatherings.charter(
                terms.contract,
                agreed,
                layout.size,
                notices.say,
                spec.protocol.settings["quorum"],
                kept,
                begun=begun,
            )
            training = Training(node, charter, terms, layout, _settings(spec), notices.say)
        except BaseException:
            part.gatherings.leave(terms.contract)
            part.names.discard(terms.contract)
            raise
        notices.say(None)
        part.trainings[terms.contract] = training
        return training


def _settings(spec: Spec) -> Settings:
    """What the spec's ``[swarm]`` says of times; what the callbacks say comes from the scripts."""
    names = {each.name for each in fields(Settings)}
    return Settings(**{name: value for name, value in spec.protocol.settings.items() if name in names})


async def _waiting(future: asyncio.Future[T], tell: Callable[[], None]) -> T:
    """The outcome of ``future``; ``tell`` is called now and then meanwhile."""
    while not future.done():
        await asyncio.wait([future], timeout=1.0)
        if not future.done():
            tell()
    return future.result()


def _named(text: str, process: ProcessNode) -> str:
    for peer in process.node.roster.peers:
        called = process.part.waits.called(peer)
        text = text.replace(peer, called).replace(peer[:12], called)
    return text
