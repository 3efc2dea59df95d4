"""``SwarmCallback`` for a loop of your own: PyTorch, scikit-learn's ``partial_fit``, or an adapter of your own.

    from coterie import SwarmCallback

    swarm = SwarmCallback(syncFrequency=128, minPeers=3, model=model)
    for epoch in swarm.epochs(EPOCHS):
        for x, y in loader:
            ...
            optimizer.step()
            swarm.on_batch_end()

or, with HPE's methods one by one: ``on_train_begin()`` before the loop, ``on_batch_end()`` after each
``optimizer.step()``, ``on_epoch_end(epoch)`` after each epoch, ``on_train_end()`` after the loop. ``on_batch_end`` and
``on_epoch_end`` return True once the swarm's training is over, and ``swarm.stopped`` says the same: leave the loop
then. A loop that does not trains on alone, for nothing: ``on_train_end`` gives every site the same final model.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn, Unpack

from coterie.errors import ModelError
from coterie.swarm.participation import Participation
from coterie.swarm.settings import Options, Settings, whole_number


class Controls:
    """What every SwarmCallback has, whatever its framework calls. ``Settings`` documents the settings."""

    def __init__(self, *positional: Any, **options: Unpack[Options]) -> None:
        """``syncFrequency``, ``minPeers`` and ``trainingContract`` may be given without a name.

        Raises SpecError for a setting that is unknown, given twice, missing or wrong.
        """
        super().__init__()
        self.participation = Participation(Settings.read(positional, options))
        self.logger: logging.Logger = self.participation.settings.logger

    @property
    def stopped(self) -> bool:
        """Whether the swarm's training is over: there is no use in training on."""
        return self.participation.stopped

    @property
    def node_weightage(self) -> int:
        """How much this site's model weighs, 1 to 100. Set it at any time; it holds from the next merge on."""
        return self.participation.weight

    @node_weightage.setter
    def node_weightage(self, value: int) -> None:
        self.participation.set_weight(value)

    nodeWeightage = node_weightage  # noqa: N815 - HPE's name

    def close(self) -> None:
        """Leave the swarm without a last merge, as after an error in a notebook.

        A script that ends does it itself, and so does a callback that nothing refers to any more.
        """
        self.participation.close()


class SwarmCallback(Controls):
    """A site in a swarm, for a training loop of your own. See the module's docstring."""

    def on_train_begin(self) -> None:
        """Join: the model's weights become those that all sites start from. Raises NodeError without a federation."""
        self.participation.begin()

    def on_batch_end(self, batch: Any = None) -> bool:
        """One more batch was trained. When it is time, check in and go on from the merged weights.

        Returns ``stopped``. ``batch`` is not used: HPE has it.
        """
        return self.participation.batch_end()

    def on_epoch_end(self, epoch: int | None = None) -> bool:
        """Epoch ``epoch``, from 0, is done; None: one more. Returns ``stopped``."""
        return self.participation.epoch_end(epoch)

    def on_train_end(self) -> None:
        """The last merge: the model's weights become the final ones, the same on all sites."""
        self.participation.end()

    def epochs(self, epochs: int | Iterable[int]) -> Iterator[int]:
        """The numbers of the epochs, or those given, as far as the swarm trains; all methods but ``on_batch_end``.

        Whoever leaves the loop by ``break`` calls ``on_train_end()``.
        """
        total = 0 if isinstance(epochs, Iterable) else whole_number("epochs", epochs, 0)
        numbers = epochs if isinstance(epochs, Iterable) else range(total)
        self.participation.begin(total_epochs=total)
        for epoch in numbers:
            yield epoch
            if self.on_epoch_end(epoch):
                break
        self.on_train_end()

    def set_params(self, params: Any) -> NoReturn:
        """Called by Keras's ``fit``, which needs another class. Raises ModelError."""
        raise ModelError(
            "this SwarmCallback is for a loop of your own",
            where="model.fit",
            remedy="For Keras: from coterie.swarm.keras import SwarmCallback.",
        )

    def on_init_end(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Called by the Hugging Face Trainer, which needs another class. Raises ModelError."""
        raise ModelError(
            "this SwarmCallback is for a loop of your own",
            where="Trainer",
            remedy="For Hugging Face: from coterie.swarm.hf import SwarmCallback.",
        )
