"""What a downstream Transformer takes from its upstream: features, relationships, and the resize both pass through.

Wang et al., 2021, section 3.3. The published code resizes by nearest neighbour followed by adaptive average pooling
(the paper writes bilinear), and the published weights are for that operator.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from dvt_tf.layers.linear import add_bias
from dvt_tf.layers.matmul import matmul
from dvt_tf.layers.mlp import MLP, gelu
from dvt_tf.layers.norm import LayerNorm, standardise

_ONE = 8.0  # a power of two so large that its exact GELU is itself, in every float dtype

# One pass over memory instead of five, for the widest tensor of a cascade. Only in training: servers without XLA, and
# calls of ever new sizes, run the other.
_compiled_gelu = tf.function(gelu, jit_compile=True, reduce_retracing=True, autograph=False)


def resize_matrix_1d(source: int, target: int) -> np.ndarray:
    """The resize along one axis of the grid: nearest to source * ceil(target / source), then adaptive average pooling.

    Returns (target, source) float64, rows summing to 1.
    """
    times = math.ceil(target / source)
    fine = np.repeat(np.eye(source), times, 0)  # (source times, source): each source cell, `times` over
    rows = []
    for i in range(target):
        first, last = i * len(fine) // target, math.ceil((i + 1) * len(fine) / target)
        rows.append(fine[first:last].mean(0))
    return np.stack(rows)


def resize_matrix(source: int, target: int, class_token: bool) -> np.ndarray:
    """The same resize for all tokens of a grid: (target^2, source^2), or one more of each that copies the class token.

    Returns float32.
    """
    one = resize_matrix_1d(source, target)
    grid = np.kron(one, one)
    if class_token:
        grid = np.block([[np.ones((1, 1)), np.zeros((1, source**2))], [np.zeros((target**2, 1)), grid]])
    return grid.astype(np.float32)


def _combining(matrix: np.ndarray) -> Callable[[tf.Tensor, tf.DType], tf.Tensor]:
    """Left multiplication by a constant matrix (T, S) with few entries a row: (..., S, N) and a dtype -> (..., T, N).

    XLA makes it one pass, casts included: a third of the time of a dense matmul on a CPU. Sums are float32.
    """
    count = int((matrix != 0).sum(1).max())
    columns = np.argsort(matrix == 0, 1, kind="stable")[:, :count]  # the entries first
    values = np.take_along_axis(matrix, columns, 1)

    def combine(maps: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        rows = [tf.cast(tf.gather(maps, columns[:, k], axis=-2), tf.float32) for k in range(count)]  # (..., T, N)
        return tf.cast(sum(row * values[:, k, None] for k, row in enumerate(rows)), dtype)

    return tf.function(combine, jit_compile=True, reduce_retracing=True, autograph=False)


@functools.cache
def _compiled_resize(source: int, target: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """The resize of a relationship's rows: (..., 1 + source^2, N) -> (..., 1 + target^2, N) float32, compiled."""
    matrix = resize_matrix(source, target, class_token=True)
    forward, backward = _combining(matrix), _combining(matrix.T)

    @tf.custom_gradient
    def resize(maps: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            return tf.ensure_shape(backward(upstream, maps.dtype), maps.shape)

        resized = forward(maps, tf.float32)
        return tf.ensure_shape(resized, (*maps.shape[:-2], len(matrix), maps.shape[-1])), gradient

    return resize


class GridResize(keras.layers.Layer):
    """Resizes tokens, or both token axes of relationship maps, from one grid to another by a constant matrix.

    Args:
        source: tokens a side of the upstream grid.
        target: tokens a side of the downstream grid.
        axes: 1 for features (B, source^2, C) -> (B, target^2, C); 2 for relationships
            (B, C, 1 + source^2, 1 + source^2) -> (B, C, 1 + target^2, 1 + target^2), whose class row and column are
            resized along the other axis only and whose class-class entry is copied.

    Call: of the dtype that it is given; with `compiled`, for training, relationships become float32.
    """

    def __init__(self, source: int, target: int, axes: int, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        if axes not in (1, 2):
            raise ValueError(f"GridResize axes must be 1 (features) or 2 (relationships), not {axes!r}")
        self.source = source
        self.target = target
        self.axes = axes
        self._matrix = resize_matrix(source, target, class_token=axes == 2)

    def call(self, maps: tf.Tensor, compiled: bool = False) -> tf.Tensor:
        matrix = tf.cast(tf.constant(self._matrix), maps.dtype)  # (T, S)
        if self.axes == 1:
            return matmul(matrix, maps)  # (B, T, C)
        rows, (channels, length) = tf.reshape(maps, (-1, maps.shape[-1])), maps.shape[1:3]
        maps = tf.reshape(matmul(rows, matrix, transpose_b=True), (-1, channels, length, matrix.shape[0]))
        if compiled:
            return _compiled_resize(self.source, self.target)(maps)
        return matmul(matrix, maps)  # (B, C, T, T)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "source": self.source, "target": self.target, "axes": self.axes}


class FeatureReuse(keras.layers.Layer):
    """The upstream's features as context for one downstream block: LayerNorm, MLP, resize.

    Args:
        source: tokens a side upstream.
        target: tokens a side downstream.
        hidden: hidden width of the MLP.
        out: channels given to the block.
        norm_epsilon: epsilon of the norm.
        init: how the MLP starts; see `linear_start`.

    Call: features (B, source^2, D) float32, the upstream's last block output without its class token
    -> (B, 1 + target^2, out) float32, where the class token's row is zero. `context` is what comes after `standardise`,
    which is the same for all blocks of a Transformer.
    """

    def __init__(
        self,
        source: int,
        target: int,
        hidden: int,
        out: int,
        norm_epsilon: float = 1e-6,
        init: str = "normal",
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        self.source = source
        self.target = target
        self.hidden = hidden
        self.out = out
        self.norm_epsilon = norm_epsilon
        self.init = init

    def build(self, input_shape: Any) -> None:
        self.norm = LayerNorm(epsilon=self.norm_epsilon, dtype="float32", name="norm")
        self.mlp = MLP(self.hidden, self.out, self.init, dtype=self.dtype_policy, name="mlp")
        self.resize = GridResize(self.source, self.target, axes=1, dtype="float32", name="resize")
        self.norm.build(tuple(input_shape))
        self.mlp.build(tuple(input_shape))
        super().build(input_shape)

    def call(self, features: tf.Tensor) -> tf.Tensor:
        return self.context(standardise(features, self.norm_epsilon))

    def context(self, standardised: tf.Tensor) -> tf.Tensor:
        """Features that are standardised already -> (B, 1 + target^2, out) float32."""
        # The norm's scale and shift are part of the kernel and bias behind it: two passes less over the tokens.
        kernel = tf.cast(tf.convert_to_tensor(self.mlp.fc1.kernel), tf.float32)  # (D, hidden)
        shift = tf.linalg.matvec(kernel, tf.convert_to_tensor(self.norm.beta), transpose_a=True)
        bias = shift + tf.cast(tf.convert_to_tensor(self.mlp.fc1.bias), tf.float32)
        kernel *= tf.convert_to_tensor(self.norm.gamma)[:, None]
        rows = tf.reshape(tf.cast(standardised, self.compute_dtype), (-1, standardised.shape[-1]))  # (B S S, D)
        hidden = matmul(rows, tf.cast(kernel, self.compute_dtype))
        hidden = gelu(add_bias(hidden, tf.cast(bias, self.compute_dtype)))  # (B S S, hidden)
        context = tf.reshape(tf.cast(self.mlp.fc2(hidden), tf.float32), (-1, self.source**2, self.out))
        return tf.pad(self.resize(context), [[0, 0], [1, 0], [0, 0]])  # (B, 1 + T T, out)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "source": self.source,
            "target": self.target,
            "hidden": self.hidden,
            "out": self.out,
            "norm_epsilon": self.norm_epsilon,
            "init": self.init,
        }


class RelationshipReuse(keras.layers.Layer):
    """The upstream's attention logits, mixed across blocks and heads and resized: one addend per downstream block.

    Two 1x1 convolutions over the stack of maps with a GELU between: maps in -> hidden -> blocks * heads. The hidden
    width is three times the upstream's depth * heads whichever blocks take part, as in the paper's ablations.

    Args:
        source: tokens a side upstream.
        target: tokens a side downstream.
        hidden: hidden width of the mixing.
        num_blocks: downstream blocks that take an addend.
        num_heads: heads of a downstream block.

    Call: upstream logits in block order, each (B, heads, 1 + source^2, 1 + source^2) float32 -> a list of
    `num_blocks` addends (B, num_heads, 1 + target^2, 1 + target^2) float32, in block order. `mix` and `addend` are its
    two halves, for those who want one addend at a time.
    """

    def __init__(self, source: int, target: int, hidden: int, num_blocks: int, num_heads: int, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.source = source
        self.target = target
        self.hidden = hidden
        self.num_blocks = num_blocks
        self.num_heads = num_heads

    def build(self, input_shape: Any) -> None:
        channels = sum(int(shape[1]) for shape in input_shape)
        out = self.num_blocks * self.num_heads
        for name, fan_in, fan_out in (("1", channels, self.hidden), ("2", self.hidden, out)):
            start = keras.initializers.RandomUniform(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))
            kernel = self.add_weight(name=f"kernel{name}", shape=(fan_out, fan_in), initializer=start)
            bias = self.add_weight(name=f"bias{name}", shape=(fan_out, 1), initializer="zeros")
            setattr(self, f"kernel{name}", kernel)
            setattr(self, f"bias{name}", bias)
        self.resize = GridResize(self.source, self.target, axes=2, dtype=self.dtype_policy, name="resize")
        super().build(input_shape)

    def call(self, relationships: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        # Resized block by block: the least memory, and no slower than all at once.
        return [self.addend(maps) for maps in self.mix(relationships)]

    def mix(self, relationships: Sequence[tf.Tensor], compiled: bool = False) -> list[tf.Tensor]:
        """Upstream logits -> `num_blocks` maps (B, num_heads, 1 + source^2, 1 + source^2) in the compute dtype.

        `compiled` has XLA compile the GELU, for training.
        """
        length = 1 + self.source**2
        maps = [tf.cast(logits, self.compute_dtype) for logits in relationships]  # each (B, heads, S, S)
        maps = tf.concat([*maps, tf.ones_like(maps[0][:, :1])], 1)  # (B, C + 1, S, S)
        maps = tf.reshape(maps, (-1, maps.shape[1], length * length))  # (B, C + 1, S S)
        kernel1, kernel2 = self._kernels()
        hidden = matmul(kernel1, maps)  # (B, hidden + 1, S S)
        hidden = tf.ensure_shape(_compiled_gelu(hidden), hidden.shape) if compiled else gelu(hidden)
        maps = matmul(kernel2, hidden)  # (B, blocks heads, S S)
        maps = tf.reshape(maps, (-1, self.num_blocks, self.num_heads, length, length))
        return tf.unstack(maps, axis=1)

    def _kernels(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Both convolutions, (hidden + 1, C + 1) and (blocks heads, hidden + 1), each bias as one more input channel.

        A bias's gradient is then part of a matmul, not a slow sum. The channel of ones becomes a hidden one of `_ONE`,
        which the GELU leaves as it is: so the hidden maps need not be copied to get theirs.
        """
        kernel1, bias1, kernel2, bias2 = (
            tf.cast(tf.convert_to_tensor(weight), tf.float32)
            for weight in (self.kernel1, self.bias1, self.kernel2, self.bias2)
        )
        last = tf.concat([tf.zeros_like(kernel1[:1]), [[_ONE]]], 1)  # (1, C + 1)
        first = tf.concat([tf.concat([kernel1, bias1], 1), last], 0)
        second = tf.concat([kernel2, bias2 / _ONE], 1)
        return tf.cast(first, self.compute_dtype), tf.cast(second, self.compute_dtype)

    def addend(self, maps: tf.Tensor, compiled: bool = False) -> tf.Tensor:
        """One block's maps -> (B, num_heads, 1 + target^2, 1 + target^2) float32."""
        return tf.cast(self.resize(maps, compiled=compiled), tf.float32)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "source": self.source,
            "target": self.target,
            "hidden": self.hidden,
            "num_blocks": self.num_blocks,
            "num_heads": self.num_heads,
        }
