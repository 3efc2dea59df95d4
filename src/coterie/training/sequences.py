"""Which modules ``kernels`` can do: plain sequences of known layers, with nothing attached to them."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules import module as torch_module

from coterie.layout import Layout, Slot
from coterie.training.layers import Bias, Convolution, Dense, Flatten, Layer, MaxPool, Pair, Relu

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_PARAMETER_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


class _UnknownError(Exception):
    """A layer, a setting or a hook that the kernels do not have."""


def recognise(module: nn.Module, layout: Layout) -> tuple[Layer, ...] | None:
    """The layers of ``module``, in the order the kernels do them; None if they could not do exactly what it does.

    Known: Flatten (all axes but the batch's), Linear, Conv2d (no dilation, no groups, zero padding), ReLU, MaxPool2d
    (no dilation, no ceil_mode), Identity, and nn.Sequential of those, each of exactly that class, without hooks or a
    forward of its own. Every parameter is float32 and trained, used once, and belongs to one of these layers. The first
    layer that computes has weights. A pooling goes before a bias and a ReLU that precede it, which changes no value.
    """
    if any(getattr(torch_module, "_global" + name, None) for name in _HOOKS):
        return None
    slots = {slot.name: slot for slot in layout.slots if slot.dtype == "float32" and slot.offset < layout.trainable}
    layers: list[Layer] = []
    try:
        for name, part in _parts("", module):
            for layer in _translate(name, part, slots):
                place = len(layers)
                while isinstance(layer, MaxPool) and place and isinstance(layers[place - 1], Bias | Relu):
                    place -= 1
                layers.insert(place, layer)
    except _UnknownError:
        return None
    computing = [layer for layer in layers if not isinstance(layer, Flatten)]
    if slots or layout.size != layout.trainable or not computing or not isinstance(computing[0], Dense | Convolution):
        return None
    return tuple(layers)


def _parts(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers with the prefix of their parameters' names."""
    if "forward" in module.__dict__ or any(module.__dict__.get(store) for store in _HOOKS):
        raise _UnknownError
    if type(module) is nn.Sequential:
        for key, child in module._modules.items():
            if child is not None:
                yield from _parts(f"{name}{key}.", child)
    else:
        yield name, module


def _translate(name: str, module: nn.Module, slots: dict[str, Slot]) -> list[Layer]:
    if type(module) is nn.Linear:
        return [Dense(_weight(name, module, slots), _take(name, "bias", module, slots))]
    if type(module) is nn.Conv2d:
        if module.padding_mode != "zeros" or module.dilation != (1, 1) or module.groups != 1:
            raise _UnknownError
        weight, bias = _weight(name, module, slots), _take(name, "bias", module, slots)
        convolution = Convolution(weight, _pair(module.stride), _padding(module))
        return [convolution] if bias is None else [convolution, Bias(bias)]
    if type(module) is nn.MaxPool2d:
        kernel, stride, padding = _pair(module.kernel_size), _pair(module.stride), _pair(module.padding)
        plain = _pair(module.dilation) == (1, 1) and not module.ceil_mode and not module.return_indices
        if not plain or min(stride) < 1 or any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
            raise _UnknownError
        return [MaxPool(kernel, stride, padding)]
    if type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
        return [Flatten()]
    if type(module) is nn.ReLU:
        return [Relu()]
    if type(module) is nn.Identity:
        return []
    raise _UnknownError


def _weight(name: str, module: nn.Module, slots: dict[str, Slot]) -> Slot:
    slot = _take(name, "weight", module, slots)
    if slot is None or not slot.size:
        raise _UnknownError
    return slot


def _take(name: str, leaf: str, module: nn.Module, slots: dict[str, Slot]) -> Slot | None:
    """Where the parameter lies; taken out of ``slots``, so that what is left belongs to no layer."""
    parameter = module._parameters.get(leaf)
    if parameter is None:
        return None
    if name + leaf not in slots or any(getattr(parameter, store, None) for store in _PARAMETER_HOOKS):
        raise _UnknownError
    return slots.pop(name + leaf)


def _padding(module: nn.Conv2d) -> Pair:
    if not isinstance(module.padding, str):
        return _pair(module.padding)
    if module.padding == "valid":
        return 0, 0
    height, width = _pair(module.kernel_size)
    if height % 2 == 0 or width % 2 == 0:
        raise _UnknownError  # padded more on one side than on the other
    return height // 2, width // 2


def _pair(value: int | tuple[int, ...]) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
