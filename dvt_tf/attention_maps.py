"""Where each Transformer of a cascade looks, and what it takes over from its upstream, as maps on its grid of tokens.

Pure functions on the `TransformerOutputs` of `DynamicVisionTransformer.run`, eagerly or inside a `tf.function`. They
tell of the very logits that the model computed; what upstream gave is computed again by the Transformer's own reuse
layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf

from dvt_tf.presets import blocks_of
from dvt_tf.vision_transformer import TransformerOutputs, VisionTransformer


def rollout(relationships: Sequence[tf.Tensor]) -> tf.Tensor:
    """How much of each patch token reaches the class token: attention rollout.

    Abnar & Zuidema, 2020 (arXiv 2005.00928), section 3. Each block passes on half of a token itself (the residual) and
    half of what the mean of its heads attends to; the blocks' matrices are multiplied, and the class token's row is
    kept. It follows attention alone: values, norms and MLPs do not count, and what upstream adds to the logits does.

    Args:
        relationships: attention logits of all blocks in order, each (B, heads, 1 + g g, 1 + g g), class token first.

    Returns:
        (B, g, g) float32, at least 0, summing to 1 for each image.

    Raises:
        ValueError: there is no block, or the tokens are not a class token and a square.
    """
    if not relationships:
        raise ValueError("attention rollout needs the attention logits of at least one block and got none")
    row = None  # (B, N): the class token's row of the product, from the last block down
    for logits in reversed(relationships):
        attention = tf.reduce_mean(tf.nn.softmax(tf.cast(logits, tf.float32)), 1)  # (B, N, N)
        if row is None:
            row = tf.one_hot(tf.zeros_like(attention[:, 0, 0], tf.int32), tf.shape(attention)[-1])
        row = 0.5 * row + 0.5 * tf.squeeze(tf.matmul(row[:, None], attention), 1)
    return _share_of_patches(row)


def reused_features(
    transformer: VisionTransformer, upstream: TransformerOutputs, centred: bool = False
) -> tf.Tensor | None:
    """How much of the upstream's features each token of a Transformer is given.

    Args:
        transformer: the downstream one, built.
        upstream: what the Transformer before it computed.
        centred: leave out what all tokens of the image are given alike, their mean. It tells nothing of a place and may
            be the larger part: with the bundled digits the plain norm is largest on empty ground, the centred one on
            the digit.

    Returns:
        (B, g, g) float32 on the Transformer's own grid: the Euclidean norm of the reuse channels, averaged over the
        blocks that take any. In the units of the channels, so it compares tokens and images of one Transformer, not
        Transformers. None where no block reuses features.
    """
    if not transformer.feature_reuse:
        return None
    norms = []
    for reuse in transformer.feature_reuse:
        given = reuse(upstream.features[:, 1:])[:, 1:]  # (B, g g, channels); the class token is given zeros
        if centred:
            given -= tf.reduce_mean(given, 1, keepdims=True)
        norms.append(tf.norm(given, axis=-1))
    return _on_grid(tf.add_n(norms) / len(norms))


def reused_relationships(
    transformer: VisionTransformer, upstream: TransformerOutputs, outputs: TransformerOutputs
) -> tf.Tensor | None:
    """The share of a Transformer's attention logits that comes from upstream, by variance.

    A block's logits are its own plus an addend made of the upstream's. Softmax ignores what is constant along a row,
    so every row of either is centred first; then the share is |addend|^2 / (|addend|^2 + |own|^2) over all heads and
    tokens of the block, and the mean over the blocks that take an addend. 0: attention is as without reuse; 0.5: both
    parts are equally strong; 1: upstream alone decides. Whether the two agree or cancel does not count.

    Args:
        transformer: the downstream one, built. upstream, outputs: what the one before it and it itself computed.

    Returns:
        (B,) float32 from 0 to 1; None where no block reuses relationships.
    """
    addends = _addends(transformer, upstream)
    if not addends:
        return None
    shares = []
    for block, addend in addends.items():
        given, own = _row_variation(addend), _row_variation(outputs.relationships[block] - addend)  # (B,)
        shares.append(tf.math.divide_no_nan(given, given + own))
    return tf.add_n(shares) / len(shares)


def reused_attention(transformer: VisionTransformer, upstream: TransformerOutputs) -> tf.Tensor | None:
    """Where the class token would look by what comes from upstream alone.

    Args:
        transformer: the downstream one, built. upstream: what the Transformer before it computed.

    Returns:
        (B, g, g) float32 on the Transformer's own grid, summing to 1 for each image: softmax of the class token's row
        of the addends, averaged over the heads and the blocks that take one, without the class token itself. None where
        no block reuses relationships.
    """
    addends = _addends(transformer, upstream)
    if not addends:
        return None
    rows = [tf.reduce_mean(tf.nn.softmax(addend[:, :, 0]), 1) for addend in addends.values()]  # each (B, 1 + g g)
    return _share_of_patches(tf.add_n(rows) / len(rows))


def _addends(transformer: VisionTransformer, upstream: TransformerOutputs) -> dict[int, tf.Tensor]:
    """What relationship reuse adds to the logits, by block: each (B, heads, 1 + g g, 1 + g g) float32."""
    if transformer.relationship_reuse is None:
        return {}
    config = transformer.config
    sources = [upstream.relationships[i] for i in blocks_of(config.relationship_source, config.depth)]
    taking = blocks_of(config.relationship_reuse, config.depth)
    return dict(zip(taking, transformer.relationship_reuse(sources), strict=True))


def _row_variation(logits: tf.Tensor) -> tf.Tensor:
    """The squares of logits (B, heads, N, N) with every row centred, their mean for each image: (B,)."""
    return tf.reduce_mean(tf.math.reduce_variance(logits, axis=-1), axis=(1, 2))


def _share_of_patches(row: tf.Tensor) -> tf.Tensor:
    """The class token's weights (B, 1 + g g) -> those of the patch tokens alone, summing to 1: (B, g, g)."""
    patches = row[:, 1:]
    return _on_grid(tf.math.divide_no_nan(patches, tf.reduce_sum(patches, -1, keepdims=True)))


def _on_grid(tokens: tf.Tensor) -> tf.Tensor:
    """(B, g g), row by row -> (B, g, g)."""
    count = tokens.shape[-1]
    grid = math.isqrt(count)
    if grid**2 != count:
        raise ValueError(f"{count} tokens beside the class token are not a square grid")
    return tf.reshape(tokens, (-1, grid, grid))
