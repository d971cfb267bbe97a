"""One Transformer of the cascade: an image, and what is reused, to logits and what can be reused downstream."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow import keras

from dvt_tf.layers import (
    FeatureReuse,
    PatchEmbedding,
    PositionEmbedding,
    RelationshipReuse,
    TokensToToken,
    TransformerBlock,
)
from dvt_tf.layers.linear import linear_start
from dvt_tf.layers.norm import LayerNorm, standardise
from dvt_tf.presets import CascadeConfig, blocks_of, tokens_to_token_splits


class TransformerOutputs(NamedTuple):
    """What one Transformer of the cascade computes, all float32.

    logits: (B, classes), the exit. features: (B, 1 + g g, dim), the last block's output before the final norm.
    relationships: one (B, heads, 1 + g g, 1 + g g) per block, the attention logits with what reuse added to them.
    tokens: (B, 1 + g g, dim), what enters the first block. normalised: `features` after the final norm.
    A Transformer that is folded for inference gives None for these two, which only training looks at.
    """

    logits: tf.Tensor
    features: tf.Tensor
    relationships: list[tf.Tensor]
    tokens: Any
    normalised: Any


def recomputed(part: Callable[..., Any]) -> Callable[..., Any]:
    """A part of a model whose inner tensors are not kept for the gradient but computed again (Chen et al., 2016).

    Args:
        part: tensors, or None in place of one -> tensors, nested as they may be; the same whenever it is called.

    `tf.recompute_grad` takes no None, and copies every tensor.
    """

    def run(*given: Any) -> Any:
        @tf.custom_gradient
        def inner(*tensors: tf.Tensor) -> tuple[Any, Callable[..., Any]]:
            def gradient(*upstream: tf.Tensor, variables: Sequence[Any] = ()) -> tuple[list[Any], list[Any]]:
                with tf.control_dependencies(upstream):  # not before it is needed
                    again = [tf.identity(tensor) for tensor in tensors]
                with tf.GradientTape() as tape:
                    tape.watch([*again, *variables])
                    outputs = part(*_filled(given, again))
                gradients = tape.gradient(outputs, [*again, *variables], upstream)
                return gradients[: len(again)], gradients[len(again) :]

            return part(*_filled(given, tensors)), gradient

        return inner(*(tensor for tensor in given if tensor is not None))

    return run


def _filled(given: Sequence[Any], tensors: Sequence[tf.Tensor]) -> list[Any]:
    """`given` with these tensors where it is not None."""
    left = iter(tensors)
    return [None if tensor is None else next(left) for tensor in given]


class TransformerMath:
    """What a Transformer computes with its parts, in training and folded for inference (`dvt_tf.optimize`).

    remat: whether the gradient computes anew what lies inside the embedding, the mixing of relationships and every
    block, instead of its being kept: the least memory in training, at about a third more arithmetic.
    """

    remat = False
    index: int
    position: Any
    blocks: Sequence[Any]
    norm: Any
    head: Any

    def run(self, images: tf.Tensor, upstream: TransformerOutputs | None, seed: tf.Tensor | None) -> TransformerOutputs:
        """As `VisionTransformer`'s call."""
        features: Mapping[int, tf.Tensor] = {}
        maps: Mapping[int, Any] = {}
        if self.index:
            if upstream is None:
                raise ValueError(
                    f"Transformer {self.index + 1} of the cascade reuses its upstream's outputs and got none"
                )
            # The class token gives no context; the gradient of [:, 1:] would be slower.
            features = self._features(tf.slice(upstream.features, (0, 1, 0), (-1, -1, -1)))
            maps = self._part(self._mixed, seed)(*upstream.relationships)
        entering = self._part(self._enter, seed)(images)  # (B, 1 + g g, dim)
        tokens, given = entering, []
        for i in range(len(self.blocks)):
            tokens, logits = self._part(self._through, i, seed)(tokens, features.get(i), maps.get(i))
            given.append(logits)
        return TransformerOutputs(*self._leave(entering, tokens, given))

    def _part(self, method: Callable[..., Any], *fixed: Any) -> Callable[..., Any]:
        """A method as a function of tensors alone, its first arguments fixed; recomputed for gradients if `remat`."""
        part = functools.partial(method, *fixed)
        return recomputed(part) if self.remat else part

    def _mixed(self, seed: tf.Tensor | None, *relationships: tf.Tensor) -> Mapping[int, tf.Tensor]:
        """`_maps`, in training or not."""
        return self._maps(relationships)

    def _resized(self, seed: tf.Tensor | None, maps: tf.Tensor, tokens: tf.Tensor) -> tf.Tensor:
        """`_addend`, in training or not."""
        return self._addend(maps, tokens)

    def _enter(self, seed: tf.Tensor | None, images: tf.Tensor) -> tf.Tensor:
        """(B, S, S, 3) -> (B, 1 + g g, dim), what enters the first block."""
        return self.position(self._embed(images, seed))

    def _through(
        self, i: int, seed: tf.Tensor | None, tokens: tf.Tensor, features: tf.Tensor | None, maps: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """What leaves block i, and its logits."""
        return self.blocks[i](
            tokens,
            features=features,
            relationship=None if maps is None else self._resized(seed, maps, tokens),
            seed=None if seed is None else tf.random.experimental.stateless_fold_in(seed, i),
        )

    def _leave(self, entering: tf.Tensor, tokens: tf.Tensor, given: list[tf.Tensor]) -> tuple[Any, ...]:
        """What enters the first block, leaves the last one, and each gave -> the fields of the outputs."""
        normalised = self.norm(tokens)
        return self.head(normalised[:, 0]), tokens, given, entering, normalised

    def _embed(self, images: tf.Tensor, seed: tf.Tensor | None) -> tf.Tensor:
        """(B, S, S, 3) -> (B, g g, dim)."""
        raise NotImplementedError

    def _features(self, patches: tf.Tensor) -> Mapping[int, tf.Tensor]:
        """The upstream's patch tokens (B, u u, dim) -> the context (B, 1 + g g, out) of each block that takes one."""
        raise NotImplementedError

    def _maps(self, relationships: Sequence[tf.Tensor]) -> Mapping[int, Any]:
        """The upstream's logits by block -> for each block that takes an addend, what `_addend` makes it from."""
        raise NotImplementedError

    def _addend(self, maps: Any, tokens: tf.Tensor) -> tf.Tensor:
        """One block's maps, resized; `tokens` are what enters the block."""
        raise NotImplementedError


class VisionTransformer(TransformerMath, keras.layers.Layer):
    """Transformer `index` of a cascade (Wang et al., 2021, figure 2); those after the first reuse their upstream.

    Args:
        config: the cascade.
        index: 0-based place in the cascade.

    Call: images (B, S, S, 3) float32; `upstream`, the outputs of Transformer index - 1 (None for the first);
    `seed` (2,) int32 for stochastic depth and dropout, None for inference -> `TransformerOutputs`.
    """

    def __init__(self, config: CascadeConfig | dict[str, Any], index: int, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.config = config if isinstance(config, CascadeConfig) else CascadeConfig.from_dict(config)
        self.index = index
        self.grid = self.config.token_grids[index]
        self.upstream_grid = self.config.token_grids[index - 1] if index else None

    def build(self, input_shape: Any) -> None:
        c, policy = self.config, self.dtype_policy
        if c.embedding == "tokens_to_token":
            self.embedding = TokensToToken(
                c.image_size,
                tokens_to_token_splits(c.image_size, self.grid),
                c.dim,
                c.performer_dim,
                c.performer_features,
                c.norm_epsilon,
                c.performer_dropout_rate,
                c.linear_init,
                dtype=policy,
                name="embedding",
            )
        else:
            self.embedding = PatchEmbedding(c.image_size, self.grid, c.dim, dtype=policy, name="embedding")
        self.position = PositionEmbedding(
            self.grid, c.dim, c.position_embedding, c.position_init, dtype="float32", name="position"
        )
        downstream = self.upstream_grid is not None
        feature_blocks = blocks_of(c.feature_reuse, c.depth) if downstream else range(0)
        relation_blocks = blocks_of(c.relationship_reuse, c.depth) if downstream else range(0)
        rates = np.linspace(0.0, c.drop_path_rate, c.depth)
        self.blocks = [
            TransformerBlock(
                c.num_heads,
                c.mlp_dim,
                c.qkv_bias,
                c.norm_epsilon,
                reuse_dim=c.feature_reuse_dim if i in feature_blocks else 0,
                drop_path_rate=float(rates[i]),
                init=c.linear_init,
                dtype=policy,
                name=f"block_{i}",
            )
            for i in range(c.depth)
        ]
        self.norm = LayerNorm(epsilon=c.norm_epsilon, dtype="float32", name="norm")
        # In every preset by 0.02: the first predictions are near uniform, and the first loss near ln(num_classes).
        self.head = keras.layers.Dense(
            c.num_classes, kernel_initializer=linear_start("normal"), dtype="float32", name="head"
        )
        self.feature_reuse = []
        self.relationship_reuse = None
        if self.upstream_grid is not None:
            self.feature_reuse = [
                FeatureReuse(
                    self.upstream_grid,
                    self.grid,
                    c.feature_reuse_hidden,
                    c.feature_reuse_dim,
                    c.norm_epsilon,
                    c.linear_init,
                    dtype=policy,
                    name=f"feature_reuse_{i}",
                )
                for i in feature_blocks
            ]
            if relation_blocks:
                self.relationship_reuse = RelationshipReuse(
                    self.upstream_grid,
                    self.grid,
                    3 * c.depth * c.num_heads,
                    len(relation_blocks),
                    c.num_heads,
                    dtype=policy,
                    name="relationship_reuse",
                )
        self.feature_blocks, self.relation_blocks = list(feature_blocks), list(relation_blocks)
        self.source_blocks = list(blocks_of(c.relationship_source, c.depth))
        self._build_sublayers()
        super().build(input_shape)

    def _build_sublayers(self) -> None:
        c = self.config
        self.embedding.build((None, c.image_size, c.image_size, 3))
        self.position.build((None, self.grid**2, c.dim))
        for block in self.blocks:
            block.build((None, 1 + self.grid**2, c.dim))
        self.norm.build((None, 1 + self.grid**2, c.dim))
        self.head.build((None, c.dim))
        if self.upstream_grid is not None:
            length = 1 + self.upstream_grid**2
            for reuse in self.feature_reuse:
                reuse.build((None, length - 1, c.dim))
            if self.relationship_reuse is not None:
                self.relationship_reuse.build([(None, c.num_heads, length, length)] * len(self.source_blocks))

    def call(
        self, images: tf.Tensor, upstream: TransformerOutputs | None = None, seed: tf.Tensor | None = None
    ) -> TransformerOutputs:
        return self.run(images, upstream, seed)

    def _features(self, patches: tf.Tensor) -> Mapping[int, tf.Tensor]:
        if not self.feature_reuse:
            return {}
        standardised = standardise(patches, self.config.norm_epsilon)  # which all their norms begin with
        contexts = [reuse.context(standardised) for reuse in self.feature_reuse]
        return dict(zip(self.feature_blocks, contexts, strict=True))

    def _mixed(self, seed: tf.Tensor | None, *relationships: tf.Tensor) -> Mapping[int, tf.Tensor]:
        return self._maps(relationships, compiled=seed is not None)

    def _maps(self, relationships: Sequence[tf.Tensor], compiled: bool = False) -> Mapping[int, tf.Tensor]:
        if self.relationship_reuse is None:
            return {}
        mixed = self.relationship_reuse.mix([relationships[i] for i in self.source_blocks], compiled)
        return dict(zip(self.relation_blocks, mixed, strict=True))

    def _resized(self, seed: tf.Tensor | None, maps: tf.Tensor, tokens: tf.Tensor) -> tf.Tensor:
        return self._addend(maps, tokens, compiled=seed is not None)

    def _addend(self, maps: tf.Tensor, tokens: tf.Tensor, compiled: bool = False) -> tf.Tensor:
        assert self.relationship_reuse is not None
        return self.relationship_reuse.addend(maps, compiled)

    def _embed(self, images: tf.Tensor, seed: tf.Tensor | None) -> tf.Tensor:
        """(B, S, S, 3) -> (B, g g, dim)."""
        if seed is None or not isinstance(self.embedding, TokensToToken):
            return self.embedding(images)
        # The blocks take 0 to depth - 1.
        return self.embedding(images, seed=tf.random.experimental.stateless_fold_in(seed, self.config.depth))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "config": self.config.to_dict(), "index": self.index}
