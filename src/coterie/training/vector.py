"""A module whose state is views into one flat float32 vector.

Training writes through the views into the vector; aggregation is linear algebra on vectors. Float32 parameters and
persistent float32 buffers are views (their strides kept, so channels-last weights stay channels-last). Parameters and
buffers of other floating dtypes are copied in and out. Integer buffers and buffers that are not persistent stay local.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import nn

from coterie.errors import ModelError, StorageReplaced
from coterie.layout import Layout, Slot

LocalState: TypeAlias = dict[str, torch.Tensor]
"""Buffers that do not travel, by name: part of what a peer keeps between two fits."""


@dataclass(frozen=True)
class Place:
    """Where a slot's tensor hangs in the module: at several homes if it is tied."""

    slot: Slot
    homes: tuple[tuple[nn.Module, str], ...]
    tensor: torch.Tensor
    is_parameter: bool

    @property
    def is_view(self) -> bool:
        return self.tensor.dtype is torch.float32

    def replaced(self) -> bool:
        """Whether another tensor hangs at one of its homes."""
        for owner, leaf in self.homes:
            store = owner._parameters if self.is_parameter else owner._buffers
            if store.get(leaf) is not self.tensor:
                return True
        return False


class VectorModule:
    """A module bound to a vector; it can be bound to another one at any time outside a fit.

    ``layout`` says which elements hold what. A new vector holds the module's present values.
    Raises ModelError for a module that cannot be held: no trainable parameter, lazy, complex or meta tensors.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._places, self.layout = survey(module)
        self._local = {
            name: buffer
            for name, buffer in module.named_buffers()
            if all(place.tensor is not buffer for place in self._places)
        }
        self._initial_local = {name: buffer.clone() for name, buffer in self._local.items()}
        self._local_homes = {name: _home(module, name) for name in self._local}
        self._views = [place for place in self._places if place.is_view]
        self._copies = [place for place in self._places if not place.is_view]
        self.vector = torch.zeros(self.layout.size)
        self.gradient = torch.zeros(self.layout.trainable)
        self._gradients = [
            (place, view_of(self.gradient, place.slot))
            for place in self._places
            if place.slot.offset < self.layout.trainable
        ]
        for place in self._places:
            view_of(self.vector, place.slot).copy_(place.tensor.detach())
        self.bind(self.vector)

    def bind(self, vector: torch.Tensor) -> None:
        """Let the module live in ``vector``, shape (layout.size,), float32, contiguous. Raises ModelError otherwise."""
        if vector.dtype is not torch.float32 or vector.shape != (self.layout.size,) or not vector.is_contiguous():
            raise ModelError(
                f"cannot live in a vector of {vector.dtype}, shape {tuple(vector.shape)}, stride {vector.stride()}",
                where=type(self.module).__name__,
                remedy=f"Give it {self.layout.size} contiguous elements of float32.",
            )
        self.vector = vector
        start = vector.storage_offset()
        for place in self._views:
            slot = place.slot
            place.tensor.data = vector.as_strided(slot.shape, slot.stride, start + slot.offset)
        self.load_copies()

    def attach_gradient(self) -> None:
        """Let ``backward`` write into ``gradient``, shape (layout.trainable,), and clear it."""
        self.gradient.zero_()
        for place, view in self._gradients:
            place.tensor.grad = view if place.is_view else None

    def collect_gradient(self) -> None:
        """After ``backward``: bring in what it did not write there, as of parameters that are not float32."""
        for place, view in self._gradients:
            found = place.tensor.grad
            if found is not view:
                if found is not None:
                    view.copy_(found)
                place.tensor.grad = view if place.is_view else None

    def load_copies(self) -> None:
        """Copy from the vector into the tensors that cannot be views."""
        for place in self._copies:
            place.tensor.data.copy_(view_of(self.vector, place.slot))

    def store_copies(self) -> None:
        """Copy buffers that cannot be views back into the vector. Parameters are already there: the vector leads."""
        for place in self._copies:
            if not place.is_parameter:
                view_of(self.vector, place.slot).copy_(place.tensor.detach())

    def verify(self) -> None:
        """Raise StorageReplaced, naming the tensor, if the module no longer lives in its vector."""
        start = self.vector.data_ptr()
        for place in self._places:
            tensor, slot = place.tensor, place.slot
            what = "was replaced by another tensor" if place.replaced() else changed(tensor, slot)
            if not what and place.is_view and slot.size and tensor.data_ptr() != start + 4 * slot.offset:
                what = "moved to other memory"
            if not what and place.is_view and tensor.stride() != slot.stride:
                what = f"changed its stride from {slot.stride} to {tensor.stride()}"
            if what:
                raise StorageReplaced(
                    f"{slot.name} {what}",
                    where=type(self.module).__name__,
                    remedy="Do not call .half(), .to() or load_state_dict(assign=True) on a module that is being "
                    "trained here; convert it before.",
                )

    def restore_local(self, state: LocalState | None) -> None:
        """Set the buffers that do not travel: to ``state``, or to what they were at first."""
        present = {**self._initial_local, **(state or {})}
        for name, (owner, leaf) in self._local_homes.items():
            owner._buffers[leaf] = self._local[name]  # a forward may have put another tensor there
            self._local[name].data = present[name].clone()

    def local_state(self) -> LocalState | None:
        """The buffers that do not travel; None where there are none or none has changed since the beginning."""
        present = {name: owner._buffers[leaf] for name, (owner, leaf) in self._local_homes.items()}
        buffers = {name: buffer for name, buffer in present.items() if buffer is not None}
        if all(torch.equal(buffer, self._initial_local[name]) for name, buffer in buffers.items()):
            return None
        return {name: buffer.detach().clone() for name, buffer in buffers.items()}


def view_of(vector: torch.Tensor, slot: Slot) -> torch.Tensor:
    """The elements of ``slot`` in ``vector``, of its shape and stride: no copy."""
    return vector.as_strided(slot.shape, slot.stride, vector.storage_offset() + slot.offset)


def survey(module: nn.Module, only: Mapping[str, str] | None = None) -> tuple[list[Place], Layout]:
    """Trainable parameters first, then frozen ones, then the buffers that travel.

    ``only`` names those of the module's tensors that are to be held, each with the name it gets in the layout.
    """
    parameters = [(name, p) for name, p in module.named_parameters() if only is None or name in only]
    persistent = module.state_dict().keys()
    named: list[tuple[str, torch.Tensor]] = [(name, p) for name, p in parameters if p.requires_grad]
    count = len(named)
    named += [(name, p) for name, p in parameters if not p.requires_grad]
    named += [
        (name, b)
        for name, b in module.named_buffers()
        if name in persistent and b.is_floating_point() and (only is None or name in only)
    ]
    homes: dict[int, list[tuple[nn.Module, str]]] = {}
    for name, tensor in (
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ):
        homes.setdefault(id(tensor), []).append(_home(module, name))
    places: list[Place] = []
    offset = trainable = 0
    for index, (name, tensor) in enumerate(named):
        _check(name, tensor, type(module).__name__)
        slot = Slot(
            name if only is None else only[name], tuple(tensor.shape), _stride(tensor), dtype_name(tensor), offset
        )
        places.append(Place(slot, tuple(homes[id(tensor)]), tensor, index < len(parameters)))
        offset += slot.size
        if index < count:
            trainable = offset
    if not trainable:
        raise ModelError("it has no parameter to train", where=type(module).__name__, remedy="Give it one.")
    return places, Layout(tuple(place.slot for place in places), offset, trainable)


def _home(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    owner, _, leaf = name.rpartition(".")
    return module.get_submodule(owner), leaf


def changed(tensor: torch.Tensor, slot: Slot) -> str:
    """How the tensor's dtype or shape is no longer that of its slot; empty where both are."""
    if dtype_name(tensor) != slot.dtype:
        return f"changed from {slot.dtype} to {dtype_name(tensor)}"
    if tensor.shape != slot.shape:
        return f"changed its shape from {slot.shape} to {tuple(tensor.shape)}"
    return ""


def dtype_name(tensor: torch.Tensor) -> str:
    """As it stands in a layout: ``float32``."""
    return str(tensor.dtype).removeprefix("torch.")


def _check(name: str, tensor: torch.Tensor, where: str) -> None:
    if isinstance(tensor, (nn.UninitializedParameter, nn.UninitializedBuffer)):
        fault, remedy = "is lazy and has no shape yet", "Run one batch through the module first."
    elif tensor.is_meta:
        fault, remedy = "is on the meta device", "Materialise the module first."
    elif not tensor.is_floating_point():
        fault, remedy = f"has dtype {tensor.dtype}", "Use a floating dtype."
    elif tensor.layout is not torch.strided:
        fault, remedy = f"has layout {tensor.layout}", "Use a dense tensor."
    else:
        return
    raise ModelError(f"{name} {fault}", where=where, remedy=remedy)


def _stride(tensor: torch.Tensor) -> tuple[int, ...]:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if tensor.dim() in formats and tensor.is_contiguous(memory_format=formats[tensor.dim()]):
        return tuple(tensor.stride())
    return tuple(torch.empty(tensor.shape, device="meta").stride())
