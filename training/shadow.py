"""Shadow weights: the moving average of the weights that a run validates and saves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from dvt_tf.checkpoints import named_weights


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

    _supports_tf_logs = True  # Keras 2 then leaves the loss on the device

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

    def put_into_model(self) -> None:
        """Gives the model the averages for weights, for good."""
        for name, weight in self.weights.items():
            weight.assign(self.shadow[name].numpy())

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Within it, the model has the averages for weights."""
        own = {name: weight.numpy() for name, weight in self.weights.items()}
        self.put_into_model()
        try:
            yield
        finally:
            for name, weight in self.weights.items():
                weight.assign(own[name])
