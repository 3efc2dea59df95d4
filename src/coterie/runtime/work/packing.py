"""What protocols and rules remember, as plain values beside named tensors, and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from coterie.errors import PluginError
from coterie.layout import Snapshot
from coterie.runtime.work.memory import Arena, Block, SharedSnapshot


@dataclass
class Packer:
    """Turns values into what msgpack has; tensors and snapshots into their names, each written once."""

    arena: Arena
    where: str
    """Named by the error for what cannot be packed."""
    otherwise: str = ""
    """What else the user could do."""
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    """By name those among ``tensors`` that nobody changes while their snapshot, which is this, is held."""

    def block(self, block: Block) -> str:
        name = f"block-{block[0]}-{block[1]}"
        self.tensors[name] = self.arena[block]
        return name

    def snapshot(self, snapshot: Snapshot) -> str:
        if isinstance(snapshot, SharedSnapshot):
            name = self.block(snapshot.block)
        else:  # it came from elsewhere
            known = (name for name, held in self.snapshots.items() if held is snapshot)
            name = next(known, None) or self.tensor(snapshot.tensor())
        self.snapshots[name] = snapshot
        return name

    def tensor(self, tensor: torch.Tensor) -> str:
        name = f"tensor-{len(self.tensors)}"
        self.tensors[name] = tensor
        return name

    def pack(self, value: Any, whose: str) -> Any:
        """``value`` itself, or ``[kind, content]``. Raises PluginError for what is neither plain nor a tensor."""
        kind = type(value)
        if value is None or kind in (bool, float, str, bytes):
            return value
        if kind is int:
            return value if value.bit_length() < 64 else ["int", str(value)]
        if isinstance(value, Snapshot):
            return ["snapshot", self.snapshot(value)]
        if isinstance(value, torch.Tensor):
            return ["tensor", self.tensor(value)]
        if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
            return [
                "scalar" if isinstance(value, np.generic) else "array",
                self.tensor(torch.from_numpy(np.array(value))),
            ]
        if kind is dict:
            return ["dict", [[self.pack(key, whose), self.pack(item, whose)] for key, item in value.items()]]
        if kind in (list, tuple):
            return [kind.__name__, [self.pack(item, whose) for item in value]]
        raise PluginError(
            f"a {kind.__name__} in {whose} cannot be saved",
            where=self.where,
            remedy=f"Keep numbers, strings, tensors, and lists and dicts of such{self.otherwise}.",
        )


@dataclass
class Unpacker:
    """The inverse of ``Packer``. Snapshots that were one are one again."""

    arena: Arena
    layout_hash: str
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    snapshots: dict[str, SharedSnapshot] = field(default_factory=dict)
    """Those that are there already; others are made from ``tensors``."""

    def snapshot(self, name: str) -> SharedSnapshot:
        if name not in self.snapshots:
            self.snapshots[name] = SharedSnapshot(self.arena, self.layout_hash)
            self.snapshots[name].tensor().copy_(self.tensors[name])
        return self.snapshots[name]

    def unpack(self, value: Any) -> Any:
        """What ``pack`` was given. Raises KeyError, ValueError or TypeError where it did not write ``value``."""
        if not isinstance(value, list):
            return value
        kind, content = value
        match kind:
            case "int":
                return int(content)
            case "snapshot":
                return self.snapshot(content)
            case "tensor":
                return self.tensors[content]
            case "array":
                return self.tensors[content].numpy()
            case "scalar":
                return self.tensors[content].numpy()[()]
            case "dict":
                return {self.unpack(key): self.unpack(item) for key, item in content}
            case "list":
                return [self.unpack(item) for item in content]
            case "tuple":
                return tuple(self.unpack(item) for item in content)
        raise ValueError(f"{kind!r} is not a kind of value")
