"""Keras callbacks of a run: shadow weights and their validation, saved state, and the history."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from dvt_tf.checkpoints import named_weights
from training.state import save_state


class ShadowWeights(keras.callbacks.Callback):
    """An exponential moving average of the weights, updated after every step (Polyak and Juditsky, 1992).

    Keras's own (`use_ema`) differs between its generations and overwrites the weights when `fit` ends; this one keeps
    the average beside the weights. With `warmup` the decay of step t is min(decay, (1 + t) / (10 + t)), so that a short
    run is not weighed down by where it started.

    Args:
        weighed: the model whose trainable weights are averaged.
        decay: of the average.
        start: shadow weights of a resumed run, by name.
        step: optimizer steps already taken.
        warmup: whether the decay is reached gradually.
    """

    def __init__(
        self,
        weighed: keras.Model,
        decay: float,
        start: dict[str, np.ndarray] | None = None,
        step: int = 0,
        warmup: bool = True,
    ) -> None:
        super().__init__()
        self.decay = decay
        self.warmup = warmup
        self.weights = {name: w for name, w in named_weights(weighed) if w.trainable}
        start = start or {}
        self.shadow = {
            name: tf.Variable(start[name] if name in start else w.numpy(), trainable=False, dtype=tf.float32)
            for name, w in self.weights.items()
        }
        self.step = tf.Variable(step, dtype=tf.int64, trainable=False)

    @tf.function
    def _update(self) -> None:
        step = tf.cast(self.step.assign_add(1), tf.float32)
        decay = tf.minimum(self.decay, (1.0 + step) / (10.0 + step)) if self.warmup else self.decay
        for name, weight in self.weights.items():
            value = tf.cast(tf.convert_to_tensor(weight), tf.float32)
            self.shadow[name].assign_sub((1.0 - decay) * (self.shadow[name] - value))

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._update()

    def values(self) -> dict[str, np.ndarray]:
        """The averages by name."""
        return {name: shadow.numpy() for name, shadow in self.shadow.items()}

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Within it, the model has the averages for weights."""
        own = {name: weight.numpy() for name, weight in self.weights.items()}
        for name, weight in self.weights.items():
            weight.assign(self.shadow[name].numpy())
        try:
            yield
        finally:
            for name, weight in self.weights.items():
                weight.assign(own[name])


class Validation(keras.callbacks.Callback):
    """Top-1 of every exit with the shadow weights, into the epoch's logs as `val_exit_k_top1`.

    Args:
        shadow: the shadow weights. cascade: their model. images: (N, S, S, 3) normalised. labels: (N,).
        every: epochs between two validations; the last epoch is always validated.
        epochs: of the run.
    """

    def __init__(
        self, shadow: ShadowWeights, cascade: keras.Model, images: Any, labels: np.ndarray, every: int, epochs: int
    ) -> None:
        super().__init__()
        self.shadow = shadow
        self.labels = labels
        self.every = every
        self.epochs = epochs
        self.batches = tf.data.Dataset.from_tensor_slices(images).batch(100)
        self.predict = tf.function(
            lambda batch: [tf.argmax(logits, -1) for logits in cascade(batch, training=False).values()]
        )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if (epoch + 1) % self.every and epoch + 1 != self.epochs:
            return
        with self.shadow.swapped():
            parts = [np.stack([top.numpy() for top in self.predict(batch)], 1) for batch in self.batches]
        right = np.concatenate(parts) == self.labels[:, None]  # (N, exits)
        if logs is not None:
            logs.update({f"val_exit_{i + 1}_top1": float(share) for i, share in enumerate(right.mean(0))})


class SaveState(keras.callbacks.Callback):
    """Saves the run after every epoch, so that it can be killed at any moment and resumed."""

    def __init__(self, path: Path, trainer: keras.Model, shadow: ShadowWeights, recipe: str) -> None:
        super().__init__()
        self.path = path
        self.trainer = trainer
        self.shadow = shadow
        self.recipe = recipe

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        save_state(self.path, self.trainer, self.trainer.optimizer, self.shadow.values(), epoch + 1, self.recipe)


class HistoryFile(keras.callbacks.Callback):
    """history.csv: one row per epoch; rows of epochs that a resumed run repeats are dropped."""

    def __init__(self, path: Path, images_per_epoch: int, first_epoch: int) -> None:
        super().__init__()
        self.path = path
        self.images_per_epoch = images_per_epoch
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["epoch"]) <= first_epoch]

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        values = {key: f"{float(value):.6g}" for key, value in (logs or {}).items()}
        self.rows.append({"epoch": epoch + 1, "images": (epoch + 1) * self.images_per_epoch, **values})
        names = list(dict.fromkeys(key for row in self.rows for key in row))
        temporary = self.path.with_suffix(".writing")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows)
        os.replace(temporary, self.path)
