"""PyTorch modules. The layout is that of ``coterie.training.vector``; only the storage stays the user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from coterie.errors import DataError, ModelError, SpecError, StorageReplaced, near_miss
from coterie.layout import Layout, Slot
from coterie.training.figures import area_under_roc
from coterie.training.frameworks.base import DEFAULT_BATCH, Figures, Functions, ModelAdapter, one_array, users_measure
from coterie.training.vector import Place, changed, survey, view_of

Measure = Callable[[Any, Any], Any]
"""``measure(outputs, targets) -> scalar``."""


class PyTorchAdapter(ModelAdapter):
    """A ``torch.nn.Module`` on any device, one process a site.

    ``DataParallel``, ``DistributedDataParallel`` and ``torch.compile`` wrappers are looked through, so that a site that
    wraps its model meets one that does not. Validation data: a DataLoader of (inputs..., targets), a Dataset of such
    samples, or a tuple of tensors or arrays (inputs..., targets). ``lossFunction``: a class of ``torch.nn`` or a
    function of ``torch.nn.functional`` by name, or a callable (outputs, targets) -> scalar, the mean over the batch.
    ``metricFunction``: "accuracy", "auc", a class of torchmetrics by name, or a callable (outputs, targets) -> scalar
    that is given the whole validation set at once.
    """

    platform: ClassVar[str] = "PYTORCH"
    has_own_loss: ClassVar[bool] = False
    """Whether the model itself computes a loss."""

    def __init__(self, model: Any, functions: Functions | None = None) -> None:
        super().__init__(model, functions)
        self.module: nn.Module = unwrapped(model)
        self._loss = loss_function(self.functions)
        self._metric = metric_function(self.functions)
        self._surveyed: tuple[list[Place], Layout] | None = None

    def check_platform(self) -> None:
        if not isinstance(self.module, nn.Module):
            raise ModelError("it is no torch.nn.Module", where=self.where, remedy="Pass model=<your module>.")
        if isinstance(self.module, torch.jit.ScriptModule):
            raise ModelError(
                "it is a ScriptModule", where=self.where, remedy="Train the module it is made from, and script it then."
            )
        distributed = torch.distributed
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            raise ModelError(
                "this site trains in several processes",
                where=self.where,
                remedy="Train in one process a site; it may use several devices by DataParallel.",
            )
        for name, parameter in self.module.named_parameters():
            if type(parameter.data).__name__ == "DTensor":
                raise ModelError(f"{name} is sharded", where=self.where, remedy="Hold the model whole in one process.")

    @property
    def layout(self) -> Layout:
        return self._held[1]

    @property
    def _held(self) -> tuple[list[Place], Layout]:
        if self._surveyed is None:
            self._surveyed = self._survey()
        return self._surveyed

    def _survey(self) -> tuple[list[Place], Layout]:
        return survey(self.module)

    def save_weights(self, vector: torch.Tensor) -> None:
        self.check_vector(vector)
        with torch.no_grad():
            for tensor, slot in self._present():
                view_of(vector, slot).copy_(tensor)

    def load_weights(self, vector: torch.Tensor) -> None:
        self.check_vector(vector)
        with torch.no_grad():
            for tensor, slot in self._present():
                tensor.copy_(view_of(vector, slot))

    def _present(self) -> list[tuple[torch.Tensor, Slot]]:
        """Where the weights are now. Raises StorageReplaced, naming it, for one that training would no longer see, and
        for one that is trained and would not travel.

        A buffer may have been replaced: no optimizer holds it.
        """
        found = []
        there = {id(parameter) for parameter in self.module.parameters()}
        for place in self._held[0]:
            tensor, slot = place.tensor, place.slot
            owner, leaf = place.homes[0]
            if not place.is_parameter and owner._buffers.get(leaf) is not None:
                tensor = owner.get_buffer(leaf)
            lost = place.is_parameter and (place.replaced() or id(tensor) not in there)
            what = "was replaced by another tensor" if lost else changed(tensor, slot)
            if what:
                raise StorageReplaced(
                    f"{slot.name} {what}",
                    where=self.where,
                    remedy="Convert the module and load its state before on_train_begin, not after.",
                )
            found.append((tensor, slot))
        held = {id(place.tensor) for place in self._held[0]}
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad and id(parameter) not in held:
                raise StorageReplaced(
                    f"{name} is trained, and was not when the training began: it would never travel",
                    where=self.where,
                    remedy="Add layers, and unfreeze what an adapter stands on, before on_train_begin, not after.",
                )
        return found

    def unpack_validation(self, data: Any, batch_size: int | None) -> Iterable[Any]:
        size = batch_size or DEFAULT_BATCH
        if isinstance(data, DataLoader):
            return data
        if isinstance(data, tuple | list):
            data = self._tensors(data)
        if isinstance(data, IterableDataset):
            return DataLoader(data, batch_size=size)
        if not isinstance(data, Dataset) and not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
            raise DataError(
                f"{type(data).__name__} is no validation data",
                where="adsValData",
                remedy="Give it a DataLoader, a Dataset, or a tuple (inputs, targets).",
            )
        if len(data) == 0:
            raise DataError("it is empty", where="adsValData", remedy="Give it at least one sample.")
        return DataLoader(data, batch_size=size, collate_fn=self._collate())

    def _collate(self) -> Callable[[Any], Any] | None:
        return None

    def _tensors(self, data: tuple[Any, ...] | list[Any]) -> TensorDataset:
        try:
            tensors = [part if isinstance(part, torch.Tensor) else torch.from_numpy(np.asarray(part)) for part in data]
        except (TypeError, ValueError) as error:
            raise DataError(str(error), where="adsValData", remedy="Use tensors or arrays of numbers.") from None
        if len(tensors) < 2 or any(part.ndim == 0 or len(part) != len(tensors[0]) for part in tensors):
            shapes = ", ".join(str(tuple(part.shape)) for part in tensors)
            raise DataError(
                f"a tuple of shapes {shapes}",
                where="adsValData",
                remedy="Give it (inputs, targets), as many of one as of the other.",
            )
        return TensorDataset(*tensors)

    def evaluate(self, batches: Iterable[Any]) -> Figures:
        wants_loss = self._loss is not None or self.has_own_loss
        if not wants_loss and self._metric is None:
            return Figures()
        total, samples = 0.0, 0
        kept: list[tuple[torch.Tensor, torch.Tensor]] = []
        with evaluating(self.module):
            for batch in batches:
                outputs, targets, loss = self._forward(batch)
                count = len(targets)
                if self._loss is not None:
                    loss = self._measured(self._loss, outputs, targets, "lossFunction")
                if wants_loss:
                    total += count * float(loss)
                if self._metric is not None:
                    for found in (outputs, targets):
                        one_array(found, isinstance(found, torch.Tensor))
                    kept.append((outputs.cpu(), targets.cpu()))
                samples += count
        if not samples:
            raise DataError("it is empty", where="adsValData", remedy="Give it at least one sample.")
        metric = None
        if self._metric is not None:
            outputs, targets = (torch.cat(parts) for parts in zip(*kept, strict=True))
            metric = self._measured(self._metric, outputs, targets, "metricFunction")
        return Figures(total / samples if wants_loss else None, metric)

    def _forward(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """Outputs, targets, and the model's own loss where it has one."""
        if not isinstance(batch, tuple | list) or len(batch) < 2:
            raise DataError(
                f"a batch is a {type(batch).__name__}, not (inputs, targets)",
                where="adsValData",
                remedy="Let the DataLoader yield (inputs, targets).",
            )
        *inputs, targets = moved(batch, device_of(self.module))
        return self.module(*inputs), targets, None

    def _measured(self, measure: Measure, outputs: Any, targets: Any, where: str) -> float:
        with users_measure(where, "(outputs, targets) and returns a scalar"):
            return float(measure(outputs, targets))


