"""Keras callbacks that keep a run: the logs of an epoch in two parts, and the state that it can be resumed from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tensorflow import keras

from training.damaged import DamagedImages
from training.reporting import refuse_vanished
from training.schedule import Plan
from training.shadow import ShadowWeights
from training.state import STATE_FILE, Progress, save_state
from training.stopping import Stopped, StopRequest
from training.validation import Validation

AGREE_EVERY = 10  # steps between two times that machines ask each other whether to stop
CHECK_EVERY = 50  # steps between two looks at the loss: each makes a GPU wait


class Diverged(Exception):
    """The loss or a weight is no longer a finite number."""


class EpochLogs(keras.callbacks.Callback):
    """Makes the logs of an epoch that was interrupted those of all of it; to be the first callback.

    Args:
        before: means over the steps that were taken before. steps: how many these were.
    """

    def __init__(self, before: Mapping[str, float], steps: int, steps_per_epoch: int) -> None:
        super().__init__()
        self.before = dict(before)
        self.steps = steps
        self.steps_per_epoch = steps_per_epoch

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None:
            logs.update(self.of_all(logs, self.steps_per_epoch))
        self.before, self.steps = {}, 0

    def of_all(self, logs: Mapping[str, Any], steps: int) -> dict[str, float]:
        """Means over the first `steps` steps of the epoch, from those over what was done of them now."""
        now = {name: float(value) for name, value in logs.items()}
        weight = self.steps / steps
        return {name: (1 - weight) * value + weight * self.before.get(name, value) for name, value in now.items()}


class SaveState(keras.callbacks.Callback):
    """Saves the run after every epoch and now and then, so that it can be killed at any moment and resumed.

    Also what ends a run early: a request to stop, too many damaged images, a loss that is no number any more. What was
    saved last stays.

    Args:
        folder: of the run; None on a machine that saves nothing. trainer: what is trained. shadow: its averages.
        logs: of this run. validation: of this run. damaged: images met. stop: what may ask to stop.
        plan: of the run. described: see `save_state`. step: optimizer steps already taken.
        every: seconds between two saves within an epoch.
        stop_after: stop as if asked to, after that many steps; 0 for never.
        on_any_machine: see `devices.on_any_machine`: several machines can only stop at the same step.
    """

    _supports_tf_logs = True  # Keras 2 then leaves the loss on the device until it is looked at

    def __init__(
        self,
        folder: Path | None,
        trainer: keras.Model,
        shadow: ShadowWeights,
        logs: EpochLogs,
        validation: Validation,
        damaged: DamagedImages,
        stop: StopRequest,
        plan: Plan,
        described: dict[str, Any],
        step: int,
        every: float,
        stop_after: int = 0,
        on_any_machine: Callable[[bool], bool] | None = None,
    ) -> None:
        super().__init__()
        self.on_any_machine = on_any_machine
        self.path = folder / STATE_FILE if folder else None
        self.trainer = trainer
        self.shadow = shadow
        self.logs = logs
        self.validation = validation
        self.damaged = damaged
        self.stop = stop
        self.plan = plan
        self.described = described
        self.step = step
        self.saved_step = step
        self.every = every
        self.stop_after = stop_after
        self._last = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.step += 1
        self.damaged.check()
        asked = self._asked()
        due = time.monotonic() - self._last > self.every
        if self.step % CHECK_EVERY and not (asked or due):
            return
        self._check_loss(logs)
        within = self.step % self.plan.steps_per_epoch
        if within and (asked or due):  # at the end of an epoch there is more to it
            self._save(self.logs.of_all(logs or {}, within))
            self._leave(asked)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.damaged.check()
        self._check_loss(logs)
        self._save({})
        self._leave(self._asked())

    def _asked(self) -> str:
        """By what the run has been asked to stop; "" if it has not."""
        asked = self.stop.signal or ("its limit of steps" if self.step == self.stop_after else "")
        if self.on_any_machine is None:
            return asked
        if self.step % AGREE_EVERY and self.step % self.plan.steps_per_epoch:
            return ""
        return (asked or "a signal to another machine") if self.on_any_machine(bool(asked)) else ""

    def _check_loss(self, logs: Mapping[str, Any] | None) -> None:
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            raise Diverged(self._words(f"the loss is {loss} by step {self.step}"))

    def _save(self, partial: dict[str, float]) -> None:
        if self.path is not None:
            refuse_vanished(self.path.parent)
            progress = Progress(self.step, self.validation.best, partial)
            try:
                save_state(
                    self.path, self.trainer, self.trainer.optimizer, self.shadow.values(), progress, self.described
                )
            except ValueError as error:
                raise Diverged(self._words(str(error))) from error
        self.saved_step = self.step
        self._last = time.monotonic()

    def _leave(self, asked: str) -> None:
        if asked and self.step < self.plan.steps:
            raise Stopped(f"stopped by {asked} after step {self.step} of {self.plan.steps}; add --resume to go on")

    def _words(self, fault: str) -> str:
        return (
            f"{fault} (epoch {(self.step - 1) // self.plan.steps_per_epoch + 1}); a lower learning_rate, clip_norm or "
            f"precision float32 may help. The last good state, of step {self.saved_step}, is kept"
        )
