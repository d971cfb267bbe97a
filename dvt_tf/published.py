"""Weights under the names and in the layouts of the published PyTorch code, read into a cascade.

Ours and theirs differ in three ways: the names; the order of axes (Linear (out, in), convolution (out, in, height,
width)); and tokens-to-token's patches, which theirs order channel, row, column and ours row, column, channel.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tensorflow as tf

from dvt_tf.checkpoints import check_state, named_weights
from dvt_tf.layers.position_embedding import sinusoid_table
from dvt_tf.presets import CascadeConfig, blocks_of

if TYPE_CHECKING:
    from dvt_tf.cascade import DynamicVisionTransformer

# The published names of the Transformers, coarsest first.
PUBLISHED_TRANSFORMERS = ("less_less_token", "less_token", "normal_token")
# Averaging shadow weights in float32 moves even a constant table a little; another formula differs by about 1.
_SINUSOID_TOLERANCE = 1e-3


class PublishedWeight(NamedTuple):
    """One of our weights as the published code has it: the name, the shape, and the channels its patches have.

    `patch_channels` is 0 but where the first axis of ours (the last of theirs) runs over a soft split's patch.
    """

    name: str
    shape: tuple[int, ...]
    patch_channels: int = 0


def load_published_weights(
    model: DynamicVisionTransformer, state: Mapping[str, np.ndarray], source: str = "the published state"
) -> None:
    """Loads weights under the names and in the layouts of the published PyTorch code.

    Args:
        model: a cascade of the same architecture (names stand for Transformers coarsest first), or a single
            Transformer, whose published names have no Transformer's name before them.
        state: published name -> array; Linear (out, in), convolution (out, in, height, width).
        source: what messages call the state, for example a file's name.

    Raises:
        ValueError: names or shapes differ from what this cascade needs, or a stored position table is not the one that
            the model computes; nothing is loaded then.
    """
    published = check_published_state(model, state, source)
    for name, weight in named_weights(model):
        array = from_published(name, np.asarray(state[published[name].name], np.float32), published[name])
        weight.assign(array.reshape(tuple(weight.shape)))


def check_published_state(
    model: DynamicVisionTransformer, state: Mapping[str, np.ndarray], source: str = "the published state"
) -> dict[str, PublishedWeight]:
    """Checks a published state as `load_published_weights` does -> our names, and each as the published code has it."""
    if model.num_exits > len(PUBLISHED_TRANSFORMERS):
        raise ValueError(
            f"published weights have at most {len(PUBLISHED_TRANSFORMERS)} exits and this cascade has {model.num_exits}"
        )
    model.build()
    names = transformer_names(model.config, state)
    published = {
        name: published_weight(name, tuple(weight.shape), model.config, names) for name, weight in named_weights(model)
    }
    tables = dict(_sinusoid_tables(model.config, names))
    expected = {entry.name: entry.shape for entry in published.values()}
    check_state(expected | {name: table.shape for name, table in tables.items()}, state, source)
    for name, table in tables.items():
        if np.abs(np.asarray(state[name], np.float32) - table).max() > _SINUSOID_TOLERANCE:
            raise ValueError(f"{source}: {name} is not the fixed sinusoid table that this model computes")
    return published


def start_from_single(
    model: DynamicVisionTransformer, state: Mapping[str, np.ndarray], source: str = "the published state"
) -> None:
    """Gives every Transformer of a cascade the weights of one published alone, as a start for training.

    What does not depend on the token grid is copied, the rest is resized bicubically. Where a block takes in reused
    features, the MLP's weights for their channels start at zero (the norm before it does average over them); the layers
    of reuse keep the weights they have.

    Args:
        model: a cascade; its finest Transformer is the one that is published alone.
        state: as `load_published_weights` takes it for a single Transformer.
        source: what messages call the state.

    Raises:
        ValueError: the state is not exactly that of the single Transformer; nothing is changed then.
    """
    single = type(model)(dataclasses.replace(model.config, token_grids=model.config.token_grids[-1:]))
    load_published_weights(single, state, source)
    model.build()
    given = {name.split(".", 2)[2]: weight.numpy() for name, weight in named_weights(single)}
    for name, weight in named_weights(model):
        part = name.split(".", 2)[2]
        if not part.startswith(("feature_reuse.", "relationship_reuse.")):
            weight.assign(_fitted(part, given[part], tuple(weight.shape)))


def _fitted(part: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A single Transformer's weight in the shape that it has for another grid, or in a block that reuses."""
    if array.shape == shape:
        return array
    if part == "position.positions":
        return _fitted_positions(array, shape)
    if part.startswith("embedding."):
        return _fitted_patch(part, array, shape)
    # A block's second norm or first MLP kernel: the reused channels come after the old ones.
    fill = np.ones if part.endswith("norm2.gamma") else np.zeros
    return np.concatenate([array, fill((shape[0] - array.shape[0], *shape[1:]), np.float32)])


