"""Multi-head self-attention that shows its logits, so that a downstream Transformer can reuse them."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow import keras

from dvt_tf.layers.linear import Linear, linear_start
from dvt_tf.layers.matmul import matmul


class AttentionMath:
    """What attention computes with its parts, in training and folded for inference (`dvt_tf.optimize`).

    num_heads; qkv: tokens -> (B, N, 3 D); projection: (B, N, D) -> (B, N, D); scale: of the queries, 1 where it is in
    the weights already.
    """

    num_heads: int
    qkv: Any
    projection: Any
    scale: float

    def attend(self, tokens: tf.Tensor, relationship: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        """(B, N, D) and (B, heads, N, N) or None -> (B, N, D), logits (B, heads, N, N) float32."""
        qkv = self.qkv(tokens)
        length, dim = tf.shape(tokens)[1], qkv.shape[-1] // 3
        qkv = tf.reshape(qkv, (-1, length, 3, self.num_heads, dim // self.num_heads))
        query, key, value = tf.unstack(tf.transpose(qkv, (2, 0, 3, 1, 4)))  # each (B, heads, N, width)
        if self.scale != 1:
            query *= tf.cast(self.scale, query.dtype)
        logits = tf.cast(matmul(query, key, transpose_b=True), tf.float32)  # (B, heads, N, N)
        if relationship is not None:
            logits += relationship
        mixed = matmul(tf.cast(tf.nn.softmax(logits), value.dtype), value)  # (B, heads, N, width)
        mixed = tf.reshape(tf.transpose(mixed, (0, 2, 1, 3)), (-1, length, dim))
        return self.projection(mixed), logits


class Attention(AttentionMath, keras.layers.Layer):
    """Multi-head self-attention (Vaswani et al., 2017) with an addend on its logits (Wang et al., 2021, section 3.3).

    Args:
        num_heads: heads; divides the width of the tokens.
        qkv_bias: whether the query, key and value projection has a bias.
        init: how both projections start; see `linear_start`.

    Call: tokens (B, N, D), and `relationship` (B, heads, N, N) float32 or None, which is added to the logits
    before softmax -> (output (B, N, D), logits (B, heads, N, N) float32 with what was added).
    Logits and softmax are float32 whatever the compute dtype.
    """

    def __init__(self, num_heads: int, qkv_bias: bool = True, init: str = "normal", **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.num_heads = num_heads
        self.qkv_bias = qkv_bias
        self.init = init

    def build(self, input_shape: Any) -> None:
        self.dim = int(input_shape[-1])
        self.scale = (self.dim // self.num_heads) ** -0.5
        self.qkv = Linear(
            3 * self.dim,
            use_bias=self.qkv_bias,
            kernel_initializer=linear_start(self.init),
            dtype=self.dtype_policy,
            name="qkv",
        )
        self.projection = Linear(
            self.dim,
            kernel_initializer=linear_start(self.init),
            dtype=self.dtype_policy,
            name="projection",
        )
        self.qkv.build((None, None, self.dim))
        self.projection.build((None, None, self.dim))
        super().build(input_shape)

    def call(self, tokens: tf.Tensor, relationship: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        return self.attend(tokens, relationship)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_heads": self.num_heads, "qkv_bias": self.qkv_bias, "init": self.init}
