"""A swarm inside one process: its members' sessions meet on the background loop. A stand-in for a federation.

Every member that has joined takes part in every merge. One that ended waits for the others; one that left is no longer
waited for. Merges are weighted means in float64.
"""

import asyncio
import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace

import numpy as np
import torch

from coterie.errors import RunError
from coterie.swarm.embedded import EmbeddedSession
from coterie.swarm.session import Merged

DEADLINE = 60.0
TRAINING, SYNCING, ENDING = "training", "syncing", "ending"


class Meeting:
    def __init__(self, size, stop_after=None):
        self.size, self.stop_after = size, stop_after
        self.waiting: dict[Member, tuple[str, object, asyncio.Future]] = {}
        self.members: list[Member] = []
        self.layout = self.terms = self.vector = self.interval = None
        self.rounds, self.losses, self.checkins, self.finals = 0, [], [], []
        self.closed_with = []
        self._names = iter(range(1000))

    def session(self):
        return EmbeddedSession(Member(self, next(self._names)))

    def look(self):
        """Let those go on who wait for nobody any more."""
        joined = [member for member in self.members if member.state]
        if len(joined) < self.size and self.vector is None:
            return
        if self.vector is None:
            first = min(joined, key=lambda member: member.name)
            self.vector, self.interval = self.waiting[first][1].clone(), self.terms.sync_frequency
            self.release(joined)
            return
        syncing = [member for member in joined if member.state == SYNCING]
        if not joined or any(member.state == TRAINING for member in joined):
            return
        if len(syncing) >= self.terms.min_peers:
            self.merge(syncing)
            self.release(syncing)
        elif syncing:
            self.release(syncing, over=True)
        else:
            self.merge(joined)
            self.finals.append(digest(self.vector))
            self.release(joined, over=True)

    def merge(self, members):
        checkins = [self.waiting[member][1] for member in members]
        self.checkins.append([(checkin.weight, checkin.steps, checkin.epochs, checkin.figures) for checkin in checkins])
        weights = np.array([checkin.weight for checkin in checkins], float)
        if weights.sum():
            rows = np.stack([checkin.vector.numpy() for checkin in checkins]).astype(float)
            self.vector = torch.from_numpy((weights @ rows / weights.sum()).astype(np.float32))
        self.rounds += 1
        losses = [checkin.figures.loss for checkin in checkins if checkin.figures.loss is not None]
        if losses and self.terms.adaptive:
            mean = sum(losses) / len(losses)
            falls = not self.losses or mean < self.losses[-1]
            self.interval = self.interval * 2 if falls else max(1, self.interval // 2)
            self.losses.append(mean)

    def release(self, members, over=False):
        over = over or (self.stop_after is not None and self.rounds >= self.stop_after)
        merged = Merged(self.vector, self.rounds, len(members), self.interval, over)
        for member in members:
            member.state = TRAINING
            future = self.waiting.pop(member)[2]
            if not future.done():
                future.set_result(merged)


class Member:
    def __init__(self, meeting, name):
        self.meeting, self.name, self.state = meeting, name, None

    async def wait(self, state, what):
        self.state = state
        future = asyncio.get_running_loop().create_future()
        self.meeting.waiting[self] = (state, what, future)
        self.meeting.look()
        try:
            return await asyncio.wait_for(future, DEADLINE)
        except TimeoutError:
            raise RunError("nobody came") from None
        finally:
            self.meeting.waiting.pop(self, None)

    async def begin(self, terms, layout, vector):
        meeting = self.meeting
        meeting.layout, meeting.terms = meeting.layout or layout, meeting.terms or terms
        meeting.layout.require(layout.hash, f"member {self.name}")
        assert replace(terms, total_epochs=0) == replace(meeting.terms, total_epochs=0)
        meeting.members.append(self)
        if meeting.vector is not None:
            self.state = TRAINING
            return Merged(meeting.vector, meeting.rounds, 0, meeting.interval, False)
        return await self.wait(SYNCING, vector)

    async def sync(self, checkin):
        return await self.wait(SYNCING, checkin)

    async def end(self, checkin):
        return await self.wait(ENDING, checkin)

    async def close(self, figures):
        if self in self.meeting.members:
            self.meeting.members.remove(self)
            self.meeting.closed_with.append(figures)
        self.meeting.look()


def until(condition):
    """Wait for what another thread brings about."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.001)


def digest(vector):
    return hashlib.sha256(vector.numpy().tobytes()).hexdigest()


def together(*scripts):
    """Run each script in a thread of its own; what they return, or the error that came first. They must end in time."""
    barrier = threading.Barrier(len(scripts))

    def run(script):
        barrier.wait(DEADLINE)
        return script()

    with ThreadPoolExecutor(len(scripts)) as pool:
        futures = [pool.submit(run, script) for script in scripts]
        for future in as_completed(futures, DEADLINE * 2):
            future.result()  # raises: the others' errors are most often that this one did not come
        return [future.result() for future in futures]