def _fitted_positions(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(1, 1 + s s, dim) -> (1, 1 + t t, dim): the class token keeps its position."""
    source, target = math.isqrt(array.shape[1] - 1), math.isqrt(shape[1] - 1)
    grid = _resized(array[0, 1:].reshape(source, source, -1), bicubic_matrix(source, target))
    return np.concatenate([array[:, :1], grid.reshape(1, target**2, -1)], 1)


def _fitted_patch(part: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A weight that runs over the pixels of an RGB patch: a kernel, or the scale or shift of the norm before it."""
    outputs = array.shape[-1:] if part.endswith("kernel") else ()
    source, target = (math.isqrt(math.prod(size) // (3 * math.prod(outputs))) for size in (array.shape, shape))
    matrix = bicubic_matrix(source, target)
    if outputs:
        # Each pixel's weight is dealt out whole, so the sum over the patch stays, and with it a plain image's token.
        matrix = matrix / matrix.sum(0)
    return _resized(array.reshape(source, source, 3, *outputs), matrix).reshape(shape)


def bicubic_matrix(source: int, target: int) -> np.ndarray:
    """(target, source): bicubic resizing of a line, as a matrix whose rows sum to 1."""
    line = np.eye(source, dtype=np.float32)[:, None]  # (source, 1, source): an image per pixel of the line
    return tf.image.resize(line, (target, 1), method="bicubic", antialias=True).numpy()[:, 0].astype(np.float64)


def _resized(maps: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(s, s, ...) -> (t, t, ...) float32 by the same matrix (t, s) on rows and columns."""
    return np.einsum("ys,xr,sr...->yx...", matrix, matrix, maps).astype(np.float32)


def transformer_names(config: CascadeConfig, state: Mapping[str, Any]) -> tuple[str, ...]:
    """What stands before the dot in the published names, per Transformer; empty for a Transformer published alone."""
    if config.num_exits == 1 and not any(name.startswith(f"{PUBLISHED_TRANSFORMERS[0]}.") for name in state):
        return ("",)
    return PUBLISHED_TRANSFORMERS[: config.num_exits]


def _sinusoid_tables(config: CascadeConfig, names: tuple[str, ...]) -> Iterator[tuple[str, np.ndarray]]:
    """The position tables that the published code stores and ours computes."""
    if config.position_embedding == "sinusoid":
        for name, grid in zip(names, config.token_grids, strict=True):
            yield _joined(name, "pos_embed"), sinusoid_table(1 + grid**2, config.dim)[None]


def _joined(transformer: str, rest: str) -> str:
    return f"{transformer}.{rest}" if transformer else rest


_PUBLISHED_PARTS = (
    (r"embedding\.performers\.(\d)\.", lambda match: f"tokens_to_token.attention{int(match[1]) + 1}."),
    (r"embedding\.projection\.", "tokens_to_token.project."),
    (r"(attention\d)\.features\.frequencies$", r"\1.w"),
    (r"(attention\d)\.projection\.", r"\1.proj."),
    (r"(attention\d)\.mlp\.fc1\.", r"\1.mlp.0."),
    (r"(attention\d)\.mlp\.fc2\.", r"\1.mlp.2."),
    (r"embedding\.kernel$", "patch_embed.proj.weight"),
    (r"embedding\.bias$", "patch_embed.proj.bias"),
    (r"position\.class_token$", "cls_token"),
    (r"position\.positions$", "pos_embed"),
    (r"feature_reuse\.(\d+)\.norm\.", r"blocks.\1.feature_resuse_mlp.0."),
    (r"feature_reuse\.(\d+)\.mlp\.", r"blocks.\1.feature_resuse_mlp.1."),
    (r"relationship_reuse\.kernel1$", "relation_reuse_conv.0.weight"),
    (r"relationship_reuse\.bias1$", "relation_reuse_conv.0.bias"),
    (r"relationship_reuse\.kernel2$", "relation_reuse_conv.2.weight"),
    (r"relationship_reuse\.bias2$", "relation_reuse_conv.2.bias"),
    (r"attention\.qkv\.", "attn.qkv."),
    (r"attention\.projection\.", "attn.proj."),
    (r"\.kernel$", ".weight"),
    (r"\.gamma$", ".weight"),
    (r"\.beta$", ".bias"),
)


def published_weight(
    name: str, shape: tuple[int, ...], config: CascadeConfig, transformers: tuple[str, ...] = PUBLISHED_TRANSFORMERS
) -> PublishedWeight:
    """What the published code calls one of our weights, and its shape there."""
    reuse = re.search(r"feature_reuse\.(\d+)\.", name)
    theirs = name
    if reuse:
        # Ours are numbered among themselves, the published ones by the block they belong to.
        block = blocks_of(config.feature_reuse, config.depth)[int(reuse[1])]
        theirs = name.replace(reuse[0], f"feature_reuse.{block}.")
    for pattern, replacement in _PUBLISHED_PARTS:
        theirs = re.sub(pattern, replacement, theirs)
    _, index, rest = theirs.split(".", 2)
    return PublishedWeight(
        _joined(transformers[int(index)], rest), _published_shape(name, shape), _patch_channels(name, config)
    )


def _published_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if name.endswith("embedding.kernel"):
        return (shape[3], shape[2], shape[0], shape[1])
    if "relationship_reuse.kernel" in name:
        return (*shape, 1, 1)
    if "relationship_reuse.bias" in name:
        return shape[:1]
    if name.endswith(".kernel"):
        return shape[::-1]
    return shape


def _patch_channels(name: str, config: CascadeConfig) -> int:
    if re.search(r"embedding\.performers\.0\.(norm1\.|kqv\.kernel)", name):
        return 3
    if re.search(r"embedding\.(performers\.1\.(norm1\.|kqv\.kernel)|projection\.kernel)", name):
        return config.performer_dim
    return 0


def from_published(name: str, array: np.ndarray, published: PublishedWeight) -> np.ndarray:
    """One published array in our layout: `name` is our name of it."""
    if name.endswith("embedding.kernel"):
        return array.transpose(2, 3, 1, 0)  # (out, in, h, w) -> (h, w, in, out)
    if published.patch_channels:
        # channel, row, column -> row, column, channel
        side = round((array.shape[-1] / published.patch_channels) ** 0.5)
        array = array.reshape(*array.shape[:-1], published.patch_channels, side, side)
        array = np.moveaxis(array, -3, -1).reshape(*array.shape[:-3], -1)
    if name.endswith(".kernel"):
        return array.T
    return array
