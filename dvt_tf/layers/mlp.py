"""The MLP of a Transformer block, and its exact GELU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow import keras


@tf.custom_gradient
def gelu(inputs: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Exact (erf) GELU, any shape and float dtype; its gradient takes fewer passes than automatic differentiation's."""
    below = 0.5 + 0.5 * tf.math.erf(inputs * math.sqrt(0.5))  # the normal distribution's share below

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        density = tf.exp(-0.5 * tf.square(inputs)) * (1 / math.sqrt(2 * math.pi))
        return upstream * (below + inputs * density)

    return inputs * below, gradient


class MLP(keras.layers.Layer):
    """Linear, exact (erf) GELU, Linear.

    Args:
        hidden: hidden width.
        out: output width.

    Call: (B, N, D) -> (B, N, out) in the compute dtype.
    """

    def __init__(self, hidden: int, out: int, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.hidden = hidden
        self.out = out

    def build(self, input_shape: Any) -> None:
        self.fc1 = keras.layers.Dense(
            self.hidden,
            kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.02),
            dtype=self.dtype_policy,
            name="fc1",
        )
        self.fc2 = keras.layers.Dense(
            self.out,
            kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.02),
            dtype=self.dtype_policy,
            name="fc2",
        )
        self.fc1.build((None, None, int(input_shape[-1])))
        self.fc2.build((None, None, self.hidden))
        super().build(input_shape)

    def call(self, tokens: tf.Tensor) -> tf.Tensor:
        return self.fc2(gelu(self.fc1(tokens)))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "hidden": self.hidden, "out": self.out}
