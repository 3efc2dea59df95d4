"""The shared chain in memory: for the simulation, where a crash loses nothing that a disk would keep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from coterie.ledger.records import RecordId
from coterie.ledger.shared.blocks import FullSharedBlock
from coterie.ledger.shared.chain import CheckedBlock, SharedChain
from coterie.ledger.shared.charter import Charter, Checkpoint, state_of
from coterie.ledger.shared.ledger import Row, SharedLedger
from coterie.ledger.shared.signatures import Signatures


class SharedMemory(SharedLedger):
    """Like a SharedStore, without a file."""

    def __init__(self, start: Charter | Checkpoint, known: Signatures | None = None) -> None:
        state = state_of(start)
        self._begin(start, SharedChain.begin(state), known)
        self._epochs: dict[int, dict[int, Row]] = {}
        self._checkpoints = {state.epoch: state}
        self._places: dict[RecordId, tuple[FullSharedBlock, int]] = {}

    def checkpoint(self, epoch: int) -> Checkpoint | None:
        return self._checkpoints.get(epoch)

    def _write(self, rows: Sequence[tuple[Row, CheckedBlock]], state: Checkpoint | None) -> None:
        for row, checked in rows:
            self._epochs.setdefault(checked.block.epoch, {})[checked.block.height] = row
            for index, record in enumerate(checked.records):
                self._places.setdefault(record.id, (row.full, index))
        if state is not None:
            self._checkpoints[state.epoch] = state

    def _rows(self, epoch: int, height: int, limit: int) -> Iterator[Row]:
        held = self._epochs.get(epoch, {})
        for above in [above for above in held if above > height][:limit]:  # they were added in order
            yield held[above]

    def _place(self, record_id: RecordId) -> tuple[FullSharedBlock, int] | None:
        return self._places.get(record_id)
