"""What a swarm needs of a model, whatever framework it is from: ``ModelAdapter``, the base of all adapters.

An adapter copies: the user's own optimizer holds references to the user's parameters, so weights are read from them
and written into them in place, and no storage is ever replaced. The vector is float32, on the CPU; parameters of other
floating dtypes and on other devices are converted on the way. Integers stay local.

An adapter of your own fulfils five duties, by the methods ``check_platform``, ``unpack_validation``, ``save_weights``
with ``layout``, ``load_weights`` and ``evaluate``. ``coterie.training.frameworks.conformance.check`` tests it. Give it
to the callback in place of the model: ``SwarmCallback(..., model=MyAdapter(model))``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from coterie.errors import CoterieError, DataError, LayoutMismatch, ModelError, SpecError
from coterie.layout import Layout, Slot

DEFAULT_BATCH = 256
"""Samples a batch of validation data where the user names no number."""


@dataclass(frozen=True)
class Functions:
    """The loss and the metric that the user asks for, each by a name of the framework or as a callable.

    None stands for the framework's own loss where it has one (Keras: the compiled one; Hugging Face: the model's;
    scikit-learn: log loss, hinge loss or squared error), and otherwise for no figure.
    """

    loss: str | Callable[..., Any] | None = None
    loss_args: Mapping[str, Any] = field(default_factory=dict)
    metric: str | Callable[..., Any] | None = None
    metric_args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Figures:
    """What an evaluation found: the mean loss over the validation data, and the metric; None where not asked for."""

    loss: float | None = None
    metric: float | None = None


@contextmanager
def users_measure(where: str, called: str) -> Iterator[None]:
    """What a user's own loss or metric raises becomes a SpecError at ``where``, which says how it is ``called``."""
    try:
        yield
    except CoterieError:
        raise
    except Exception as error:
        raise SpecError(
            f"it raised {type(error).__name__}: {error}", where=where, remedy=f"It is called with {called}."
        ) from error


@contextmanager
def users_data() -> Iterator[None]:
    """What the user's data, or the model on them, raise becomes a DataError at ``adsValData``."""
    try:
        yield
    except CoterieError:
        raise
    except Exception as error:
        raise DataError(
            f"the model cannot be evaluated on it, {type(error).__name__}: {error}",
            where="adsValData",
            remedy="Give it as the model is trained on it, in shape and dtype; or in the batches of a DataLoader.",
        ) from error


def one_array(outputs: Any, is_one: bool) -> None:
    """Raise SpecError unless outputs or targets, of which a metric is to be computed, are one array."""
    if not is_one:
        raise SpecError(
            f"it needs outputs and targets of one tensor each, not a {type(outputs).__name__}",
            where="metricFunction",
            remedy="Leave it out; lossFunction is given all of them.",
        )


class ModelAdapter(ABC):
    """A user's model as one flat float32 vector, and its figures on held-out data.

    Methods raise ModelError for a model that cannot be held, and DataError for validation data that cannot be used.
    """

    platform: ClassVar[str]
    """Its name, as the parameter ``mlPlatform`` has it."""

    def __init__(self, model: Any, functions: Functions | None = None) -> None:
        self.model = model
        self.functions = functions or Functions()

    @abstractmethod
    def check_platform(self) -> None:
        """Duty 1: raise ModelError unless the framework is there and the model is one of its models, ready to use."""

    @abstractmethod
    def unpack_validation(self, data: Any, batch_size: int | None) -> Iterable[Any]:
        """Duty 2: the user's validation data as batches that can be gone through many times, always the same.

        ``batch_size`` in samples; None: ``DEFAULT_BATCH``. Raises DataError for data that are none.
        """

    @property
    @abstractmethod
    def layout(self) -> Layout:
        """Which elements of the vector hold what. The same on every site that has the same model."""

    @abstractmethod
    def save_weights(self, vector: torch.Tensor) -> None:
        """Duty 3: copy the model's weights into ``vector``, shape (layout.size,), float32, CPU: every element."""

    @abstractmethod
    def load_weights(self, vector: torch.Tensor) -> None:
        """Duty 4: copy ``vector`` into the model's own storage. Keeps no reference to ``vector``."""

    @abstractmethod
    def evaluate(self, batches: Iterable[Any]) -> Figures:
        """Duty 5: loss, and metric where asked for, on what ``unpack_validation`` gave. Leaves the model as it was."""

    def check_vector(self, vector: torch.Tensor) -> None:
        """Raise LayoutMismatch unless ``vector`` is of this layout's size, float32, contiguous and on the CPU."""
        wanted = (self.layout.size,)
        if tuple(vector.shape) != wanted or vector.dtype is not torch.float32 or vector.device.type != "cpu":
            raise LayoutMismatch(
                f"a vector of {vector.dtype}, shape {tuple(vector.shape)}, on {vector.device} does not fit",
                where=self.where,
                remedy=f"Give it {wanted[0]} elements of float32 on the CPU.",
            )
        if not vector.is_contiguous():
            raise LayoutMismatch("the vector is not contiguous", where=self.where, remedy="Give it a contiguous one.")

    @property
    def where(self) -> str:
        """What errors name: the model's class."""
        return type(self.model).__name__


def dense_layout(entries: Iterable[tuple[str, tuple[int, ...], str]], trainable: int, where: str) -> Layout:
    """A layout of dense row-major arrays (name, shape, dtype), one after another.

    The first ``trainable`` of the entries have gradients. Raises ModelError where these hold no element.
    """
    slots: list[Slot] = []
    offset = trained = 0
    for index, (name, shape, dtype) in enumerate(entries):
        stride = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
        slots.append(Slot(name, shape, stride, dtype, offset))
        offset += slots[-1].size
        if index < trainable:
            trained = offset
    if not trained:
        raise ModelError("it has no weight to train", where=where, remedy="Give it one.")
    return Layout(tuple(slots), offset, trained)


def array_of(vector: torch.Tensor, slot: Slot) -> npt.NDArray[np.float32]:
    """The elements of ``slot`` in ``vector`` as a numpy array of its shape: no copy."""
    flat: npt.NDArray[np.float32] = vector.numpy()
    return flat[slot.offset : slot.offset + slot.size].reshape(slot.shape)
