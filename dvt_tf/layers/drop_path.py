"""Stochastic depth whose draws are a pure function of a seed, so that a resumed training is the same training."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow import keras


class DropPath(keras.layers.Layer):
    """Drops a residual branch for whole examples in training (Huang et al., 2016, arXiv 1603.09382).

    Args:
        rate: the share of examples whose branch is dropped; the others are scaled by 1 / (1 - rate).

    Call: `branch` (B, N, D) any float dtype and `seed` (2,) int32 -> (B, N, D). Without a seed, the identity.
    """

    def __init__(self, rate: float, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"DropPath rate must be at least 0 and below 1, not {rate!r}")
        self.rate = rate

    def call(self, branch: tf.Tensor, seed: tf.Tensor | None = None) -> tf.Tensor:
        if seed is None or self.rate == 0.0:
            return branch
        keep = 1.0 - self.rate
        draws = tf.random.stateless_uniform((tf.shape(branch)[0], 1, 1), seed)  # (B, 1, 1)
        return branch * tf.cast(tf.cast(draws < keep, tf.float32) / keep, branch.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate}
