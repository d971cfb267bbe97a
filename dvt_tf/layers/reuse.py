"""What a downstream Transformer takes from its upstream: features, relationships, and the resize both pass through.

Wang et al., 2021, section 3.3. The published code resizes by nearest neighbour followed by adaptive average pooling
(the paper writes bilinear), and the published weights are for that operator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from dvt_tf.layers.mlp import MLP, gelu


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


class GridResize(keras.layers.Layer):
    """Resizes tokens, or both token axes of relationship maps, from one grid to another by a constant matrix.

    Args:
        source: tokens a side of the upstream grid.
        target: tokens a side of the downstream grid.
        axes: 1 for features (B, source^2, C) -> (B, target^2, C); 2 for relationships
            (B, C, 1 + source^2, 1 + source^2) -> (B, C, 1 + target^2, 1 + target^2), whose class row and column are
            resized along the other axis only and whose class-class entry is copied.
    """

    def __init__(self, source: int, target: int, axes: int, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        if axes not in (1, 2):
            raise ValueError(f"GridResize axes must be 1 (features) or 2 (relationships), not {axes!r}")
        self.source = source
        self.target = target
        self.axes = axes
        self._matrix = resize_matrix(source, target, class_token=axes == 2)

    def call(self, maps: tf.Tensor) -> tf.Tensor:
        matrix = tf.cast(tf.constant(self._matrix), maps.dtype)  # (T, S)
        if self.axes == 1:
            return tf.matmul(matrix, maps)  # (B, T, C)
        return tf.matmul(matrix, tf.matmul(maps, matrix, transpose_b=True))  # (B, C, T, T)

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

    Call: features (B, source^2, D) float32, the upstream's last block output without its class token
    -> (B, 1 + target^2, out) float32, where the class token's row is zero.
    """

    def __init__(
        self, source: int, target: int, hidden: int, out: int, norm_epsilon: float = 1e-6, **kwargs: Any
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        self.source = source
        self.target = target
        self.hidden = hidden
        self.out = out
        self.norm_epsilon = norm_epsilon

    def build(self, input_shape: Any) -> None:
        self.norm = keras.layers.LayerNormalization(epsilon=self.norm_epsilon, dtype="float32", name="norm")
        self.mlp = MLP(self.hidden, self.out, dtype=self.dtype_policy, name="mlp")
        self.resize = GridResize(self.source, self.target, axes=1, dtype="float32", name="resize")
        self.norm.build(tuple(input_shape))
        self.mlp.build(tuple(input_shape))
        super().build(input_shape)

    def call(self, features: tf.Tensor) -> tf.Tensor:
        context = tf.cast(self.mlp(self.norm(features)), tf.float32)  # (B, S S, out)
        return tf.pad(self.resize(context), [[0, 0], [1, 0], [0, 0]])  # (B, 1 + T T, out)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "source": self.source,
            "target": self.target,
            "hidden": self.hidden,
            "out": self.out,
            "norm_epsilon": self.norm_epsilon,
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

    def mix(self, relationships: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Upstream logits -> `num_blocks` maps (B, num_heads, 1 + source^2, 1 + source^2) in the compute dtype."""
        length = 1 + self.source**2
        maps = tf.concat([tf.cast(logits, self.compute_dtype) for logits in relationships], 1)  # (B, C, S, S)
        maps = tf.reshape(maps, (-1, maps.shape[1], length * length))  # (B, C, S S)
        maps = gelu(self._mix(maps, self.kernel1, self.bias1))  # (B, hidden, S S)
        maps = self._mix(maps, self.kernel2, self.bias2)  # (B, blocks heads, S S)
        maps = tf.reshape(maps, (-1, self.num_blocks, self.num_heads, length, length))
        return tf.unstack(maps, axis=1)

    def addend(self, maps: tf.Tensor) -> tf.Tensor:
        """One block's maps -> (B, num_heads, 1 + target^2, 1 + target^2) float32."""
        return tf.cast(self.resize(maps), tf.float32)

    def _mix(self, maps: tf.Tensor, kernel: Any, bias: Any) -> tf.Tensor:
        # The bias rides along as one more input channel of ones: its gradient is then part of a matmul, not a slow sum.
        ones = tf.ones_like(maps[:, :1])
        kernel = tf.concat([tf.convert_to_tensor(kernel), tf.convert_to_tensor(bias)], 1)  # (out, in + 1)
        return tf.matmul(tf.cast(kernel, self.compute_dtype), tf.concat([maps, ones], 1))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "source": self.source,
            "target": self.target,
            "hidden": self.hidden,
            "num_blocks": self.num_blocks,
            "num_heads": self.num_heads,
        }
