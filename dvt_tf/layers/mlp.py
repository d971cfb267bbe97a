"""The MLP of a Transformer block, and its exact GELU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow import keras

from dvt_tf.layers.linear import Linear, linear_start


@tf.custom_gradient
def gelu(inputs: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Exact (erf) GELU, any shape and float dtype; its gradient is one pass over memory."""
    outputs = inputs * (0.5 + 0.5 * tf.math.erf(inputs * math.sqrt(0.5)))

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(_gelu_gradient(inputs, upstream), inputs.shape)

    return outputs, gradient


# XLA makes one pass of what is a dozen op by op, a sixth of a training step; the whole step is slower under it on a
# CPU. The forward pass is not compiled, since servers without XLA run it.
@tf.function(jit_compile=True, reduce_retracing=True, autograph=False)
def _gelu_gradient(inputs: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    x = tf.cast(inputs, tf.float32)
    below = 0.5 + 0.5 * tf.math.erf(x * math.sqrt(0.5))  # the normal distribution's share below x
    density = tf.exp(-0.5 * tf.square(x)) * (1 / math.sqrt(2 * math.pi))
    return tf.cast(tf.cast(upstream, tf.float32) * (below + x * density), inputs.dtype)


class MLP(keras.layers.Layer):
    """Linear, exact (erf) GELU, Linear.

    Args:
        hidden: hidden width.
        out: output width.
        init: how both layers start; see `linear_start`.

    Call: (B, N, D) -> (B, N, out) in the compute dtype.
    """

    def __init__(self, hidden: int, out: int, init: str = "normal", **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.hidden = hidden
        self.out = out
        self.init = init

    def build(self, input_shape: Any) -> None:
        self.fc1 = Linear(
            self.hidden,
            kernel_initializer=linear_start(self.init),
            dtype=self.dtype_policy,
            name="fc1",
        )
        self.fc2 = Linear(
            self.out,
            kernel_initializer=linear_start(self.init),
            dtype=self.dtype_policy,
            name="fc2",
        )
        self.fc1.build((None, None, int(input_shape[-1])))
        self.fc2.build((None, None, self.hidden))
        super().build(input_shape)

    def call(self, tokens: tf.Tensor) -> tf.Tensor:
        return self.fc2(gelu(self.fc1(tokens)))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "hidden": self.hidden, "out": self.out, "init": self.init}
