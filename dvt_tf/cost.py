"""Multiply-accumulates of a cascade, from its configuration alone.

Counted as fvcore counts the published code: linear layers, convolutions and matmuls exactly, 5 per LayerNorm input
element, 1 per element of a resize. The paper's "GFLOPs" are these numbers over 10^9.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dvt_tf.layers.patch_embedding import patch_geometry
from dvt_tf.layers.tokens_to_token import soft_split_sides
from dvt_tf.presets import CascadeConfig, blocks_of, tokens_to_token_splits

PARTS = ("embedding", "attention", "mlp", "feature_reuse", "relationship_reuse", "head")


def itemise_macs(config: CascadeConfig) -> list[dict[str, int]]:
    """What each Transformer costs by itself, by part (the keys are `PARTS`).

    A block's norms are counted with the branch they open; the channels that feature reuse adds to a block's norm and
    first linear layer are counted as feature reuse, since without it they would not be there.
    """
    c, items = config, []
    for k, grid in enumerate(c.token_grids):
        length, hidden = 1 + grid**2, c.mlp_dim
        feature_blocks = len(blocks_of(c.feature_reuse, c.depth)) if k else 0
        relation_blocks = len(blocks_of(c.relationship_reuse, c.depth)) if k else 0
        attention = length * c.dim * 4 * c.dim + 2 * length**2 * c.dim + 5 * length * c.dim
        mlp = 2 * length * c.dim * hidden + 5 * length * c.dim
        item = {
            "embedding": _embedding(c, grid),
            "attention": c.depth * attention,
            "mlp": c.depth * mlp,
            "feature_reuse": 0,
            "relationship_reuse": 0,
            "head": 5 * length * c.dim + c.dim * c.num_classes,
        }
        if k:
            source = c.token_grids[k - 1]
            item["feature_reuse"] = feature_blocks * _feature_reuse(c, source, grid)
            if relation_blocks:
                item["relationship_reuse"] = _relationship_reuse(c, source, grid, relation_blocks)
        items.append(item)
    return items


def _embedding(c: CascadeConfig, grid: int) -> int:
    if c.embedding == "patch":
        kernel, _ = patch_geometry(c.image_size, grid)
        return grid**2 * kernel**2 * 3 * c.dim
    total, dim, random = 0, c.performer_dim, c.performer_features
    for width, patches in _performers(c, grid):
        norms = 5 * patches * (width + dim)
        linear = patches * dim * (3 * width + dim + 2 * dim)  # keys, queries and values; projection; MLP
        features = 2 * patches * random * dim  # of the keys and of the queries
        attended = patches * random * (2 * dim + 1)  # with the values, then back to the queries, and the divisor
        total += norms + linear + features + attended
    return total + grid**2 * _projected_width(c, grid) * c.dim


def _performers(c: CascadeConfig, grid: int) -> list[tuple[int, int]]:
    """Of each performer of tokens-to-token, the width of the patches that enter it and their number."""
    first, second, _ = tokens_to_token_splits(c.image_size, grid)
    sides = soft_split_sides(c.image_size, (first, second))
    return [(3 * first[0] ** 2, sides[0] ** 2), (c.performer_dim * second[0] ** 2, sides[1] ** 2)]


def _projected_width(c: CascadeConfig, grid: int) -> int:
    """Width of the last soft split's patches."""
    return c.performer_dim * tokens_to_token_splits(c.image_size, grid)[-1][0] ** 2


def _embedding_parameters(c: CascadeConfig, grid: int) -> int:
    if c.embedding == "patch":
        kernel, _ = patch_geometry(c.image_size, grid)
        return kernel**2 * 3 * c.dim + c.dim
    dim = c.performer_dim
    total = _projected_width(c, grid) * c.dim + c.dim
    for width, _ in _performers(c, grid):
        total += 2 * (width + dim) + c.performer_features * dim  # norms, random features
        total += (width + 1) * 3 * dim + 3 * (dim + 1) * dim  # keys, queries and values; projection and MLP
    return total


def _feature_reuse(c: CascadeConfig, source: int, target: int) -> int:
    mixed = source**2 * (5 * c.dim + c.dim * c.feature_reuse_hidden + c.feature_reuse_hidden * c.feature_reuse_dim)
    resized = c.feature_reuse_dim * _resized_elements(source, target)
    widened = (1 + target**2) * c.feature_reuse_dim * (5 + c.mlp_dim)
    return mixed + resized + widened


def _relationship_reuse(c: CascadeConfig, source: int, target: int, blocks: int) -> int:
    maps_in = len(blocks_of(c.relationship_source, c.depth)) * c.num_heads
    maps_out, hidden = blocks * c.num_heads, 3 * c.depth * c.num_heads
    before, after = 1 + source**2, 1 + target**2
    mixed = before**2 * (maps_in * hidden + hidden * maps_out)
    # One token axis at a time, each as the published code does it: to the finer grid, then pooled.
    resized = maps_out * (2 * before + after) * _resized_elements(source, target)
    return mixed + resized


def _resized_elements(source: int, target: int) -> int:
    """Elements that the two steps of the published resize write: nearest to a multiple, then pooling to the target."""
    fine = source * -(-target // source)
    return fine**2 + target**2


def count_macs(model: Any) -> list[int]:
    """Cumulative multiply-accumulates of leaving at each exit, for one image; earlier exits' heads included.

    Args:
        model: a `CascadeConfig`, or anything that has one as `.config`.
    """
    config = model if isinstance(model, CascadeConfig) else model.config
    return [int(total) for total in np.cumsum([sum(item.values()) for item in itemise_macs(config)])]


def count_parameters(config: CascadeConfig) -> int:
    """Weights of the whole cascade, trainable or stored."""
    c, total = config, 0
    for k, grid in enumerate(c.token_grids):
        feature_blocks = len(blocks_of(c.feature_reuse, c.depth)) if k else 0
        relation_blocks = len(blocks_of(c.relationship_reuse, c.depth)) if k else 0
        total += _embedding_parameters(c, grid) + c.dim  # and the class token
        total += (1 + grid**2) * c.dim if c.position_embedding == "learned" else 0
        attention = 3 * c.dim * c.dim + (3 * c.dim if c.qkv_bias else 0) + c.dim * c.dim + c.dim
        mlp = 2 * c.dim * c.mlp_dim + c.mlp_dim + c.dim
        total += c.depth * (4 * c.dim + attention + mlp)
        total += 2 * c.dim + c.dim * c.num_classes + c.num_classes
        reuse = 2 * c.dim + c.dim * c.feature_reuse_hidden + c.feature_reuse_hidden
        reuse += c.feature_reuse_hidden * c.feature_reuse_dim + c.feature_reuse_dim
        reuse += c.feature_reuse_dim * (2 + c.mlp_dim)
        total += feature_blocks * reuse
        if relation_blocks:
            maps_in = len(blocks_of(c.relationship_source, c.depth)) * c.num_heads
            maps_out, hidden = relation_blocks * c.num_heads, 3 * c.depth * c.num_heads
            total += maps_in * hidden + hidden + hidden * maps_out + maps_out
    return total
