"""Everything that can go wrong, as one tree.

    CoterieError
    ├── SpecError            a spec, a command line or a setting is wrong          exit 2
    │   └── PluginError      a user's file or module cannot be used                exit 2
    ├── DataError            a data file or a partition cannot be used             exit 2
    ├── OutputError          a result cannot be written                            exit 2
    ├── ModelError           a module cannot be held as one flat vector            exit 2
    │   ├── LayoutMismatch   two vectors of different layouts would meet
    │   ├── StorageReplaced  a module no longer lives in its vector
    │   └── VectorBusy       a vector was touched while it is being trained
    ├── IdentityError        a key or a certificate cannot be used                exit 2
    ├── NetworkError         an address, a port or a needed package cannot be used exit 2
    ├── MembershipError      a policy, an invitation or a record of one is refused exit 2
    ├── LedgerError          a record, a block or a ledger is not what it must be  exit 1
    ├── MessageError         bytes from another peer are not a valid message       dropped and counted
    ├── PeerUnreachable      a peer did not answer in time, or is gone             handled by protocols
    ├── NodeError            a node cannot start, or refuses a command             exit 2
    └── RunError             a run could not go on                                 exit 1
        ├── TrainingDiverged a loss or a parameter is no longer finite
        ├── Deadlock         every peer waits and nothing will ever wake one
        └── WorkerLost       a worker process ended in the middle of its jobs

Each class has a stable ``code``. Each error says what happened, where (peer, round, key, file) and what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

_MOST_SHOWN = 400


class CoterieError(Exception):
    """Base of all errors: ``what`` happened, ``where``, and the ``remedy``."""

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.remedy = what, where, remedy
        self.result: object = None
        """The result of the run this error ended, where there was one."""

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        stop = "" if self.what.endswith((".", "!", "?", ":")) else "."
        advice = f"{stop} {self.remedy}" if self.remedy else ""
        return f"{place}{self.what}{advice}"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.where, self.remedy)

    def record(self) -> dict[str, str]:
        """The error as the ``error`` entry of ``result.json``."""
        return {"code": self.code, "what": self.what, "where": self.where, "remedy": self.remedy}


def _rebuild(kind: type[CoterieError], what: str, where: str, remedy: str) -> CoterieError:
    return kind(what, where=where, remedy=remedy)


class SpecError(CoterieError):
    code, exit_status = "spec", 2


class PluginError(SpecError):
    code = "plugin"


class DataError(CoterieError):
    code, exit_status = "data", 2


class OutputError(CoterieError):
    code, exit_status = "output", 2


class ModelError(CoterieError):
    code, exit_status = "model", 2


class LayoutMismatch(ModelError):
    code = "layout"


class StorageReplaced(ModelError):
    code = "storage"


class VectorBusy(ModelError):
    code = "busy"


class IdentityError(CoterieError):
    code, exit_status = "identity", 2


class NetworkError(CoterieError):
    code, exit_status = "network", 2


class MembershipError(CoterieError):
    code, exit_status = "membership", 2


class LedgerError(CoterieError):
    code = "ledger"


class MessageError(CoterieError):
    code = "message"


class PeerUnreachable(CoterieError):
    code = "unreachable"


class NodeError(CoterieError):
    code, exit_status = "node", 2


class RunError(CoterieError):
    code = "run"


class TrainingDiverged(RunError):
    code = "diverged"


class Deadlock(RunError):
    code = "deadlock"


class WorkerLost(RunError):
    code = "worker"


def printable(text: str) -> str:
    """What is shown of words from elsewhere: 400 characters, and "?" for what steers a terminal or ends a line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:_MOST_SHOWN])


def near_miss(word: str, known: Iterable[str]) -> str:
    """A sentence for an unknown ``word``: the nearest known one, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Known: {', '.join(names)}." if names else "None are known."
