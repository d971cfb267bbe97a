"""DeiT's patch embedding: one strided convolution, for any token grid."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf
from tensorflow import keras

from dvt_tf.layers.linear import add_bias
from dvt_tf.layers.matmul import matmul


def patch_geometry(image_size: int, grid: int) -> tuple[int, int]:
    """Kernel (= stride) and zero padding a side, in pixels, that cut an image into grid x grid patches.

    kernel = ceil(image_size / grid), padding = (grid * kernel - image_size) / 2: 23 and 3 for 224/10.

    Raises:
        ValueError: the padding would not be the same on both sides.
    """
    kernel = math.ceil(image_size / grid)
    surplus = grid * kernel - image_size
    if surplus % 2:
        raise ValueError(
            f"{image_size} pixels do not make {grid} patches a side: {surplus} pixels of padding cannot be halved"
        )
    return kernel, surplus // 2


def cut_patches(images: tf.Tensor, grid: int, size: int, padding: int) -> tf.Tensor:
    """Patches that neither overlap nor leave anything out, with zero padding: (B, S, S, 3) -> (B g g, size size 3)."""
    if padding:
        images = tf.pad(images, [[0, 0], [padding, padding], [padding, padding], [0, 0]])
    patches = tf.reshape(images, (-1, grid, size, grid, size * 3))  # (B, row, y, column, x and channel)
    patches = tf.transpose(patches, (0, 1, 3, 2, 4))  # (B, row, column, y, x and channel)
    return tf.reshape(patches, (-1, size * size * 3))


class PatchEmbedding(keras.layers.Layer):
    """Cuts an image into grid x grid patches and projects each to a token (Dosovitskiy et al., 2020; DeiT, 2021).

    Args:
        image_size: side of the image, pixels.
        grid: tokens a side.
        dim: width of a token.

    Call: images (B, image_size, image_size, 3) -> tokens (B, grid * grid, dim), row by row.
    """

    def __init__(self, image_size: int, grid: int, dim: int, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.image_size = image_size
        self.grid = grid
        self.dim = dim
        self.kernel_size, self.padding = patch_geometry(image_size, grid)

    def build(self, input_shape: Any) -> None:
        size = self.kernel_size
        # As DeiT starts its patch projection: uniform within 1 / sqrt(fan in), for the kernel and the bias.
        start = keras.initializers.RandomUniform(-1 / math.sqrt(3 * size**2), 1 / math.sqrt(3 * size**2))
        self.kernel = self.add_weight(name="kernel", shape=(size, size, 3, self.dim), initializer=start)
        self.bias = self.add_weight(name="bias", shape=(self.dim,), initializer=keras.initializers.Zeros())
        super().build(input_shape)

    def call(self, images: tf.Tensor) -> tf.Tensor:
        # Kernel equals stride, so the convolution is one matmul over cut-out patches.
        size, grid = self.kernel_size, self.grid
        patches = cut_patches(tf.cast(images, self.compute_dtype), grid, size, self.padding)
        kernel = tf.reshape(tf.cast(self.kernel, self.compute_dtype), (size * size * 3, self.dim))
        tokens = add_bias(matmul(patches, kernel), tf.cast(self.bias, self.compute_dtype))
        return tf.reshape(tokens, (-1, grid * grid, self.dim))  # (B, g g, dim)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "image_size": self.image_size, "grid": self.grid, "dim": self.dim}
