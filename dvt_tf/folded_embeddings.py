"""Folded token embeddings: soft splits that are never laid out, and patches; see `dvt_tf.optimize`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from dvt_tf.folded_parts import (
    FlatDense,
    FoldedMLP,
    Standardise,
    Weight,
    as_array,
    behind_norm,
    folded_dense,
    kernel_of,
)
from dvt_tf.layers.patch_embedding import cut_patches
from dvt_tf.layers.performer import PerformerMath, RandomFeaturesMath
from dvt_tf.layers.tokens_to_token import TokensToTokenMath


class Windows(NamedTuple):
    """A soft split that is not laid out: the maps (B, S, S, C) and its kernel, stride and zero padding.

    factor: (B, s, s, 1) float32, of each patch by its norm; None before that.
    """

    maps: tf.Tensor
    kernel: int
    stride: int
    padding: int
    factor: tf.Tensor | None = None


class StandardiseWindows:
    """Windows with their factor: one over the deviation of each patch, from box filters over maps and their squares.

    In float64 over pixels: in an even patch of an image next to nothing is left of two large numbers. Where a patch is
    even altogether the factor is 0, as nothing is left of it behind a norm but rounding.
    """

    _EVEN = 1e-12  # variance

    def __init__(self, epsilon: float, dtype: tf.DType) -> None:
        self.epsilon, self.dtype = epsilon, dtype

    def __call__(self, windows: Windows) -> Windows:
        size, channels = windows.maps.shape[1], windows.maps.shape[-1]
        boxes = boxes_of(size, windows.kernel, windows.stride, windows.padding)  # (S, s)
        down = tf.constant(boxes.T, self.dtype)
        # A mean over channels is slow, so it is part of the box across.
        across = tf.constant(np.repeat(boxes / channels, channels, 0), self.dtype)  # (S C, s)
        rows = tf.reshape(tf.cast(windows.maps, self.dtype), (-1, size * channels))  # (B S, S C)

        def mean(rows: tf.Tensor) -> tf.Tensor:
            sums = tf.reshape(tf.matmul(rows, across), (-1, size, across.shape[1]))  # (B, S, s)
            return tf.matmul(down, sums)  # (B, s, s)

        variance = tf.maximum(mean(tf.square(rows)) - tf.square(mean(rows)), 0.0)
        factor = tf.where(variance > self._EVEN, tf.math.rsqrt(variance + self.epsilon), tf.zeros_like(variance))
        return windows._replace(factor=tf.cast(factor, tf.float32)[..., None])


def boxes_of(size: int, kernel: int, stride: int, padding: int) -> np.ndarray:
    """The mean over windows along one axis with zero padding, as a matrix (size, windows)."""
    starts = np.arange(-padding, size + padding - kernel + 1, stride)
    place = np.arange(size)[:, None]
    return ((place >= starts) & (place < starts + kernel)) / kernel


class WindowConvolution(tf.Module):
    """Windows -> (B, s s, out): what a matmul over laid out patches gives, times the factor of each, and a bias."""

    def __init__(self, kernel: np.ndarray, bias: np.ndarray | None, side: int, dtype: tf.DType) -> None:
        super().__init__()
        out = kernel.shape[1]
        self.kernel = Weight(kernel.reshape(side, side, -1, out), dtype)
        self.bias = tf.Variable(tf.cast(np.zeros(out) if bias is None else bias, tf.float32), trainable=False)
        self.dtype, self.out = dtype, out

    def __call__(self, windows: Windows) -> tf.Tensor:
        around = [windows.padding, windows.padding]
        maps = tf.pad(tf.cast(windows.maps, self.dtype), [[0, 0], around, around, [0, 0]])
        outputs = tf.nn.conv2d(maps, self.kernel(), windows.stride, "VALID")
        outputs = tf.cast(outputs, tf.float32)
        if windows.factor is not None:
            outputs *= windows.factor
        return tf.reshape(outputs + self.bias, (-1, outputs.shape[1] * outputs.shape[2], self.out))


class FoldedRandomFeatures(RandomFeaturesMath, tf.Module):
    """(B, N, D) -> (B, N, m) float32, as `PositiveRandomFeatures`, with frequencies of its own."""

    def __init__(self, features: Any) -> None:
        super().__init__()
        self.count = features.count
        self.frequencies = tf.Variable(tf.cast(as_array(features.frequencies), tf.float32), trainable=False)

    def __call__(self, vectors: tf.Tensor) -> tf.Tensor:
        return self.run(vectors)


class FoldedPerformer(PerformerMath, tf.Module):
    """Windows of a kernel of `side` -> tokens (B, N, dim) float32, as `Performer`; `first`: the maps are pixels."""

    def __init__(self, performer: Any, side: int, first: bool, dtype: tf.DType) -> None:
        super().__init__()
        self.norm1 = StandardiseWindows(performer.norm_epsilon, tf.float64 if first else tf.float32)
        kernel, bias = behind_norm(performer.norm1, *kernel_of(performer.kqv))
        # Rounded to bfloat16, centred columns are so no longer, and even patches of pixels need them to be.
        self.kqv = WindowConvolution(kernel, bias, side, tf.float32 if first else dtype)
        self.features = FoldedRandomFeatures(performer.features)
        self.projection = folded_dense(performer.projection, dtype)
        self.norm2 = Standardise(performer.norm_epsilon, dtype)
        self.mlp = FoldedMLP(performer.mlp, performer.norm2, dtype)

    def __call__(self, patches: Any, seed: None = None) -> tf.Tensor:
        return self.run(patches, seed)


class FoldedTokensToToken(TokensToTokenMath, tf.Module):
    """Images (B, S, S, 3) float32 -> tokens (B, g g, dim) float32, as `TokensToToken`."""

    split = staticmethod(Windows)  # (maps, kernel, stride, padding)

    def __init__(self, embedding: Any, dtype: tf.DType) -> None:
        super().__init__()
        self.splits, self.sides = embedding.splits, embedding.sides
        self.performers = [
            FoldedPerformer(performer, self.splits[i][0], i == 0, dtype)
            for i, performer in enumerate(embedding.performers)
        ]
        self.projection = WindowConvolution(*kernel_of(embedding.projection), self.splits[-1][0], dtype)

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        return self.run(images)


class FoldedPatchEmbedding(tf.Module):
    """Images (B, S, S, 3) float32 -> tokens (B, g g, dim) in `dtype`, as `PatchEmbedding`."""

    def __init__(self, embedding: Any, dtype: tf.DType) -> None:
        super().__init__()
        self.geometry = (embedding.grid, embedding.kernel_size, embedding.padding)
        kernel = as_array(embedding.kernel)
        self.projection = FlatDense(kernel.reshape(-1, kernel.shape[-1]), as_array(embedding.bias), dtype)

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        tokens = self.projection(cut_patches(tf.cast(images, self.projection.dtype), *self.geometry))
        return tf.reshape(tokens, (-1, self.geometry[0] ** 2, tokens.shape[-1]))
