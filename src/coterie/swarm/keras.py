"""``SwarmCallback`` for Keras 3: ``model.fit(..., callbacks=[SwarmCallback(syncFrequency=128, minPeers=3)])``."""

from __future__ import annotations

from typing import Any

from coterie.swarm.callback import Controls
from coterie.training.frameworks.extras import require

keras = require("keras", "keras")


class SwarmCallback(Controls, keras.callbacks.Callback):  # type: ignore[misc, name-defined]  # keras has no types
    """A site in a swarm, for ``model.fit``. When the swarm's training is over, ``fit`` stops.

    Put it last of the callbacks: one after it that changes weights when training ends, as EarlyStopping does with
    ``restore_best_weights``, would leave this site with another model than the others have. ``model=`` is not needed:
    Keras hands it over. See ``coterie.swarm.settings.Settings`` for what it takes.
    """

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._batch = -1
        self.participation.begin(self.model, total_epochs=int((self.params or {}).get("epochs") or 0))

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._batch = -1

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        batches, self._batch = batch - self._batch, batch  # several at once with steps_per_execution
        if self.participation.batch_end(batches):
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self.participation.epoch_end(epoch):
            self.model.stop_training = True

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.participation.end()