def unwrapped(model: Any) -> Any:
    """The module inside wrappers that add a prefix to its names."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif type(model).__name__ == "OptimizedModule" and hasattr(model, "_orig_mod"):
            model = model._orig_mod
        else:
            return model


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards each submodule is back in the mode it was in."""
    training = [each for each in module.modules() if each.training]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for each in training:
            each.training = True


def device_of(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def moved(batch: Any, device: torch.device) -> Any:
    """``batch`` with every tensor in it on ``device``."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: moved(value, device) for key, value in batch.items()}
    return [moved(value, device) for value in batch] if isinstance(batch, tuple | list) else batch


def loss_function(functions: Functions) -> Measure | None:
    """The user's loss. Raises SpecError for a name torch does not have, and for arguments it does not take."""
    loss = functions.loss
    if isinstance(loss, str):
        known = {name: kind for name, kind in vars(nn).items() if name.endswith("Loss") and isinstance(kind, type)}
        known |= {
            name: function
            for name, function in vars(functional).items()
            if callable(function) and ("loss" in name or "entropy" in name) and not name.startswith("_")
        }
        if loss not in known:
            raise SpecError(f"torch has no loss {loss!r}", where="lossFunction", remedy=near_miss(loss, known))
        loss = known[loss]
    return bound(loss, functions.loss_args, "lossFunctionArgs")


def metric_function(functions: Functions) -> Measure | None:
    """The user's metric. Raises SpecError for a name that is not known, and for arguments it does not take."""
    metric = functions.metric
    if isinstance(metric, str):
        own = _METRICS.get(metric.lower())
        if own is not None and not functions.metric_args:
            return own
        try:
            import torchmetrics
        except ImportError:
            raise SpecError(
                f"{metric!r} with these arguments needs torchmetrics, which is not installed",
                where="metricFunction",
                remedy=f"{near_miss(metric, _METRICS)} Or pip install torchmetrics, or pass a function.",
            ) from None
        if not isinstance(found := getattr(torchmetrics, metric, None), type):
            raise SpecError(f"torchmetrics has no {metric!r}", where="metricFunction", remedy="Correct the name.")
        metric = found
    return bound(metric, functions.metric_args, "metricFunctionArgs")


def bound(function: Callable[..., Any] | None, args: Mapping[str, Any], where: str) -> Measure | None:
    """``function`` with its arguments: a class is made an instance with them."""
    try:
        if isinstance(function, type):
            made: Measure = function(**args)
            return made
        return partial(function, **args) if function is not None and args else function
    except Exception as error:
        raise SpecError(
            f"{type(error).__name__}: {error}", where=where, remedy="Give it the function's own arguments."
        ) from error


def accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """The share of samples that are classified right: ``outputs`` (n, classes), or (n,) or (n, 1) logits of class 1."""
    wide = outputs.ndim > 1 and outputs.shape[1] > 1
    predicted = outputs.argmax(1) if wide else outputs.flatten() > 0
    return float((predicted == targets.reshape(predicted.shape)).double().mean())


def auc(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Area under the ROC curve of class 1: ``outputs`` (n, 2), or (n,) or (n, 1). NaN where one class is missing.

    Raises SpecError for more classes.
    """
    wide = outputs.ndim > 1 and outputs.shape[1] > 1
    if wide and outputs.shape[1] != 2:
        raise SpecError(
            f"auc is of two classes, and the outputs are of {outputs.shape[1]}",
            where="metricFunction",
            remedy="Use accuracy, or a function of your own.",
        )
    scores = outputs[:, 1] - outputs[:, 0] if wide else outputs.flatten()
    area = area_under_roc(scores.double().numpy(), targets.flatten().numpy() == 1)
    return float("nan") if area is None else area


_METRICS: dict[str, Measure] = {"accuracy": accuracy, "auc": auc}
