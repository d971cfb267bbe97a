"""The one-head performer that turns a soft split's patches into narrow tokens (Choromanski et al., 2021; T2T-ViT)."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf
from tensorflow import keras

from dvt_tf.layers.dropout import StatelessDropout
from dvt_tf.layers.linear import Linear, linear_start
from dvt_tf.layers.mlp import MLP
from dvt_tf.layers.norm import LayerNorm

# Keeps the division finite; far below float16's smallest number, one more reason for float32 here.
_DIVISION_EPSILON = 1e-8


class RandomFeaturesMath:
    """What `PositiveRandomFeatures` computes; frequencies: (m, D), count: m."""

    frequencies: Any
    count: int

    def run(self, vectors: tf.Tensor) -> tf.Tensor:
        """(B, N, D) -> (B, N, m) float32."""
        vectors = tf.cast(vectors, tf.float32)
        half_norm = 0.5 * tf.reduce_sum(tf.square(vectors), -1, keepdims=True)  # (B, N, 1)
        along = tf.matmul(vectors, tf.convert_to_tensor(self.frequencies), transpose_b=True)  # (B, N, m)
        return tf.exp(along - half_norm) * (1 / math.sqrt(self.count))


class PositiveRandomFeatures(RandomFeaturesMath, keras.layers.Layer):
    """f(x) = exp(w x - |x|^2 / 2) / sqrt(m), whose dot products f(x) . f(y) are exp(x . y) on average over w.

    Choromanski et al., 2021 (arXiv 2009.14794), lemma 1. w (m, D) is stored with the weights and never trained.

    Args:
        count: m, the rows of w.

    Call: vectors (B, N, D) -> (B, N, m), float32 whatever the policy around it.
    """

    def __init__(self, count: int, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.count = count

    def build(self, input_shape: Any) -> None:
        # Orthogonal rows, as Choromanski et al. advise, of the length that the published code gives them.
        self.frequencies = self.add_weight(
            name="frequencies",
            shape=(self.count, int(input_shape[-1])),
            initializer=keras.initializers.Orthogonal(gain=math.sqrt(self.count)),
            trainable=False,
        )
        super().build(input_shape)

    def call(self, vectors: tf.Tensor) -> tf.Tensor:
        return self.run(vectors)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "count": self.count}


class PerformerMath:
    """What a performer computes with its parts, in training and folded for inference (`dvt_tf.optimize`).

    norm1: of the patches; kqv: those -> (B, N, 3 dim); features: `PositiveRandomFeatures`; projection, mlp: (B, N, dim)
    -> the same; norm2.
    """

    norm1: Any
    kqv: Any
    features: Any
    projection: Any
    norm2: Any
    mlp: Any

    def run(self, patches: Any, seed: tf.Tensor | None = None) -> tf.Tensor:
        """As `Performer`'s call."""
        kqv = tf.cast(self.kqv(self.norm1(patches)), tf.float32)  # (B, N, 3 dim)
        keys, queries, values = tf.split(kqv, 3, axis=-1)  # each (B, N, dim), in the published order
        keys, queries = self.features(keys), self.features(queries)  # (B, N, m)
        mixed = tf.matmul(keys, values, transpose_a=True)  # (B, m, dim)
        total = tf.reduce_sum(keys, 1, keepdims=True)  # (B, 1, m)
        weight = tf.matmul(queries, total, transpose_b=True) + _DIVISION_EPSILON  # (B, N, 1)
        attended = tf.matmul(queries, mixed) / weight  # (B, N, dim)
        tokens = values + self._drop(self.projection(attended), seed, 0)
        return tokens + self._drop(self.mlp(self.norm2(tokens)), seed, 1)

    def _drop(self, branch: tf.Tensor, seed: tf.Tensor | None, which: int) -> tf.Tensor:
        return tf.cast(branch, tf.float32)


class Performer(PerformerMath, keras.layers.Layer):
    """Linear-time attention by positive random features, then an MLP (Yuan et al., 2021, arXiv 2101.11986).

    With f the positive random features, the attended values are f(q) (f(k)^T v) / (f(q) sum f(k) + 1e-8). The first
    residual starts at the values, since the patches are wider than they.

    Args:
        dim: width of keys, queries, values and of the output (64 in T2T-ViT).
        random_features: how many there are (32 in T2T-ViT).
        norm_epsilon: epsilon of both norms.
        dropout_rate: in training, after the projection and after the MLP.
        init: how linear layers start; see `linear_start`.

    Call: patches (B, N, D) any float dtype, `seed` (2,) int32 for dropout or None -> tokens (B, N, dim) float32.
    Norms, random features and the division are float32 whatever the compute dtype.
    """

    def __init__(
        self,
        dim: int = 64,
        random_features: int = 32,
        norm_epsilon: float = 1e-5,
        dropout_rate: float = 0.1,
        init: str = "normal",
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        self.dim = dim
        self.random_features = random_features
        self.norm_epsilon = norm_epsilon
        self.dropout_rate = dropout_rate
        self.init = init

    def build(self, input_shape: Any) -> None:
        width = int(input_shape[-1])
        # float32 by its own policy: a variable of this layer would be read in the compute dtype.
        self.features = PositiveRandomFeatures(self.random_features, dtype="float32", name="features")
        self.features.build((None, None, self.dim))
        self.norm1 = LayerNorm(epsilon=self.norm_epsilon, dtype="float32", name="norm1")
        self.kqv = Linear(
            3 * self.dim,
            kernel_initializer=linear_start(self.init),
            dtype=self.dtype_policy,
            name="kqv",
        )
        self.projection = Linear(
            self.dim,
            kernel_initializer=linear_start(self.init),
            dtype=self.dtype_policy,
            name="projection",
        )
        self.norm2 = LayerNorm(epsilon=self.norm_epsilon, dtype="float32", name="norm2")
        self.mlp = MLP(self.dim, self.dim, self.init, dtype=self.dtype_policy, name="mlp")
        self.dropout = StatelessDropout(self.dropout_rate, dtype="float32", name="dropout")
        self.norm1.build((None, None, width))
        self.kqv.build((None, None, width))
        self.projection.build((None, None, self.dim))
        self.norm2.build((None, None, self.dim))
        self.mlp.build((None, None, self.dim))
        super().build(input_shape)

    def call(self, patches: tf.Tensor, seed: tf.Tensor | None = None) -> tf.Tensor:
        return self.run(patches, seed)

    def _drop(self, branch: tf.Tensor, seed: tf.Tensor | None, which: int) -> tf.Tensor:
        branch = super()._drop(branch, seed, which)
        if seed is None or not self.dropout_rate:
            return branch
        return self.dropout(branch, seed=tf.random.experimental.stateless_fold_in(seed, which))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "dim": self.dim,
            "random_features": self.random_features,
            "norm_epsilon": self.norm_epsilon,
            "dropout_rate": self.dropout_rate,
            "init": self.init,
        }
