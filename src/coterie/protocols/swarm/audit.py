"""Whether a training's chain in a home is what its voters agreed on: found out offline, from its folder and a hash.

In ``state/trainings/NAME-HASH/`` of a home lie ``contract``, the training's name, ``charter``, what the chain begins
with, and ``chain.sqlite``, the chain. Name and federation give the chain's genesis; beyond what any shared chain's
audit checks, the records must be those of merges that the rules allow (``state``), and no leave one of a site that has
checked in since.

What cannot be seen, beside what the chain's audit says: that the member who convened the training, and has signed the
charter, told others of another one. Compare the charter's id with what other sites have.
"""

from __future__ import annotations

from pathlib import Path

from coterie.errors import LedgerError, printable
from coterie.identity import PeerId as Key
from coterie.identity import short_name
from coterie.ledger.auditing import counted
from coterie.ledger.records import Record
from coterie.ledger.shared import Charter, Checkpoint, Leave, audit_shared, describe_shared
from coterie.ledger.shared.changes import read as read_change
from coterie.protocols.swarm import state as rules
from coterie.protocols.swarm.joins import is_back
from coterie.protocols.swarm.records import CHECK_IN, MERGE, Agreed, chain_genesis

TRAININGS = Path("state", "trainings")
CHAIN, CHARTER, CONTRACT = "chain.sqlite", "charter", "contract"
_MOST = 1 << 20


def audit_training(chain: Path, federation: bytes, start: bytes | None = None) -> tuple[bool, str]:
    """Whether the chain of a training of this federation (the id of its genesis record) is sound, and a report.

    ``start``: the id that its charter must have.
    """
    judge = MergeJudge()
    try:
        contract, charter = _beginning(chain, federation)
        result = audit_shared(chain, charter.genesis, start or charter.id, judge)
        result.pinned = start is not None
    except LedgerError as error:
        return False, f"The training's chain is NOT sound: {printable(error.what)}."
    merged = f"{counted(judge.merges, 'merge')} of {counted(judge.models, 'check-in')}."
    convened = f"Convened by {short_name(charter.founder)} {charter.founder}, who has signed its charter."
    return (
        result.fault is None,
        f"The training {printable(contract)!r}. {convened}\n{merged}\n{describe_shared(result, 'the one beside it')}",
    )


def _beginning(chain: Path, federation: bytes) -> tuple[str, Charter]:
    """The training's name, and what its chain must begin with, from beside it. Raises LedgerError."""
    try:
        contract = _read(chain.with_name(CONTRACT)).decode()
    except UnicodeDecodeError:
        raise LedgerError("its name is no text") from None
    charter = Charter.decode(_read(chain.with_name(CHARTER)))
    if charter.genesis != chain_genesis(federation, contract):
        raise LedgerError("its charter is not one of this training and this federation")
    return contract, charter


class MergeJudge:
    """A ``Judge`` of one chain's records, in their order: what a voter asks before it votes for them."""

    def __init__(self) -> None:
        self._agreed: Agreed | None = None
        self._state: rules.State | None = None
        self._check_ins: list[Record] = []
        self.merges = self.models = 0
        """How many there were, and check-ins that went into them."""

    def __call__(self, chain: Checkpoint, record: Record) -> str:
        """What is wrong with a checked record of the epoch that began with ``chain``; nothing for a good one."""
        try:
            if record.kind == CHECK_IN:
                self._check_ins.append(record)
            elif record.kind == MERGE:
                self._merge(chain, record)
            elif (change := read_change(record, chain.genesis)) is None:
                return "it does not belong into a training"
            elif isinstance(change.says, Leave):
                self._leave(chain, change.author, change.says)
        except LedgerError as error:
            return error.what
        return ""

    def _merge(self, chain: Checkpoint, record: Record) -> None:
        records, self._check_ins = [*self._check_ins, record], []
        found = rules.read_block(records, chain.genesis)
        if found is None or not found.check_ins:
            raise LedgerError("a merge of nothing")
        agreed = self._agreed = self._agreed or found.check_ins[0].says.agreed
        state = self._state or rules.State(beacon=chain.anchor, interval=agreed.sync_frequency)
        rules.require_merge(state, found, agreed, chain.voters, lambda key: True)
        self.merges, self.models = self.merges + 1, self.models + len(found.check_ins)
        self._state = rules.after(state, found, agreed, chain.voters, (chain.epoch, 0))

    def _leave(self, chain: Checkpoint, author: Key, leave: Leave) -> None:
        if self._state is None or self._state.epoch != chain.epoch + 1:
            raise LedgerError("a leave is recorded before a merge")
        if is_back(author, leave, self._state.checked_in):
            raise LedgerError("a site would leave that has checked in since")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MOST)
    except OSError as error:
        raise LedgerError(f"its {path.name} cannot be read: {error.strerror or error}") from None
