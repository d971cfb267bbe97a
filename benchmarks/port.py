"""The published cascade as one would port it to Keras without a thought for speed, for the folded form to be timed by.

Keras layers as they are, an operation for each step of the paper, and the weights of a model, whose layers are called
here. It is no straw man: of the plain ways to write its resize (slices, einsum, matrices) it has the fastest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow import keras

from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.vision_transformer import VisionTransformer


class Outputs(NamedTuple):
    """logits: (B, classes). features: (B, 1 + g g, dim). relationships: of each block (B, heads, 1 + g g, 1 + g g)."""

    logits: tf.Tensor
    features: tf.Tensor
    relationships: list[tf.Tensor]


class Port:
    """A cascade for inference, from the weights that the model has now.

    Args:
        model: the cascade, float32, with both kinds of reuse between all blocks.

    Call: images (B, S, S, 3) float32, normalised -> {"exit_1": (B, classes), ...}, as the model.

    Raises:
        ValueError: another cascade.
    """

    def __init__(self, model: DynamicVisionTransformer) -> None:
        for field in ("feature_reuse", "relationship_reuse", "relationship_source"):
            if getattr(model.config, field) != "all":
                raise ValueError(
                    f"the port has reuse in all blocks only, and {field} is {getattr(model.config, field)!r}"
                )
        if model.compute_dtype != "float32":
            raise ValueError(f"the port computes in float32 only, and the model in {model.compute_dtype}")
        model.build()
        self.config = model.config
        self.transformers = [PortedTransformer(transformer) for transformer in model.transformers]

    def __call__(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs: list[Outputs] = []
        for transformer in self.transformers:
            outputs.append(transformer(images, upstream=outputs[-1] if outputs else None))
        return {f"exit_{i + 1}": out.logits for i, out in enumerate(outputs)}


class PortedTransformer:
    """One Transformer: images (B, S, S, 3), and the upstream's outputs but for the first -> `Outputs`."""

    def __init__(self, source: VisionTransformer) -> None:
        self.source = source
        embedding, mixing = source.embedding, source.relationship_reuse
        if source.config.embedding == "patch":
            self.patches = _convolution(embedding.kernel, embedding.bias, stride=embedding.kernel_size)
        if mixing is not None:
            self.mixing = [
                _convolution(tf.transpose(kernel)[None, None], bias[:, 0])  # (1, 1, in, out) of (out, in)
                for kernel, bias in ((mixing.kernel1, mixing.bias1), (mixing.kernel2, mixing.bias2))
            ]

    def __call__(self, images: tf.Tensor, upstream: Outputs | None = None) -> Outputs:
        source = self.source
        tokens = self.embed(images)  # (B, g g, dim)
        class_token = tf.repeat(tf.convert_to_tensor(source.position.class_token), tf.shape(tokens)[0], axis=0)
        tokens = tf.concat([class_token, tokens], 1) + tf.convert_to_tensor(source.position.positions)
        addends = None if upstream is None else self.relate(upstream.relationships)
        relationships = []
        for i, block in enumerate(source.blocks):
            attended, logits = attention(block.attention, block.norm1(tokens), None if addends is None else addends[i])
            relationships.append(logits)
            tokens += attended
            entering = tokens
            if upstream is not None:
                context = self.context(source.feature_reuse[i], upstream.features[:, 1:])
                entering = tf.concat([tokens, context], -1)  # (B, 1 + g g, dim + out)
            tokens += mlp(block.mlp, block.norm2(entering))
        return Outputs(source.head(source.norm(tokens)[:, 0]), tokens, relationships)

    def embed(self, images: tf.Tensor) -> tf.Tensor:
        """(B, S, S, 3) -> (B, g g, dim)."""
        embedding, grid = self.source.embedding, self.source.grid
        if self.source.config.embedding == "patch":
            return tf.reshape(self.patches(_padded(images, embedding.padding)), (-1, grid**2, self.source.config.dim))
        *first, last = embedding.splits
        for split, layers in zip(first, embedding.performers, strict=True):
            patches = soft_split(images, *split)  # (B, s, s, kernel kernel C)
            side = patches.shape[1]
            tokens = performer(layers, tf.reshape(patches, (-1, side**2, patches.shape[-1])))
            images = tf.reshape(tokens, (-1, side, side, tokens.shape[-1]))
        patches = soft_split(images, *last)
        return embedding.projection(tf.reshape(patches, (-1, grid**2, patches.shape[-1])))

    def context(self, reuse: Any, patches: tf.Tensor) -> tf.Tensor:
        """What one block reuses: the upstream's patch tokens (B, u u, dim) -> (B, 1 + g g, out), zero for the class."""
        context = mlp(reuse.mlp, reuse.norm(patches))
        return tf.pad(self.resize(context), [[0, 0], [1, 0], [0, 0]])

    def resize(self, tokens: tf.Tensor) -> tf.Tensor:
        """The upstream's patch tokens (B, u u, C) -> (B, g g, C): up by nearest neighbour, adaptive average pooling."""
        u, g, channels = self.source.upstream_grid, self.source.grid, tokens.shape[-1]
        assert u is not None
        fine = u * math.ceil(g / u)
        maps = tf.image.resize(tf.reshape(tokens, (-1, u, u, channels)), (fine, fine), "nearest")
        pooling = np.zeros((g, fine), np.float32)  # the mean over a window along one axis, a row each
        for i in range(g):
            first, last = i * fine // g, math.ceil((i + 1) * fine / g)
            pooling[i, first:last] = 1 / (last - first)
        maps = tf.matmul(pooling, tf.reshape(maps, (-1, fine, fine * channels)))  # (B, g, fine C)
        maps = tf.matmul(pooling, tf.reshape(maps, (-1, g, fine, channels)))  # (B, g, g, C)
        return tf.reshape(maps, (-1, g * g, channels))

    def relate(self, relationships: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The upstream's logits of all blocks -> for each block here its addend (B, heads, 1 + g g, 1 + g g)."""
        maps = tf.transpose(tf.concat(relationships, 1), (0, 2, 3, 1))  # (B, N, N, blocks heads), channels last
        maps = self.mixing[1](tf.nn.gelu(self.mixing[0](maps)))
        for _ in range(2):  # one axis of tokens, then the other
            _, tokens, others, channels = maps.shape
            flat = tf.reshape(maps, (-1, tokens, others * channels))
            flat = tf.concat([flat[:, :1], self.resize(flat[:, 1:])], 1)  # the class token's stays as it is
            maps = tf.transpose(tf.reshape(flat, (-1, flat.shape[1], others, channels)), (0, 2, 1, 3))
        return tf.split(tf.transpose(maps, (0, 3, 1, 2)), len(self.source.blocks), axis=1)


def attention(layers: Any, tokens: tf.Tensor, addend: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
    """(B, N, D) and (B, heads, N, N) or None -> (B, N, D), the logits (B, heads, N, N)."""
    _, length, dim = tokens.shape
    qkv = tf.reshape(layers.qkv(tokens), (-1, length, 3, layers.num_heads, dim // layers.num_heads))
    query, key, value = tf.unstack(tf.transpose(qkv, (2, 0, 3, 1, 4)))  # each (B, heads, N, D / heads)
    logits = tf.matmul(query, key, transpose_b=True) * layers.scale
    if addend is not None:
        logits += addend
    mixed = tf.transpose(tf.matmul(tf.nn.softmax(logits), value), (0, 2, 1, 3))
    return layers.projection(tf.reshape(mixed, (-1, length, dim))), logits


def mlp(layers: Any, tokens: tf.Tensor) -> tf.Tensor:
    """(B, N, in) -> (B, N, out)."""
    return layers.fc2(tf.nn.gelu(layers.fc1(tokens)))


def performer(layers: Any, patches: tf.Tensor) -> tf.Tensor:
    """(B, N, D) -> (B, N, width)."""
    key, query, value = tf.split(layers.kqv(layers.norm1(patches)), 3, axis=-1)
    key, query = (random_features(layers.features, vectors) for vectors in (key, query))  # (B, N, m)
    weight = tf.matmul(query, tf.reduce_sum(key, 1, keepdims=True), transpose_b=True)  # (B, N, 1)
    attended = tf.matmul(query, tf.matmul(key, value, transpose_a=True)) / (weight + 1e-8)
    tokens = value + layers.projection(attended)
    return tokens + mlp(layers.mlp, layers.norm2(tokens))


def random_features(layers: Any, vectors: tf.Tensor) -> tf.Tensor:
    """(B, N, D) -> (B, N, m), positive."""
    along = tf.matmul(vectors, tf.convert_to_tensor(layers.frequencies), transpose_b=True)
    half = tf.reduce_sum(tf.square(vectors), -1, keepdims=True) / 2
    return tf.exp(along - half) / math.sqrt(layers.count)


def soft_split(maps: tf.Tensor, kernel: int, stride: int, padding: int) -> tf.Tensor:
    """(B, S, S, C) -> (B, s, s, kernel kernel C), each patch by row, column, channel as the weights have it."""
    sizes, strides = (1, kernel, kernel, 1), (1, stride, stride, 1)
    return tf.image.extract_patches(_padded(maps, padding), sizes, strides, (1, 1, 1, 1), "VALID")


def _padded(maps: tf.Tensor, padding: int) -> tf.Tensor:
    return tf.pad(maps, [[0, 0], [padding, padding], [padding, padding], [0, 0]])


def _convolution(kernel: Any, bias: Any, stride: int = 1) -> keras.layers.Layer:
    """Keras's own, with a kernel (y, x, in, out) that the model keeps outside of a convolution."""
    kernel, bias = np.asarray(kernel), np.asarray(bias)
    layer = keras.layers.Conv2D(kernel.shape[-1], kernel.shape[:2], stride, dtype="float32")
    layer.build((None, None, None, kernel.shape[2]))
    layer.set_weights([kernel, bias])
    return layer
