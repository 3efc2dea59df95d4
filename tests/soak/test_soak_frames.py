"""A member that sends noise and tampered frames to a node at work, for minutes: its federation finishes meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
import torch
from grown import grown, status
from network_world import Intruder, settled
from real_nodes import wait_until
from soak_world import audited, records
from tampering import tampered

from coterie.network import Codec, Envelope, MemorySnapshot, Message
from coterie.network.discovery import Addresses
from coterie.protocols import Model
from coterie.protocols.membership.spread import MembershipFetch, MembershipLog, MembershipNews
from coterie.protocols.peer import Pull
from coterie.runtime.node.chains import ChainHeadsAsk
from coterie.runtime.node.messages import ReachAsk, SpecAsk, StandingAsk
from coterie.runtime.node.processes import NodeProcess
from coterie.runtime.node.roster import Roster

pytestmark = pytest.mark.soak
SECONDS = float(os.environ.get("COTERIE_SOAK_SECONDS", "180"))
FRAMES = 10_000
"""At least."""
FRAMES_A_SECOND = 400.0
"""Below ``Limits.frames_a_second``: what is beyond would be dropped unread."""
STREAMS_A_SECOND = 9.0
"""Below ``Limits.streams_a_minute_of_a_peer``."""
STALLED = 60.0
"""Seconds without a round after which a federation no longer moves."""
GROWTH = 32 << 20
"""Bytes by which the node's resident memory may grow while frames come."""
ELEMENTS = 64 * 10 + 10
"""Of the model: ten classes, 64 pixels."""


def good_frames(genesis: bytes, layout: bytes) -> list[bytes]:
    """One of each kind that nodes send each other."""
    snapshot = MemorySnapshot(layout.hex(), torch.randn(ELEMENTS))
    messages: list[Message] = [
        StandingAsk(),
        SpecAsk(),
        ReachAsk(),
        ChainHeadsAsk(),
        Pull(0, "model"),
        Model(3, "model", snapshot, 100, 2),
        MembershipNews(9, bytes(32)),
        MembershipLog(0),
        MembershipFetch((genesis,)),
        Addresses((), ()),
    ]
    kinds = ("ask", "send", "reply")
    envelopes = [Envelope(kind, number, one) for kind in kinds for number, one in enumerate(messages)]
    return [b"".join(Codec().encode(envelope).chunks()) for envelope in envelopes]


async def fuzz(
    target: Any, key: Any, genesis: bytes, members: list[str], good: list[bytes], over: Callable
) -> tuple[int, int]:
    """Send until ``over(frames so far)``; the frames sent, and the streams they took."""
    dice, began = random.Random(11), time.monotonic()
    frames = streams = 0
    while not over(frames):
        await asyncio.sleep(max(0.0, streams / STREAMS_A_SECOND - (time.monotonic() - began)))
        async with Intruder(target, key) as intruder:
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError):
                await intruder.greet(genesis)
                streams += 1
                for _ in range(400):
                    await intruder.say(*tampered(dice, members, good))
                    frames += 1
                    ahead = frames / FRAMES_A_SECOND - (time.monotonic() - began)
                    if ahead > 0.1:
                        await asyncio.sleep(ahead)
    await settled()
    return frames, streams


def memory(node: NodeProcess) -> int:
    """Resident bytes of its process."""
    assert node.process is not None
    lines = Path(f"/proc/{node.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:"))


def test_fuzz(tmp_path: Path, rounds_in: Callable[[float], int], row: Callable[[str, object], None]) -> None:
    """The intruder is a member that has joined and holds a certificate; training needs the three others."""
    row("what", "tampered frames to one of three nodes")
    rounds = rounds_in(SECONDS)
    with grown(tmp_path, peers=3, rounds=rounds) as made:
        founder = made.nodes[0]
        made.start(founder)
        contact = f"127.0.0.1:{status(founder)['port']}"
        others = [made.admit(founder, contacts=[contact]) for _ in range(2)]
        intruder = made.admit(founder).home
        roster = Roster(intruder.path, intruder.table.federation)
        genesis, layout = roster.store.genesis, roster.genesis.layout
        roster.close()
        made.start(*others)

        wait_until("all train", lambda: all(status(node).get("round", -1) > 0 for node in made.nodes[:3]))
        before = [memory(node) for node in made.nodes[:3]]
        target = SimpleNamespace(address=contact, key=founder.home.transport)
        end = time.monotonic() + SECONDS
        furthest, moved = -1, time.monotonic()

        def over(frames: int) -> bool:
            nonlocal furthest, moved
            found = [status(node) for node in made.nodes[:3]]
            working = any(one["state"] != "done" for one in found)
            if (slowest := min(one["round"] for one in found)) > furthest:
                furthest, moved = slowest, time.monotonic()
            assert not working or time.monotonic() < moved + STALLED, f"a node stays at round {furthest}"
            return frames >= FRAMES and time.monotonic() > end and not working

        members = [node.peer for node in made.nodes]
        work = fuzz(target, intruder.transport, genesis, members, good_frames(genesis, layout), over)
        frames, streams = asyncio.run(work)
        grown_by = [memory(node) - one for node, one in zip(made.nodes[:3], before, strict=True)]
        refused = status(founder)["refused"].get(made.nodes[3].peer, 0)
        log = (founder.home.path / "node.log").read_text()
    for node in made.nodes[:3]:
        signed = [record.content["round"] for record in records(audited(node)[node.peer])]
        assert signed == list(range(rounds))
    assert grown_by[0] < GROWTH
    assert refused > FRAMES / 20
    assert "malformed frame" in log
    assert len(log) < 200 * (rounds + 4 * streams) + (1 << 16)
    more = [f"{one / (1 << 20):.0f}" for one in grown_by]
    row(
        "notes",
        f"{frames} frames, {streams} streams, {rounds} rounds; {more[0]} MiB more ({', '.join(more[1:])} in others)",
    )
