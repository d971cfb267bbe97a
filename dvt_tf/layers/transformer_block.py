"""One pre-norm Transformer block, with the two places where it can take in what an upstream Transformer knows."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow import keras

from dvt_tf.layers.attention import Attention
from dvt_tf.layers.drop_path import DropPath
from dvt_tf.layers.mlp import MLP
from dvt_tf.layers.norm import LayerNorm


class BlockMath:
    """What a block computes with its parts, in training and folded for inference (`dvt_tf.optimize`).

    norm1 and norm2: (B, N, any) -> the same; attention: see `Attention`; mlp: (B, N, D + reuse_dim) -> (B, N, D);
    reuse_dim: channels of features, 0 for none.
    """

    name: str
    norm1: Any
    attention: Any
    norm2: Any
    mlp: Any
    reuse_dim: int

    def run(
        self, tokens: tf.Tensor, features: tf.Tensor | None, relationship: tf.Tensor | None, seed: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """As `TransformerBlock`'s call."""
        branch, logits = self.attention(self.norm1(tokens), relationship=relationship)
        tokens += self._drop(branch, seed, 0)
        entering = tokens
        if self.reuse_dim:
            if features is None:
                raise ValueError(f"{self.name} reuses {self.reuse_dim} channels of upstream features and got none")
            entering = tf.concat([tokens, features], -1)  # (B, N, D + reuse_dim)
        return tokens + self._drop(self.mlp(self.norm2(entering)), seed, 1), logits

    def _drop(self, branch: tf.Tensor, seed: tf.Tensor | None, which: int) -> tf.Tensor:
        return tf.cast(branch, tf.float32)


class TransformerBlock(BlockMath, keras.layers.Layer):
    """x + Attention(LayerNorm(x)), then x + MLP(LayerNorm(x)), with reuse (Wang et al., 2021, section 3.3).

    Args:
        num_heads: attention heads.
        mlp_dim: hidden width of the MLP.
        qkv_bias: see `Attention`.
        norm_epsilon: epsilon of both norms.
        reuse_dim: channels of reused features concatenated before the second norm; 0 for none.
        drop_path_rate: stochastic depth of both branches.
        init: how linear layers start; see `linear_start`.

    Call: tokens (B, N, D); `features` (B, N, reuse_dim) or None; `relationship` (B, heads, N, N) or None; all float32;
    `seed` (2,) int32 for stochastic depth or None -> (tokens (B, N, D), logits (B, heads, N, N)), both float32.
    The residual stream and the norms are float32 whatever the compute dtype.
    """

    def __init__(
        self,
        num_heads: int,
        mlp_dim: int,
        qkv_bias: bool = True,
        norm_epsilon: float = 1e-6,
        reuse_dim: int = 0,
        drop_path_rate: float = 0.0,
        init: str = "normal",
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        self.num_heads = num_heads
        self.mlp_dim = mlp_dim
        self.qkv_bias = qkv_bias
        self.norm_epsilon = norm_epsilon
        self.reuse_dim = reuse_dim
        self.drop_path_rate = drop_path_rate
        self.init = init

    def build(self, input_shape: Any) -> None:
        dim = int(input_shape[-1])
        self.norm1 = LayerNorm(epsilon=self.norm_epsilon, dtype="float32", name="norm1")
        self.attention = Attention(self.num_heads, self.qkv_bias, self.init, dtype=self.dtype_policy, name="attention")
        self.norm2 = LayerNorm(epsilon=self.norm_epsilon, dtype="float32", name="norm2")
        self.mlp = MLP(self.mlp_dim, dim, self.init, dtype=self.dtype_policy, name="mlp")
        self.drop_path = DropPath(self.drop_path_rate, dtype="float32", name="drop_path")
        self.norm1.build((None, None, dim))
        self.attention.build((None, None, dim))
        self.norm2.build((None, None, dim + self.reuse_dim))
        self.mlp.build((None, None, dim + self.reuse_dim))
        super().build(input_shape)

    def call(
        self,
        tokens: tf.Tensor,
        features: tf.Tensor | None = None,
        relationship: tf.Tensor | None = None,
        seed: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        return self.run(tokens, features, relationship, seed)

    def _drop(self, branch: tf.Tensor, seed: tf.Tensor | None, which: int) -> tf.Tensor:
        branch = super()._drop(branch, seed, which)
        if seed is None or not self.drop_path_rate:
            return branch
        return self.drop_path(branch, seed=tf.random.experimental.stateless_fold_in(seed, which))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim,
            "qkv_bias": self.qkv_bias,
            "norm_epsilon": self.norm_epsilon,
            "reuse_dim": self.reuse_dim,
            "drop_path_rate": self.drop_path_rate,
            "init": self.init,
        }
