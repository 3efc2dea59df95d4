"""``SwarmCallback`` for the Hugging Face Trainer: ``Trainer(..., callbacks=[SwarmCallback(hfMode="peft", ...)])``."""

from __future__ import annotations

import math
from typing import Any

from coterie.swarm.callback import Controls
from coterie.training.frameworks.extras import require

require("transformers", "hf")

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments  # noqa: E402


class SwarmCallback(Controls, TrainerCallback):  # type: ignore[misc]  # transformers' are not all there
    """A site in a swarm, for ``Trainer.train``. When the swarm's training is over, the Trainer stops.

    A batch is an optimizer step, all accumulated gradients together. ``model=`` is not needed: the Trainer hands it
    over. ``hfMode="peft"``: only the active adapter travels. See ``coterie.swarm.settings.Settings`` for what it takes.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        self.participation.begin(model, total_epochs=math.ceil(state.num_train_epochs or 0))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if self.participation.batch_end():
            control.should_training_stop = True
        return control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if self.participation.epoch_end(max(0, round(state.epoch or 0) - 1)):
            control.should_training_stop = True
        return control

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.participation.end()
