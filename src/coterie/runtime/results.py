"""What a run leaves behind: the directory that holds its result and a record a peer and evaluated round."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self, TypeVar

import msgspec

from coterie.errors import DataError, OutputError
from coterie.files import locked, write_file
from coterie.runtime._result import SCHEMA, Result, summary
from coterie.runtime.peer_metrics import PeerMetrics, line_of, parse_records
from coterie.runtime.run_files import first_free, json_text, reading, spec_text, writing

if TYPE_CHECKING:
    import torch

__all__ = [
    "SCHEMA",
    "Origin",
    "PeerMetrics",
    "Result",
    "RunDirectory",
    "json_text",
    "spec_text",
    "summary",
]

_T = TypeVar("_T")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Origin:
    """Where a run is done and where it found its data and plug-ins, for going on with it later."""

    base: str
    """The folder that relative paths of the spec start from."""
    data_dir: str | None
    track: tuple[str, ...] = ()
    """The trackers that are fed from it."""
    on: str = "sim"
    """Or "processes"."""


class RunDirectory:
    """The files of one run, or of several seeds: then each has a directory of its own in it, such as ``seed-7``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made: tuple[Path, ...] = ()
        """The folders that ``create`` has made, innermost first."""
        self._stream: IO[bytes] | None = None
        self._round = -1

    # Write side

    @classmethod
    def create(cls, path: Path | None, name: str) -> Self:
        """A new directory: ``path``, or the first free of ``runs/NAME``, ``runs/NAME-2`` ...; never one in use."""
        if path is None:
            if not _NAME.fullmatch(name):
                raise OutputError(f"{name!r} cannot name a directory", remedy="Use letters, digits, '.', '_' and '-'.")
            parent = Path("runs")
            above = () if parent.exists() else (parent,)
            run = cls(first_free(parent, name))
            run._made = (run.path, *above)
            return run
        run = cls(path)
        with writing(path):
            run._made = tuple(folder for folder in (path, *path.parents) if not folder.exists())
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise OutputError(
                    "it exists already, and a run never overwrites",
                    where=str(path),
                    remedy="Name a new directory with --out, or leave --out away.",
                )
            try:
                path.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=path):
                    pass  # a directory we may not write to is better found now than after the run
            except OSError:
                run.discard()
                raise
        return run

    @property
    def measured(self) -> bool:
        """Whether it holds more than a beginning: a line of metrics, a checkpoint, or a seed of which that is true."""
        lines = self.path / "metrics.jsonl"
        saved = self.path / "checkpoint" / "state.msgpack"
        return (
            (lines.exists() and lines.stat().st_size > 0)
            or saved.exists()
            or any(one.ended_well or one.measured for one in self.seeds.values())
        )

    def discard(self) -> None:
        """Take back ``create``: remove what is in the directory, and the folders that were made for it."""
        self._abandon()
        with suppress(OSError):
            for path in self.path.iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
        for folder in self._made:
            with suppress(OSError):
                folder.rmdir()

    def write_spec(self, tables: Mapping[str, Any], seeds: Sequence[int] = ()) -> None:
        """``spec.toml``: the resolved spec, with all its ``seeds`` where there are several. None is left out."""
        if len(seeds) > 1:
            tables = {**tables, "federation": {**tables["federation"], "seed": list(seeds)}}
        self.write("spec.toml", spec_text(tables).encode())

    def of_seed(self, seed: int) -> RunDirectory:
        """The directory of one of several seeds, which is made where there is none."""
        path = self.path / f"seed-{seed}"
        with writing(path):
            path.mkdir(exist_ok=True)
        return RunDirectory(path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Raise OutputError where another process works on this directory; the lock ends with the process."""
        busy = OutputError("another process is at work on this run", where=str(self.path), remedy="Wait, or stop it.")
        with ExitStack() as stack:
            with writing(self.path):
                stack.enter_context(locked(self.path, busy))
            yield

    def write_origin(self, origin: Origin) -> None:
        """``checkpoint/origin.json``."""
        self.write("checkpoint/origin.json", msgspec.json.encode(origin))

    def forget_checkpoint(self) -> None:
        """Remove ``checkpoint``: the run has ended well."""
        shutil.rmtree(self.path / "checkpoint", ignore_errors=True)

    def metrics(self, record: PeerMetrics) -> None:
        """Append one line to ``metrics.jsonl``; what is buffered goes to disk when a later round begins."""
        path = self.path / "metrics.jsonl"
        with writing(path):
            if self._stream is None:
                self._stream = path.open("ab", buffering=1 << 20)
            if record.round > self._round:
                self._round = record.round
                self._stream.flush()
            self._stream.write(line_of(record))

    def flush_metrics(self) -> int:
        """Bring ``metrics.jsonl`` to the disk; gives its length in bytes."""
        path = self.path / "metrics.jsonl"
        if self._stream is None:
            return path.stat().st_size if path.exists() else 0
        with writing(path):
            self._stream.flush()
            os.fsync(self._stream.fileno())
            return self._stream.tell()

    def cut_metrics(self, nbytes: int) -> None:
        """Forget the lines of ``metrics.jsonl`` that were written after it had this length.

        Raises DataError where it is shorter.
        """
        path = self.path / "metrics.jsonl"
        length = path.stat().st_size if path.exists() else 0
        if length < nbytes:
            raise DataError(
                f"the file is damaged: it has {length} bytes, and had {nbytes} at the checkpoint",
                where=str(path),
                remedy="Run the spec again.",
            )
        with writing(path):
            if nbytes:
                os.truncate(path, nbytes)
            else:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Flush and close ``metrics.jsonl``."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            with writing(self.path / "metrics.jsonl"):
                stream.close()

    def _abandon(self) -> None:
        """Close ``metrics.jsonl``; what cannot be written any more is lost."""
        with suppress(OutputError):
            self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write_result(self, result: Result) -> None:
        """``result.json``, whole or not at all; ``metrics.jsonl`` is closed first."""
        try:
            self.close()
        finally:
            self.write("result.json", json_text(result.to_json()))

    def write_topology(self, edges: Iterable[tuple[int, int]]) -> None:
        """``topology.json``: undirected edges as pairs of peer indices. Leave it out where everybody is a neighbour."""
        self.write("topology.json", msgspec.json.encode({"edges": [(int(a), int(b)) for a, b in edges]}) + b"\n")

    def write_model(self, name: str, tensors: Mapping[str, torch.Tensor], shape: Sequence[int], classes: int) -> Path:
        """``models/NAME.safetensors``; gives its path. Its header says for which samples and classes the model is."""
        from safetensors.torch import save  # imports torch: not for those who only read results

        if not _NAME.fullmatch(name):
            raise OutputError(f"{name!r} cannot name a model file", remedy="Use letters, digits, '.', '_' and '-'.")
        packed = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        described = {"shape": ",".join(map(str, shape)), "classes": str(classes)}
        return self.write(f"models/{name}.safetensors", save(packed, described))

    def write(self, name: str, content: bytes) -> Path:
        """Write a file of the directory, whole or not at all: a temporary file beside it, then a rename."""
        path = self.path / name
        with writing(path):
            write_file(path, content)
        return path

    # Read side

    @classmethod
    def open(cls, path: Path) -> Self:
        """A directory that a run has written. Raises DataError where there is none."""
        if not path.is_dir():
            raise DataError("there is no such run directory", where=str(path), remedy="Name one that 'run' has made.")
        run = cls(path)
        if not (path / "spec.toml").is_file() and not (path / "result.json").is_file() and not run.seeds:
            raise DataError(
                "this is not a run directory: it has neither spec.toml nor result.json",
                where=str(path),
                remedy="Name one that 'run' has made.",
            )
        return run

    @property
    def spec(self) -> dict[str, Any]:
        """The tables of ``spec.toml``."""

        def decode(content: bytes) -> dict[str, Any]:
            tables = tomllib.loads(content.decode())
            for name, table in tables.items():
                if not isinstance(table, dict):
                    raise ValueError(f"{name} is no table")  # noqa: TRY004 - a fault of the file
            return tables

        return self._read("spec.toml", decode)

    @property
    def result(self) -> Result:
        """What ``result.json`` holds."""
        record = self._read("result.json", json.loads)
        if not isinstance(record, dict):
            raise DataError("not a JSON object", where=str(self.path / "result.json"), remedy="Run the spec again.")
        return Result.from_json(record)

    @property
    def records(self) -> list[PeerMetrics]:
        """The lines of ``metrics.jsonl``; none where no round was evaluated. An unfinished last line is left out."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        with reading(path), path.open("rb") as stream:
            return list(parse_records(stream, str(path)))

    @property
    def ended_well(self) -> bool:
        """Whether there is a result, and not that of a failure."""
        return (self.path / "result.json").exists() and self.result.ok

    @property
    def origin(self) -> Origin:
        """Where the run found its data; for a run that has ended, this directory."""
        if not (self.path / "checkpoint" / "origin.json").exists():
            return Origin(str(self.path.resolve()), None)
        return self._read("checkpoint/origin.json", lambda content: msgspec.json.decode(content, type=Origin))

    @property
    def topology(self) -> list[tuple[int, int]] | None:
        """The edges of ``topology.json``; None where there is no such file."""
        if not (self.path / "topology.json").exists():
            return None

        def decode(content: bytes) -> list[tuple[int, int]]:
            return msgspec.json.decode(content, type=dict[str, list[tuple[int, int]]])["edges"]

        return self._read("topology.json", decode)

    @property
    def models(self) -> dict[str, Path]:
        """The files in ``models/``, by name."""
        return {path.stem: path for path in sorted((self.path / "models").glob("*.safetensors"))}

    @property
    def seeds(self) -> dict[int, RunDirectory]:
        """The directories ``seed-N`` in this one, by seed."""
        found = [p for p in self.path.glob("seed-*") if p.is_dir() and p.name[5:].isdecimal()]
        return {int(p.name[5:]): RunDirectory(p) for p in sorted(found, key=lambda p: int(p.name[5:]))}

    def _read(self, name: str, decode: Callable[[bytes], _T]) -> _T:
        path = self.path / name
        with reading(path):
            content = path.read_bytes()
        try:
            return decode(content)
        except (ValueError, KeyError, msgspec.MsgspecError) as error:
            raise DataError(f"the file is damaged: {error}", where=str(path), remedy="Run the spec again.") from None
