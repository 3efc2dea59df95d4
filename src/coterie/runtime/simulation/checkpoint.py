"""A federation at a barrier, written to the folder ``checkpoint`` of its run directory, and read back.

Vectors go into safetensors files of at most ``_FILE`` bytes, everything else into ``state.msgpack``, which names them
and is replaced last and at once: whenever the process is killed, one whole checkpoint is there, or none.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from coterie.errors import DataError, LedgerError, OutputError
from coterie.protocols import Mixed, Model, PeerMemory
from coterie.protocols.patience import Patience
from coterie.runtime.results import RunDirectory
from coterie.runtime.simulation.chains import SimulatedChains
from coterie.runtime.simulation.federation import Federation, Member
from coterie.runtime.work.memory import Arena
from coterie.runtime.work.packing import Packer, Unpacker

_SCHEMA = "coterie.checkpoint/3"
_FILE = 1 << 27
_STATE = "checkpoint/state.msgpack"
Shown = tuple[list[float], int]


class _SavedMember(msgspec.Struct):
    store: Any
    vector: str
    base: str
    velocity: str | None
    optimizer: list[str]
    count: int
    steps: int
    local: Any
    published: list[tuple[int, str, str, int, int]]
    """(round, channel, vector, samples, degree)."""
    patience: list[tuple[str, Shown]]
    patience_with_all: Shown
    weights: dict[str, float] | None
    trust: dict[str, float] | None
    starts: int
    finished: bool
    chain: list[bytes] = []
    """The shared chain: its charter, and batches of final blocks; empty where there is none."""


class Saved(msgspec.Struct):
    """A checkpoint without its vectors."""

    schema: str
    spec_hash: str
    data: int
    """The fingerprint of the data set."""
    segment: int
    now: float
    seconds: float
    """Real time that the run had taken."""
    metrics_bytes: int
    bytes_sent: dict[str, int]
    frames_sent: int
    dropped: dict[str, int]
    members: list[_SavedMember]
    files: list[str]


def save(directory: RunDirectory, federation: Federation, arena: Arena, data: int, seconds: float) -> None:
    """Write a checkpoint in place of the one before. Raises OutputError, and PluginError for what cannot be written.

    ``data``: the fingerprint of the data set; ``seconds``: real time that the run has taken.
    """
    packer = Packer(arena, "run.checkpoint_every", "; or set run.checkpoint_every = 0")
    members = [_save_member(member, packer, federation.chains) for member in federation.members]
    folder = directory.path / "checkpoint"
    files = _write_vectors(folder, f"{federation.segment:06d}", packer.tensors)
    saved = Saved(
        schema=_SCHEMA,
        spec_hash=federation.spec.hash,
        data=data,
        segment=federation.segment,
        now=federation.now,
        seconds=seconds,
        metrics_bytes=directory.flush_metrics(),
        bytes_sent=federation.network.bytes_sent,
        frames_sent=federation.network.frames_sent,
        dropped=federation.observer.dropped,
        members=members,
        files=files,
    )
    directory.write(_STATE, msgspec.msgpack.encode(saved))
    for path in folder.glob("*.safetensors"):
        if path.name not in files:
            with suppress(OSError):
                path.unlink()


def load(directory: RunDirectory) -> Saved | None:
    """The checkpoint in a run directory, without its vectors; None where there is none."""
    path = directory.path / _STATE
    try:
        saved = msgspec.msgpack.decode(path.read_bytes(), type=Saved)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise _damaged(path, error) from None
    if saved.schema != _SCHEMA:
        raise DataError(
            f"the schema is {saved.schema!r}, not {_SCHEMA!r}",
            where=str(path),
            remedy="Use the version of Coterie that wrote it, or run the spec again.",
        )
    return saved


def restore(directory: RunDirectory, saved: Saved, federation: Federation, arena: Arena) -> None:
    """Bring a federation that has not run yet to where ``saved`` stood."""
    unpacker = Unpacker(arena, federation.place.layout.hash)
    for name in saved.files:
        path = directory.path / "checkpoint" / name
        try:
            with safe_open(path, "pt") as file:
                unpacker.tensors.update({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118 - not a mapping
        except (OSError, SafetensorError) as error:
            raise _damaged(path, error) from None
    federation.segment, federation.now = saved.segment, saved.now
    federation.network.bytes_sent, federation.network.frames_sent = saved.bytes_sent, saved.frames_sent
    federation.observer.dropped = saved.dropped
    try:
        for member, kept in zip(federation.members, saved.members, strict=True):
            _restore_member(member, kept, unpacker)
            member.chain = federation.chains.restore(kept.chain) if kept.chain else None
    except (LedgerError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise _damaged(directory.path / _STATE, error) from None


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"the checkpoint is damaged: {error}", where=str(path), remedy="Run the spec again.")


def _save_member(member: Member, packer: Packer, chains: SimulatedChains) -> _SavedMember:
    state, memory = member.learner.state, member.memory
    return _SavedMember(
        store=packer.pack(member.store.values, f"the store of {member.id}"),
        vector=packer.block(state.vector),
        base=packer.block(state.base),
        velocity=None if state.velocity is None else packer.block(state.velocity),
        optimizer=[packer.block(block) for block in state.optimizer],
        count=state.count,
        steps=state.steps,
        local=packer.pack(state.local, f"the module of {member.id}"),
        published=[
            (model.round, channel, packer.snapshot(model.vector), model.samples, model.degree)
            for channel, model in memory.published.items()
        ],
        patience=[(peer, patience.shown) for peer, patience in memory.patience.items()],
        patience_with_all=memory.patience_with_all.shown,
        weights=dict(member.mixed.weights) if member.mixed else None,
        trust=dict(member.mixed.trust) if member.mixed and member.mixed.trust is not None else None,
        starts=member.starts,
        finished=member.finished,
        chain=[] if member.chain is None else chains.save(member.chain),
    )


def _restore_member(member: Member, kept: _SavedMember, unpacker: Unpacker) -> None:
    member.store.values = unpacker.unpack(kept.store)
    base = None if kept.base == kept.vector else unpacker.snapshot(kept.base)
    state = member.learner.restore(base, kept.count, kept.steps, unpacker.unpack(kept.local))
    blocks = [state.vector, *([] if state.velocity is None else [state.velocity]), *state.optimizer]
    names = [kept.vector, *([] if kept.velocity is None else [kept.velocity]), *kept.optimizer]
    for block, name in zip(blocks, names, strict=True):
        unpacker.arena[block].copy_(unpacker.tensors[name])
    with_all = Patience.of(kept.patience_with_all)
    member.memory = PeerMemory(
        {
            channel: Model(round, channel, unpacker.snapshot(vector), samples, degree)
            for round, channel, vector, samples, degree in kept.published
        },
        {peer: Patience.of(shown, with_all) for peer, shown in kept.patience},
        with_all,
    )
    if kept.weights is not None:
        member.mixed = Mixed(kept.weights, kept.trust, None, ())
    member.starts, member.finished = kept.starts, kept.finished


def _write_vectors(folder: Path, name: str, tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """safetensors files of about ``_FILE`` bytes each, on disk when this returns; their names."""
    files: list[str] = []
    batch: dict[str, torch.Tensor] = {}
    remaining = len(tensors)
    size = 0
    try:
        folder.mkdir(exist_ok=True)
        for key, tensor in tensors.items():
            batch[key] = tensor.detach().clone(memory_format=torch.contiguous_format)
            size += tensor.nbytes
            remaining -= 1
            if size >= _FILE or not remaining:
                path = folder / f"{name}-{len(files):04d}.safetensors"
                save_file(batch, path)
                with path.open("rb") as stream:
                    os.fsync(stream.fileno())
                files.append(path.name)
                batch, size = {}, 0
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"the checkpoint cannot be written: {error}",
            where=str(folder),
            remedy="Check the free space and the permissions, or set run.checkpoint_every = 0.",
        ) from error
    return files
