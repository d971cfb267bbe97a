"""Multi-head self-attention that shows its logits, so that a downstream Transformer can reuse them."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow import keras


class Attention(keras.layers.Layer):
    """Multi-head self-attention (Vaswani et al., 2017) with an addend on its logits (Wang et al., 2021, section 3.3).

    Args:
        num_heads: heads; divides the width of the tokens.
        qkv_bias: whether the query, key and value projection has a bias.

    Call: tokens (B, N, D), and `relationship` (B, heads, N, N) float32 or None, which is added to the logits
    before softmax -> (output (B, N, D), logits (B, heads, N, N) float32 with what was added).
    Logits and softmax are float32 whatever the compute dtype.
    """

    def __init__(self, num_heads: int, qkv_bias: bool = True, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.num_heads = num_heads
        self.qkv_bias = qkv_bias

    def build(self, input_shape: Any) -> None:
        self.dim = int(input_shape[-1])
        start = keras.initializers.TruncatedNormal(stddev=0.02)
        self.qkv = keras.layers.Dense(
            3 * self.dim, use_bias=self.qkv_bias, kernel_initializer=start, dtype=self.dtype_policy, name="qkv"
        )
        self.projection = keras.layers.Dense(
            self.dim,
            kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.02),
            dtype=self.dtype_policy,
            name="projection",
        )
        self.qkv.build((None, None, self.dim))
        self.projection.build((None, None, self.dim))
        super().build(input_shape)

    def call(self, tokens: tf.Tensor, relationship: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        length, width = tf.shape(tokens)[1], self.dim // self.num_heads
        qkv = tf.reshape(self.qkv(tokens), (-1, length, 3, self.num_heads, width))
        query, key, value = tf.unstack(tf.transpose(qkv, (2, 0, 3, 1, 4)))  # each (B, heads, N, width)
        logits = tf.matmul(query * tf.cast(width**-0.5, query.dtype), key, transpose_b=True)
        logits = tf.cast(logits, tf.float32)  # (B, heads, N, N)
        if relationship is not None:
            logits += relationship
        mixed = tf.matmul(tf.cast(tf.nn.softmax(logits), value.dtype), value)  # (B, heads, N, width)
        mixed = tf.reshape(tf.transpose(mixed, (0, 2, 1, 3)), (-1, length, self.dim))
        return self.projection(mixed), logits

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_heads": self.num_heads, "qkv_bias": self.qkv_bias}
