"""Validation of the shadow weights on all devices, every image once, and the best model so far."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow import keras

from training.objective import exit_names
from training.shadow import ShadowWeights


class Validation(keras.callbacks.Callback):
    """Top-1 of every exit with the shadow weights, into the epoch's logs as `val_exit_k_top1`.

    Args:
        shadow: the shadow weights. cascade: their model.
        batches: what to validate on, (images (B, S, S, 3) normalised, labels (B,)), B at most `batch_size`.
        batch_size: of all devices together. strategy: which devices.
        every: epochs between two validations; the last epoch is always validated. epochs: of the run.
        best: top-1 of the last exit in the best validation so far; below 0 for none.
        save_best: called, while the model has the shadow weights, after a validation better than any before.
    """

    def __init__(
        self,
        shadow: ShadowWeights,
        cascade: keras.Model,
        batches: tf.data.Dataset,
        batch_size: int,
        strategy: tf.distribute.Strategy,
        every: int,
        epochs: int,
        best: float = -1.0,
        save_best: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self.shadow = shadow
        self.cascade = cascade
        self.strategy = strategy
        self.every = every
        self.epochs = epochs
        self.best = best
        self.save_best = save_best
        self.batches = _padded(batches, batch_size)
        self._count = tf.function(self._count_right, autograph=False)

    def _count_right(self, images: Any, labels: Any, real: Any) -> tf.Tensor:
        """Of a batch split up, how many images are real and how many of these each exit gets right: (1 + exits,)."""

        def on_replica(images: tf.Tensor, labels: tf.Tensor, real: tf.Tensor) -> tf.Tensor:
            outputs = self.cascade(images, training=False)
            counts = [tf.reduce_sum(tf.cast(real, tf.int32))]
            for name in exit_names(self.cascade.num_exits):
                right = tf.equal(tf.argmax(outputs[name], -1, output_type=tf.int32), labels) & real
                counts.append(tf.reduce_sum(tf.cast(right, tf.int32)))
            return tf.stack(counts)

        per_replica = self.strategy.run(on_replica, args=(images, labels, real))
        return self.strategy.reduce("SUM", per_replica, axis=None)

    def _split(self, value: tf.Tensor) -> Any:
        """A batch to the replicas, an equal part to each."""

        def part(context: tf.distribute.experimental.ValueContext) -> tf.Tensor:
            size = value.shape[0] // context.num_replicas_in_sync
            return value[context.replica_id_in_sync_group * size :][:size]

        return self.strategy.experimental_distribute_values_from_function(part)

    def top1(self) -> list[float]:
        """Share of right answers of each exit with the weights that the model has."""
        total = sum(self._count(*map(self._split, batch)) for batch in self.batches)
        if isinstance(total, int) or not int(total[0]):
            raise ValueError("there is not one image to validate on")
        return [float(right) / int(total[0]) for right in total[1:]]

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if (epoch + 1) % self.every and epoch + 1 != self.epochs:
            return
        with self.shadow.swapped():
            shares = self.top1()
            if logs is not None:
                logs.update({f"val_{name}_top1": share for name, share in zip(exit_names(len(shares)), shares)})
            if shares[-1] > self.best:
                self.best = shares[-1]
                if self.save_best is not None:
                    self.save_best()


def _padded(batches: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
    """(images, labels, whether each is real), all batches of one size: an uneven one cannot be split exactly."""

    @tf.autograph.experimental.do_not_convert
    def pad(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, ...]:
        missing = batch_size - tf.shape(labels)[0]
        real = tf.pad(tf.ones_like(labels, tf.bool), [[0, missing]])
        padded = tf.pad(images, [[0, missing], [0, 0], [0, 0], [0, 0]]), tf.pad(labels, [[0, missing]]), real
        return tuple(tf.ensure_shape(one, [batch_size, *one.shape[1:]]) for one in padded)

    return batches.map(pad)
