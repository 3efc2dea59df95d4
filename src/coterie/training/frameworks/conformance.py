"""A test of an adapter of your own: ``check(make, validation=...)`` returns, or raises ModelError naming what fails.

def make():
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)  # made before any weights are loaded, as in a script
    return MyAdapter(model), lambda: train_one_batch(model, optimizer)

conformance.check(make, validation=(x, y))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

import torch

from coterie.errors import CoterieError, ModelError
from coterie.layout import Layout
from coterie.training.frameworks.base import Figures, ModelAdapter

Make: TypeAlias = Callable[[], tuple[ModelAdapter, Callable[[], None]]]
"""Makes an adapter of a new model, the same each time, and a function that trains that model on one batch."""

_MARK = 5.0


def check(make: Make, validation: Any = None, batch_size: int | None = None) -> None:
    """Go through the duties of ``ModelAdapter`` one after another, on adapters that ``make`` makes.

    ``validation``: data as a user would give them, large enough to tell two models apart; None leaves duties 2 and 5
    untested. Raises ModelError for the first thing that fails.
    """
    adapter, _ = make()
    if not isinstance(adapter, ModelAdapter):
        raise ModelError(
            f"make returned a {type(adapter).__name__}",
            where="conformance",
            remedy="Return (adapter, step), the adapter a subclass of ModelAdapter.",
        )
    trial = _Trial(make)
    trial.platform()
    trial.layout()
    trial.saving()
    trial.loading()
    trial.independence()
    trial.training()
    trial.wrong_vectors()
    if validation is not None:
        trial.validation(validation, batch_size)


class _Trial:
    def __init__(self, make: Make) -> None:
        self._make = make
        self._adapter = make()[0]
        self._where = f"conformance of {type(self._adapter).__name__}"

    def _fail(self, what: str, remedy: str) -> NoReturn:
        raise ModelError(what, where=self._where, remedy=remedy)

    def _call(self, duty: str, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except Exception as error:
            raise ModelError(
                f"{duty} raised {type(error).__name__}: {error}", where=self._where, remedy=f"Mend {duty}."
            ) from error

    def _saved(self, adapter: ModelAdapter) -> torch.Tensor:
        vector = torch.full((adapter.layout.size,), float("nan"))
        self._call("save_weights", adapter.save_weights, vector)
        return vector

    def _pattern(self, seed: int) -> torch.Tensor:
        """Eighths from -1 to 1, which float16, bfloat16 and wider types all hold exactly."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(-8, 9, (self._adapter.layout.size,), generator=generator) / 8.0

    def _slot(self, wrong: torch.Tensor) -> str:
        """The name of the first slot with an element where ``wrong`` (size,) bool is true."""
        index = int(wrong.nonzero()[0])
        for slot in self._adapter.layout.slots:
            if slot.offset <= index < slot.offset + slot.size:
                return slot.name
        return f"element {index}"

    def _same(self, found: torch.Tensor, wanted: torch.Tensor, what: str, remedy: str) -> None:
        wrong = (found != wanted) & ~(found.isnan() & wanted.isnan())
        if bool(wrong.any()):
            self._fail(f"{what}: {self._slot(wrong)} differs, {int(wrong.sum())} elements in all", remedy)

    def platform(self) -> None:
        if not isinstance(getattr(self._adapter, "platform", None), str):
            self._fail("it has no platform", "Set the class variable platform to a name.")
        self._call("check_platform", self._adapter.check_platform)

    def layout(self) -> None:
        layout = self._call("layout", lambda: self._adapter.layout)
        if not isinstance(layout, Layout):
            self._fail(f"layout is a {type(layout).__name__}", "Return a coterie.layout.Layout.")
        end = 0
        for slot in layout.slots:
            if slot.offset != end:
                self._fail(f"{slot.name} begins at {slot.offset}, not at {end}", "Let slots follow one another.")
            end += slot.size
        if end != layout.size or not 0 < layout.trainable <= layout.size:
            self._fail(
                f"the slots end at {end}, the layout has size {layout.size} and {layout.trainable} trainable elements",
                "The size is the sum of the slots'; at least one element is trainable.",
            )
        if len({slot.name for slot in layout.slots}) != len(layout.slots):
            self._fail("two slots have one name", "Give each weight a name of its own.")
        other = self._call("layout", lambda: self._make()[0].layout)
        if other.hash != layout.hash:
            self._fail(
                "two adapters of the same model have different layouts",
                "Leave out of names and order what depends on the process, such as counters of layers.",
            )

    def saving(self) -> None:
        first = self._saved(self._adapter)
        if bool((unwritten := first.isnan()).any()):
            self._fail(
                f"save_weights left {int(unwritten.sum())} elements unwritten, of {self._slot(unwritten)} first",
                "Write every element of the vector.",
            )
        kept = first.clone()
        first.fill_(_MARK)
        again = self._saved(self._adapter)
        if bool(((again == _MARK) & (kept != _MARK)).any()):
            self._fail("the model lives in the vector it was saved to", "Copy; keep no views.")
        self._same(again, kept, "save_weights twice gives two vectors", "It must not change the weights.")

    def loading(self) -> None:
        pattern = self._pattern(1)
        vector = pattern.clone()
        self._call("load_weights", self._adapter.load_weights, vector)
        self._same(vector, pattern, "load_weights changed the vector it was given", "Only read it.")
        self._same(
            self._saved(self._adapter),
            pattern,
            "what was loaded does not come back",
            "Load every element, each to where save_weights reads it; raise an error for one that has no place.",
        )
        vector.fill_(_MARK)
        self._same(
            self._saved(self._adapter), pattern, "the model lives in the vector it was loaded from", "Copy the vector."
        )

    def independence(self) -> None:
        before = self._saved(self._adapter)
        other, _ = self._make()
        self._call("load_weights", other.load_weights, self._pattern(2))
        self._same(
            self._saved(self._adapter), before, "loading one adapter changed another", "Let make build a new model."
        )

    def training(self) -> None:
        adapter, step = self._make()
        size = adapter.layout.trainable
        start = self._saved(adapter)
        self._call("load_weights", adapter.load_weights, start)
        self._call("the training step", step)
        if not bool((self._saved(adapter)[:size] != start[:size]).any()):
            self._fail(
                "after load_weights a training step no longer changes what save_weights reads",
                "Write into the storage that the optimizer holds; do not replace it.",
            )
        adapter, step = self._make()
        pattern = self._pattern(3)
        self._call("load_weights", adapter.load_weights, pattern)
        self._call("the training step", step)
        if bool((self._saved(adapter) - pattern).norm() >= (start - pattern).norm()):
            self._fail(
                "training does not go on from what was loaded",
                "Write into the weights that the model computes with. Or let the step be smaller.",
            )

    def wrong_vectors(self) -> None:
        before = self._saved(self._adapter)
        size = self._adapter.layout.size
        for vector, what in ((torch.zeros(size + 1), "too long"), (torch.zeros(size, dtype=torch.float64), "float64")):
            for name, method in (
                ("load_weights", self._adapter.load_weights),
                ("save_weights", self._adapter.save_weights),
            ):
                try:
                    method(vector)
                except CoterieError:
                    continue
                except Exception as error:
                    self._fail(f"{name} of a vector that is {what} raised {error!r}", "Call check_vector first.")
                self._fail(f"{name} takes a vector that is {what}", "Call check_vector first.")
        self._same(self._saved(self._adapter), before, "a vector that was refused changed the model", "Check first.")

    def validation(self, data: Any, batch_size: int | None) -> None:
        adapter, _ = self._make()
        try:
            adapter.unpack_validation(object(), batch_size)
        except CoterieError:
            pass
        except Exception as error:
            self._fail(f"unpack_validation raised {error!r} for data that are none", "Raise DataError.")
        else:
            self._fail("unpack_validation takes an object that is no data", "Raise DataError.")
        batches = self._call("unpack_validation", adapter.unpack_validation, data, batch_size)
        counts = [sum(1 for _ in batches) for _ in range(2)]
        if counts[0] != counts[1] or not counts[0]:
            self._fail(
                f"the validation data give {counts[0]} batches, then {counts[1]}",
                "Return what can be gone through many times, not a generator.",
            )
        before = self._saved(adapter)
        first: Figures = self._call("evaluate", adapter.evaluate, batches)
        if not isinstance(first, Figures):
            self._fail(f"evaluate returned a {type(first).__name__}", "Return Figures(loss, metric).")
        self._same(self._saved(adapter), before, "evaluate changed the model", "Evaluate in evaluation mode.")
        if self._call("evaluate", adapter.evaluate, batches) != first:
            self._fail("evaluate twice gives two figures", "Evaluate in evaluation mode: no dropout, no shuffling.")
        if first.loss is None:
            return
        losses = {first.loss}
        for seed in range(4, 8):
            self._call("load_weights", adapter.load_weights, self._pattern(seed))
            losses.add(self._call("evaluate", adapter.evaluate, batches).loss)
        if len(losses) == 1:
            self._fail(
                f"the loss is {first.loss} whatever the weights are", "Compute it with the weights that were loaded."
            )
