"""Jobs on their way: who does them, and what became of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from coterie.layout import Snapshot

_LAST = float("inf")


@dataclass(eq=False)
class Ticket:
    """A job and, once it is done, its outcome: the result, or the exception it raised."""

    lane: int
    job: Any
    due: float = _LAST
    """Virtual time of its end: who is due first is done first."""
    keep: object = None
    """Lives until the job is done, such as the snapshots it reads."""
    begun: bool = False
    done: bool = False
    outcome: Any = None
    report: Callable[[Any], None] | None = field(default=None, repr=False)
    """Called with the result of a job nobody waits for."""

    def finish(self, outcome: Any) -> None:
        """Note the outcome, and let go of what was kept."""
        self.outcome, self.done, self.keep = outcome, True, None

    def result(self) -> Any:
        """The result; raises what the job raised."""
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


class Executor(Protocol):
    """Does jobs. Tickets of one lane are done in the order they were begun."""

    def begin(self, tickets: Sequence[Ticket]) -> None:
        """Take these jobs on."""
        ...

    def hungry(self) -> bool:
        """Whether it would start at once on a job it were given, beside what it is doing."""
        ...

    def finish(self, ticket: Ticket) -> None:
        """Return when this job is done."""
        ...


def run_all(executor: Executor, tickets: Sequence[Ticket]) -> list[Any]:
    """The results of jobs outside a simulation. Raises what a job raised."""
    executor.begin(tickets)
    for ticket in tickets:
        executor.finish(ticket)
    return [ticket.result() for ticket in tickets]


class Jobs(Protocol):
    """Where a peer's learner takes its jobs. Those of one lane are done in the order they were given."""

    async def run(self, lane: int, job: Any, cost: float, keep: object = None, makes: Snapshot | None = None) -> Any:
        """The job's result; it takes ``cost`` seconds where time is virtual. ``keep`` lives until it is done.

        ``makes``: the snapshot that the job fills, if it does; its digest is known when the job is done.
        """
        ...

    def defer(self, lane: int, job: Any, report: Callable[[Any], None], keep: object = None) -> None:
        """Do the job before later ones of its lane; ``report(result)`` is called when it is done."""
        ...
