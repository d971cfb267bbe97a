"""The class token and the position embedding that every Transformer of the cascade puts on its tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras


def sinusoid_table(positions: int, dim: int) -> np.ndarray:
    """The fixed table of T2T-ViT: angle p / 10000^(2 floor(j/2) / dim), sine on even j and cosine on odd j.

    Returns (positions, dim) float32; position 0 is the class token.
    """
    angle = np.arange(positions)[:, None] / 10000.0 ** (2 * (np.arange(dim) // 2)[None] / dim)  # (p, j)
    return np.where(np.arange(dim) % 2, np.cos(angle), np.sin(angle)).astype(np.float32)


def sinusoid_2d_table(grid: int, dim: int) -> np.ndarray:
    """A start for learned embeddings: half the channels tell the row, half the column, and the class token's are zero.

    Returns (1 + grid * grid, dim) float32. Positions are measured in fractions of the image, so that the grids of a
    cascade agree on what is where (Chen et al., 2021, arXiv 2104.02057, appendix, has the fixed form).
    """
    quarter = dim // 4
    frequency = np.pi * 2.0 ** np.linspace(0, 4, quarter)  # from half an image to a thirty-second
    place = (np.arange(grid) + 0.5) / grid
    wave = np.concatenate([np.sin(place[:, None] * frequency), np.cos(place[:, None] * frequency)], 1)  # (g, dim / 2)
    table = np.zeros((1 + grid * grid, dim), np.float32)
    table[1:, : 2 * quarter] = np.repeat(wave, grid, 0)  # rows
    table[1:, 2 * quarter : 4 * quarter] = np.tile(wave, (grid, 1))  # columns
    return table


class PositionEmbedding(keras.layers.Layer):
    """Puts the class token first and adds the position embedding.

    Args:
        grid: tokens a side.
        dim: width of a token.
        kind: `"learned"` or `"sinusoid"` (fixed; no weight).
        init: how a learned one starts, `"normal"` or `"sinusoid_2d"`.

    Call: tokens (B, g g, dim) -> (B, 1 + g g, dim) float32.
    """

    def __init__(self, grid: int, dim: int, kind: str = "learned", init: str = "normal", **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.grid = grid
        self.dim = dim
        self.kind = kind
        self.init = init

    def build(self, input_shape: Any) -> None:
        start = keras.initializers.RandomNormal(stddev=0.02)
        self.class_token = self.add_weight(name="class_token", shape=(1, 1, self.dim), initializer=start)
        if self.kind == "learned":
            start = keras.initializers.RandomNormal(stddev=0.02)
            if self.init == "sinusoid_2d":
                start = keras.initializers.Constant(0.5 * sinusoid_2d_table(self.grid, self.dim)[None])
            self.positions = self.add_weight(name="positions", shape=(1, 1 + self.grid**2, self.dim), initializer=start)
        else:
            # NumPy: a tensor made here would belong to the graph in which the layer happens to be built.
            self.positions = sinusoid_table(1 + self.grid**2, self.dim)[None]
        super().build(input_shape)

    def call(self, tokens: tf.Tensor) -> tf.Tensor:
        tokens = tf.cast(tokens, tf.float32)
        class_token = tf.cast(tf.convert_to_tensor(self.class_token), tf.float32)
        class_token = tf.broadcast_to(class_token, (tf.shape(tokens)[0], 1, self.dim))
        return tf.concat([class_token, tokens], 1) + tf.cast(tf.convert_to_tensor(self.positions), tf.float32)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "grid": self.grid, "dim": self.dim, "kind": self.kind, "init": self.init}
