"""A trained cascade to its folded inference form: the same mathematics, in fewer passes over memory.

A transformation of the weights, as folding batch norms is: what a Transformer computes stands in the layers alone
(`TransformerMath`, `BlockMath`, ...), and here, in `folded_parts` and in `folded_embeddings` are other parts for it to
compute with. Folded are

- every norm's scale and shift, into the matmul behind it; with that kernel's columns centred, the mean need not be
  subtracted from the tokens either, and all that is left of a norm is one factor a token;
- the queries' scale, into their weights;
- bias and exact GELU, into the matmul before them: TensorFlow's own fusion, which wants flat (rows, channels) tensors
  and a bias of known size;
- a soft split with the norm and matmul behind it, into a convolution: the patches themselves are never laid out, and
  the deviation of each comes from box filters;
- the feature reuse of all blocks, into one wide matmul: their norms see the same tokens;
- the final norm, to the class token, which alone is looked at.

The resize of the relationships runs block by block, when its block does, so that one block's maps are alive at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from dvt_tf.folded_embeddings import FoldedPatchEmbedding, FoldedTokensToToken
from dvt_tf.folded_parts import FlatDense, FoldedMLP, Standardise, as_array, behind_norm, folded_dense, kernel_of
from dvt_tf.layers.attention import AttentionMath
from dvt_tf.layers.reuse import resize_matrix
from dvt_tf.layers.transformer_block import BlockMath
from dvt_tf.vision_transformer import TransformerMath, TransformerOutputs, VisionTransformer

if TYPE_CHECKING:
    from dvt_tf.cascade import DynamicVisionTransformer

PRECISIONS = ("float32", "bfloat16")


class FoldedCascade(tf.Module):
    """A cascade for inference alone, with weights of its own: changing the model's afterwards does not change it.

    Args:
        model: the cascade, built.
        precision: `"float32"`, equal to the model to 2e-5 on every logit (but where patches of pixels are nearly even:
            a norm makes rounding large there, the layers' as well), or `"bfloat16"`: matmuls in bfloat16, and
            norms, softmax and the residual stream in float32.

    Raises:
        ValueError: another precision.
    """

    def __init__(self, model: DynamicVisionTransformer, precision: str = "float32") -> None:
        super().__init__(name="folded_cascade")
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be {' or '.join(PRECISIONS)}, not {precision!r}")
        model.build()
        self.config = model.config
        self.precision = precision
        self.transformers = [_Transformer(transformer, tf.as_dtype(precision)) for transformer in model.transformers]

    def __call__(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Images (B, S, S, 3) float32, normalised -> {"exit_1": (B, classes), ...} float32 logits, as the model."""
        outputs: list[TransformerOutputs] = []
        for transformer in self.transformers:
            outputs.append(transformer(images, upstream=outputs[-1] if outputs else None))
        return {f"exit_{i + 1}": out.logits for i, out in enumerate(outputs)}


class _Attention(AttentionMath, tf.Module):
    scale = 1.0

    def __init__(self, attention: Any, norm: Any, dtype: tf.DType) -> None:
        super().__init__()
        kernel, bias = behind_norm(norm, *kernel_of(attention.qkv))
        queries = slice(0, attention.dim)
        kernel[:, queries] *= attention.scale
        bias[queries] *= attention.scale
        self.num_heads = attention.num_heads
        self.qkv = FlatDense(kernel, bias, dtype)
        self.projection = folded_dense(attention.projection, dtype)

    def __call__(self, tokens: tf.Tensor, relationship: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        return self.attend(tokens, relationship)


class _Block(BlockMath, tf.Module):
    def __init__(self, block: Any, dtype: tf.DType) -> None:
        super().__init__(name=block.name)
        self.reuse_dim = block.reuse_dim
        self.norm1 = Standardise(block.norm_epsilon, dtype)
        self.attention = _Attention(block.attention, block.norm1, dtype)
        self.norm2 = Standardise(block.norm_epsilon, dtype)
        self.mlp = FoldedMLP(block.mlp, block.norm2, dtype)

    def __call__(
        self,
        tokens: tf.Tensor,
        features: tf.Tensor | None = None,
        relationship: tf.Tensor | None = None,
        seed: None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        return self.run(tokens, features, relationship, seed)


class _Position(tf.Module):
    """Tokens (B, g g, D) -> (B, 1 + g g, D) float32: the class token is part of the table that is added."""

    def __init__(self, position: Any) -> None:
        super().__init__()
        table = np.array(np.broadcast_to(as_array(position.positions), (1, 1 + position.grid**2, position.dim)))
        table[:, 0] += as_array(position.class_token)[0]
        self.table = tf.Variable(tf.cast(table, tf.float32), trainable=False)

    def __call__(self, tokens: tf.Tensor) -> tf.Tensor:
        return tf.pad(tf.cast(tokens, tf.float32), [[0, 0], [1, 0], [0, 0]]) + self.table


class _FeatureReuse(tf.Module):
    """The feature reuse of all blocks at once: patches (B, u u, D) -> a context (B, 1 + g g, out) for each."""

    def __init__(self, layers: Sequence[Any], dtype: tf.DType) -> None:
        super().__init__()
        first = layers[0]
        self.count, self.hidden = len(layers), first.hidden
        self.norm = Standardise(first.norm_epsilon, dtype)
        folded = [behind_norm(layer.norm, *kernel_of(layer.mlp.fc1)) for layer in layers]
        kernel, bias = np.concatenate([k for k, _ in folded], 1), np.concatenate([b for _, b in folded])
        self.fc1 = FlatDense(kernel, bias, dtype, gelu=True)  # D -> count hidden
        kernels = np.stack([as_array(layer.mlp.fc2.kernel) for layer in layers])
        self.kernels = tf.Variable(tf.cast(kernels, dtype), trainable=False)  # (count, hidden, out)
        biases = np.stack([as_array(layer.mlp.fc2.bias) for layer in layers])[:, None, None]
        self.biases = tf.Variable(tf.cast(biases, tf.float32), trainable=False)  # (count, 1, 1, out)
        self.matrix = resize_matrix(first.source, first.target, class_token=False)

    def __call__(self, patches: tf.Tensor) -> list[tf.Tensor]:
        length = patches.shape[1]
        hidden = tf.reshape(self.fc1(self.norm(patches)), (-1, self.count, self.hidden))  # (B u u, count, hidden)
        context = tf.matmul(tf.transpose(hidden, (1, 0, 2)), self.kernels)  # (count, B u u, out)
        context = tf.reshape(tf.cast(context, tf.float32), (self.count, -1, length, context.shape[-1]))
        context = tf.matmul(self.matrix, context) + self.biases  # (count, B, g g, out); the matrix's rows sum to 1
        return tf.unstack(tf.pad(context, [[0, 0], [0, 0], [1, 0], [0, 0]]))


class _RelationshipReuse(tf.Module):
    """The mixing, whose first matmul has channels last, where bias and GELU are part of it; and the resize.

    The second matmul gives channels first again, so that nothing is transposed behind it.
    """

    def __init__(self, reuse: Any, dtype: tf.DType) -> None:
        super().__init__()
        self.num_blocks, self.num_heads, self.length = reuse.num_blocks, reuse.num_heads, 1 + reuse.source**2
        # In float32: with so few channels the matmuls wait for memory, and bfloat16 with a bias is the slower one.
        self.mix1 = FlatDense(as_array(reuse.kernel1).T, as_array(reuse.bias1)[:, 0], tf.float32, gelu=True)
        self.kernel2 = tf.Variable(tf.cast(as_array(reuse.kernel2), tf.float32), trainable=False)  # (out, hidden)
        self.bias2 = tf.Variable(tf.cast(as_array(reuse.bias2), tf.float32), trainable=False)  # (out, 1)
        self.matrix = resize_matrix(reuse.source, reuse.target, class_token=True)  # (T, S)
        self.dtype = dtype

    def mix(self, relationships: Sequence[tf.Tensor]) -> tf.Tensor:
        """Upstream logits, each (B, heads, S, S) -> (B, blocks, heads, S, S)."""
        length = self.length
        maps = tf.concat(relationships, 1)  # (B, C, S, S)
        maps = tf.reshape(maps, (-1, maps.shape[1], length * length))
        hidden = self.mix1(tf.transpose(maps, (0, 2, 1)))  # (B, S S, hidden)
        maps = tf.matmul(self.kernel2, hidden, transpose_b=True) + self.bias2  # (B, blocks heads, S S)
        return tf.reshape(tf.cast(maps, self.dtype), (-1, self.num_blocks, self.num_heads, length, length))

    def addend(self, maps: tf.Tensor) -> tf.Tensor:
        """One block's maps (B, heads, S, S) -> (B, heads, T, T) float32."""
        matrix = tf.constant(self.matrix, self.dtype)  # (T, S)
        target = self.matrix.shape[0]
        across = tf.matmul(tf.reshape(maps, (-1, self.length)), matrix, transpose_b=True)  # (B heads S, T)
        resized = tf.matmul(matrix, tf.reshape(across, (-1, self.length, target)))  # (B heads, T, T)
        return tf.cast(tf.reshape(resized, (-1, self.num_heads, target, target)), tf.float32)


class _Transformer(TransformerMath, tf.Module):
    """One Transformer, folded. Call: as `VisionTransformer`, without a seed."""

    def __init__(self, transformer: VisionTransformer, dtype: tf.DType) -> None:
        super().__init__(name=transformer.name)
        self.config, self.index, self.grid = transformer.config, transformer.index, transformer.grid
        embedding = FoldedTokensToToken if transformer.config.embedding == "tokens_to_token" else FoldedPatchEmbedding
        self.embedding = embedding(transformer.embedding, dtype)
        self.position = _Position(transformer.position)
        self.blocks = [_Block(block, dtype) for block in transformer.blocks]
        self.norm = Standardise(transformer.config.norm_epsilon, tf.float32)
        self.head = folded_dense(transformer.head, tf.float32, transformer.norm)
        self._feature_blocks = transformer.feature_blocks
        self._relation_blocks, self._source_blocks = transformer.relation_blocks, transformer.source_blocks
        self.feature_reuse = _FeatureReuse(transformer.feature_reuse, dtype) if transformer.feature_reuse else None
        relationships = transformer.relationship_reuse
        self.relationship_reuse = _RelationshipReuse(relationships, dtype) if relationships is not None else None

    def __call__(self, images: tf.Tensor, upstream: TransformerOutputs | None = None) -> TransformerOutputs:
        return self.run(images, upstream, None)

    @property
    def used_blocks(self) -> Sequence[int]:
        """The upstream's blocks whose relationships are looked at."""
        return () if self.relationship_reuse is None else self._source_blocks

    def _embed(self, images: tf.Tensor, seed: tf.Tensor | None) -> tf.Tensor:
        return self.embedding(images)

    def _features(self, patches: tf.Tensor) -> Mapping[int, tf.Tensor]:
        if self.feature_reuse is None:
            return {}
        return dict(zip(self._feature_blocks, self.feature_reuse(patches), strict=True))

    def _maps(self, relationships: Sequence[tf.Tensor]) -> Mapping[int, tuple[tf.Tensor, int]]:
        """All blocks' maps, and which of them is the block's."""
        if self.relationship_reuse is None:
            return {}
        mixed = self.relationship_reuse.mix([relationships[i] for i in self._source_blocks])
        return {i: (mixed, place) for place, i in enumerate(self._relation_blocks)}

    def _addend(self, maps: tuple[tf.Tensor, int], tokens: tf.Tensor) -> tf.Tensor:
        assert self.relationship_reuse is not None
        mixed, place = maps
        with tf.control_dependencies([tokens]):  # not all blocks' at once, which would all be alive then
            return self.relationship_reuse.addend(mixed[:, place])

    def _leave(self, entering: tf.Tensor, tokens: tf.Tensor, given: list[tf.Tensor]) -> tuple[Any, ...]:
        return self.head(self.norm(tokens[:, 0])), tokens, given, None, None
