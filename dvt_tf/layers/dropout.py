"""Dropout whose draws are a pure function of a seed, so that a resumed training is the same training."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow import keras


class StatelessDropout(keras.layers.Layer):
    """Sets single values to zero in training (Srivastava et al., 2014).

    Args:
        rate: the share set to zero; the others are scaled by 1 / (1 - rate).

    Call: `values` of any shape and float dtype and `seed` (2,) int32 -> the same shape. Without a seed, the identity.
    """

    def __init__(self, rate: float, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"{type(self).__name__} rate must be at least 0 and below 1, not {rate!r}")
        self.rate = rate

    def call(self, values: tf.Tensor, seed: tf.Tensor | None = None) -> tf.Tensor:
        if seed is None or self.rate == 0.0:
            return values
        keep = 1.0 - self.rate
        draws = tf.random.stateless_uniform(self._draws_shape(values), seed)
        return values * tf.cast(tf.cast(draws < keep, tf.float32) / keep, values.dtype)

    def _draws_shape(self, values: tf.Tensor) -> Any:
        """One draw for each value; broadcasts against the values where it is smaller."""
        return tf.shape(values)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate}
