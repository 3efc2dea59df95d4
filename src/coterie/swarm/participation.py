"""One site's part in one training, without any framework's names: what all the callbacks do.

What leaves the site: the model's weights at each check-in, the number of batches and epochs trained, the node's weight,
and loss and metric on ``adsValData`` where it is given. Data stay. Who sees the weights, and what a lying peer can do,
is the protocol's business, behind ``Session``; here a merged vector is believed to be of the right size and finite.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import math
import weakref
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch

from coterie.errors import CoterieError, RunError, SpecError, TrainingDiverged
from coterie.layout import is_finite
from coterie.swarm.opening import open_session
from coterie.swarm.session import CheckIn, Merged, Session, Terms
from coterie.swarm.settings import Settings, loopback, weight, whole_number
from coterie.training.frameworks import Figures, ModelAdapter, adapter_for
from coterie.training.frameworks.base import users_data


class Participation:
    """Counts batches, checks in when it is time, and lets the model go on from what was merged.

    With SWARM_LOOPBACK=True every method does nothing. Otherwise they raise what the session raises, ModelError for a
    model that cannot be held, and TrainingDiverged instead of checking in weights that are not finite. After an error,
    or Ctrl-C, the next ``batch_end`` tries again.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.loopback = loopback()
        self.weight = settings.node_weightage
        self._adapter: ModelAdapter | None = None
        if settings.model is not None and not self.loopback:
            self._adapt(settings.model)  # so that what is wrong with it is said at once
        self._session: Session | None = None
        self._leaving: weakref.finalize[[Session], Participation] | None = None
        self._over = self._ended = False
        self._steps = self._epochs = self._interval = 0
        self._figures = Figures()

    @property
    def stopped(self) -> bool:
        """Whether the swarm's training is over: there is no use in training on."""
        return self._over or self._ended

    def set_weight(self, value: int) -> None:
        """How much this site's model weighs from the next merge on, 1 to 100."""
        self.weight = weight("nodeWeightage", value)

    def begin(self, model: Any = None, total_epochs: int = 0) -> None:
        """Take part, and let the model begin where the others do. ``model``: what the framework hands over.

        An adapter of the user's own goes before it: it says which part of the model is to travel.
        """
        if self.loopback:
            return
        if self._session is not None:
            raise RunError("it has begun already", where="on_train_begin", remedy="Call on_train_end or close before.")
        settings = self.settings
        if model is None or isinstance(settings.model, ModelAdapter):
            model = settings.model
        adapter = self._adapter = self._adapt(model)  # anew: since the last training the model may have been changed
        adapter.check_platform()
        self._batches: Iterable[Any] | None = None
        if settings.ads_val_data is not None:
            with users_data():
                self._batches = adapter.unpack_validation(settings.ads_val_data, settings.ads_val_batch_size)
        self._merged = torch.empty(0 if settings.checkin_model_on_train_end == "snapshot" else adapter.layout.size)
        self._over = self._ended = False
        self._steps = self._epochs = 0
        terms = Terms(
            contract=settings.training_contract,
            min_peers=settings.min_peers,
            sync_frequency=settings.sync_frequency,
            adaptive=settings.use_adaptive_sync,
            merge=settings.merge_method,
            total_epochs=settings.total_epochs or total_epochs,
            opening=True,
        )
        vector = self._save(adapter)
        if self._batches is not None:  # before anybody waits for us, on one batch: here a wrong function shows
            self._evaluate(adapter, self._batches, most=1)
        self._session = settings.session or open_session(settings.home)
        self._leaving = weakref.finalize(self, _leave, self._session)  # as in a notebook whose cell is run again
        atexit.register(self._leaving)  # before the event loop ends
        try:
            self._accept(adapter, self._session.begin(terms, adapter.layout, vector))
        except BaseException:
            self.close()
            raise

    def batch_end(self, batches: int = 1) -> bool:
        """``batches`` more were trained; check in when it is time. Returns ``stopped``."""
        if self.loopback or self.stopped:
            return self.stopped
        session, adapter = self._begun("on_batch_end")
        self._steps += batches
        if self._steps >= self._interval:
            self._accept(adapter, session.sync(self._checkin(self._save(adapter), self.weight)))
        return self._over

    def epoch_end(self, epoch: int | None = None) -> bool:
        """Epoch number ``epoch``, from 0, is done; None: one more. Returns ``stopped``."""
        if not self.loopback and not self.stopped:
            self._begun("on_epoch_end")
            self._epochs = 1 + (self._epochs if epoch is None else whole_number("epoch", epoch, 0))
        return self.stopped

    def end(self) -> None:
        """Take part in the last merge, let the model be what came of it, and leave. A second call does nothing."""
        if self.loopback or self._ended:
            return
        session, adapter = self._begun("on_train_end")
        mode = self.settings.checkin_model_on_train_end
        vector = self._save(adapter) if mode == "snapshot" else self._merged  # one that diverged does not matter then
        checkin = self._checkin(vector, 0 if mode == "inactive" else self.weight)
        self._accept(adapter, session.end(replace(checkin, mode=mode)))
        self._ended = True
        session.close(self._figures)
        self._session = None
        if self._leaving is not None:
            self._leaving.detach()

    def close(self) -> None:
        """Leave without a last merge, where ``end`` was not reached; the model stays as it is."""
        self._session = None
        if self._leaving is not None:
            self._leaving()

    def _adapt(self, model: Any) -> ModelAdapter:
        settings = self.settings
        if model is None:
            raise SpecError("it is required", where="SwarmCallback: model", remedy="Give it: model=<your model>.")
        return adapter_for(model, settings.functions, platform=settings.ml_platform, hf_mode=settings.hf_mode)

    def _begun(self, where: str) -> tuple[Session, ModelAdapter]:
        if self._session is None or self._adapter is None:
            raise RunError("the training has not begun", where=where, remedy="Call on_train_begin() first.")
        return self._session, self._adapter

    def _save(self, adapter: ModelAdapter) -> torch.Tensor:
        """The weights, in memory of their own."""
        vector = torch.empty(adapter.layout.size)
        adapter.save_weights(vector)
        if is_finite(vector):
            return vector
        index = int((~vector.isfinite()).nonzero()[0])
        name = next(slot.name for slot in adapter.layout.slots if slot.offset <= index < slot.offset + slot.size)
        constant = " Or, if it is a constant such as a mask, let it stay here: register_buffer(..., persistent=False)."
        raise TrainingDiverged(
            f"{name} has a value that is not finite; it was not checked in",
            where=f"batch {self._steps} after the last merge",
            remedy="Lower the learning rate, or clip gradients." + constant * (index >= adapter.layout.trainable),
        )

    def _checkin(self, vector: torch.Tensor, weighs: int) -> CheckIn:
        return CheckIn(vector, weighs, self._steps, self._epochs, self._figures)

    def _accept(self, adapter: ModelAdapter, merged: Merged) -> None:
        """Let the model go on from ``merged``."""
        adapter.load_weights(merged.vector)
        if self.settings.checkin_model_on_train_end != "snapshot":
            self._merged = merged.vector.clone()
        self._steps, self._interval, self._over = 0, max(1, merged.next_interval), merged.over
        self._figures = Figures() if self._batches is None else self._evaluate(adapter, self._batches)
        figures = ", ".join(f"{name} {value:.4g}" for name, value in vars(self._figures).items() if value is not None)
        self.settings.logger.info(
            "merge %d of %d models%s; %s",
            merged.round,
            merged.peers,
            f": {figures}" if figures else "",
            "training is over" if merged.over else f"the next after {self._interval} batches",
        )

    def _evaluate(self, adapter: ModelAdapter, batches: Iterable[Any], most: int | None = None) -> Figures:
        with torch.random.fork_rng([]), users_data():  # a loader draws a seed: what the script's training draws stays
            found = adapter.evaluate(batches if most is None else itertools.islice(batches, most))
        if found.loss is None and (self.settings.use_adaptive_sync or found.metric is None):
            raise SpecError(
                "there is no loss to compute on adsValData", where="SwarmCallback: lossFunction", remedy="Name one."
            )
        return Figures(_finite(found.loss), _finite(found.metric))


def _leave(session: Session) -> None:
    with contextlib.suppress(CoterieError):
        session.close(None)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
