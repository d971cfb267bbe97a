"""T2T-ViT's token embedding: three overlapping soft splits with a performer after each of the first two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow import keras

from dvt_tf.layers.linear import Linear, linear_start
from dvt_tf.layers.performer import Performer


def soft_split_sides(image_size: int, splits: Sequence[Sequence[int]]) -> list[int]:
    """Patches a side after each soft split (kernel, stride, padding), in pixels of what it splits."""
    sides, side = [], image_size
    for kernel, stride, padding in splits:
        side = (side + 2 * padding - kernel) // stride + 1
        sides.append(side)
    return sides


def soft_split(maps: tf.Tensor, kernel: int, stride: int, padding: int) -> tf.Tensor:
    """Overlapping patches with zero padding: (B, S, S, C) -> (B, s s, kernel kernel C), row by row.

    A patch is ordered row, column, channel. (The published weights order it channel, row, column; they are rearranged
    when they are read.)
    """
    channels = maps.shape[-1]
    (side,) = soft_split_sides(int(maps.shape[1]), [(kernel, stride, padding)])
    padded = tf.pad(maps, [[0, 0], [padding, padding], [padding, padding], [0, 0]])
    # One axis at a time: slices have a cheap gradient, which `tf.image.extract_patches` has not.
    reach = stride * (side - 1) + 1
    across = tf.stack([padded[:, :, x : x + reach : stride] for x in range(kernel)], 3)  # (B, S, s, kernel, C)
    patches = tf.stack([across[:, y : y + reach : stride] for y in range(kernel)], 3)  # (B, s, s, kernel, kernel, C)
    return tf.reshape(patches, (-1, side * side, kernel * kernel * channels))


class TokensToTokenMath:
    """What tokens-to-token computes with its parts, in training and folded for inference (`dvt_tf.optimize`).

    splits: (kernel, stride, padding) of each; sides: patches a side after each; performers: patches, seed -> (B, N,
    performer_dim); projection: patches -> (B, g g, dim); split: `soft_split`, or what folded performers take instead.
    """

    splits: Sequence[Sequence[int]]
    sides: Sequence[int]
    performers: Sequence[Any]
    projection: Any
    split: Any = staticmethod(soft_split)

    def run(self, images: tf.Tensor, seed: tf.Tensor | None = None) -> tf.Tensor:
        """As `TokensToToken`'s call."""
        maps = images  # (B, S, S, 3)
        for i, performer in enumerate(self.performers):
            own_seed = None if seed is None else tf.random.experimental.stateless_fold_in(seed, i)
            tokens = performer(self.split(maps, *self.splits[i]), seed=own_seed)  # (B, s s, performer_dim)
            maps = tf.reshape(tokens, (-1, self.sides[i], self.sides[i], tokens.shape[-1]))
        return self.projection(self.split(maps, *self.splits[-1]))  # (B, g g, dim)


class TokensToToken(TokensToTokenMath, keras.layers.Layer):
    """An image to tokens by soft split, performer, soft split, performer, soft split, Linear (T2T-ViT, section 3.1).

    Args:
        image_size: side of the image, pixels.
        splits: (kernel, stride, padding) of the three soft splits; see `presets.tokens_to_token_splits`.
        dim: width of a token.
        performer_dim: width of what the performers give.
        random_features: see `Performer`.
        norm_epsilon: epsilon of the performers' norms.
        dropout_rate: of the performers, in training.
        init: how linear layers start; see `linear_start`.

    Call: images (B, image_size, image_size, 3), `seed` (2,) int32 for dropout or None -> tokens (B, g g, dim) in the
    compute dtype, row by row.
    """

    def __init__(
        self,
        image_size: int,
        splits: Sequence[Sequence[int]],
        dim: int,
        performer_dim: int = 64,
        random_features: int = 32,
        norm_epsilon: float = 1e-5,
        dropout_rate: float = 0.1,
        init: str = "normal",
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        self.image_size = image_size
        self.splits = [[int(value) for value in split] for split in splits]
        self.dim = dim
        self.performer_dim = performer_dim
        self.random_features = random_features
        self.norm_epsilon = norm_epsilon
        self.dropout_rate = dropout_rate
        self.init = init
        self.sides = soft_split_sides(image_size, self.splits)

    def build(self, input_shape: Any) -> None:
        *first, last = self.splits
        channels = 3
        self.performers = []
        for i, (kernel, _, _) in enumerate(first):
            performer = Performer(
                self.performer_dim,
                self.random_features,
                self.norm_epsilon,
                self.dropout_rate,
                self.init,
                dtype=self.dtype_policy,
                name=f"performer_{i}",
            )
            performer.build((None, self.sides[i] ** 2, kernel * kernel * channels))
            self.performers.append(performer)
            channels = self.performer_dim
        self.projection = Linear(
            self.dim,
            kernel_initializer=linear_start(self.init),
            dtype=self.dtype_policy,
            name="projection",
        )
        self.projection.build((None, None, last[0] ** 2 * channels))
        super().build(input_shape)

    def call(self, images: tf.Tensor, seed: tf.Tensor | None = None) -> tf.Tensor:
        return self.run(images, seed)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "image_size": self.image_size,
            "splits": self.splits,
            "dim": self.dim,
            "performer_dim": self.performer_dim,
            "random_features": self.random_features,
            "norm_epsilon": self.norm_epsilon,
            "dropout_rate": self.dropout_rate,
            "init": self.init,
        }
