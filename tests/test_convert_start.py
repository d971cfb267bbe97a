"""A single Transformer as the start of a cascade: what is copied, what is resized, and what stays fresh."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.checkpoints import state_of
from dvt_tf.published import bicubic_matrix, start_from_single
from tests.cascades import small_config
from tests.checkpoint_files import (
    SMALL_PRESETS,
    T2T,
    logits,
    published_state,
    reference,
    without,
)

NO_REUSE = {"feature_reuse": "none", "relationship_reuse": "none"}


@pytest.mark.parametrize("fields", [T2T, {}], ids=["tokens to token", "patches"])
def test_without_reuse_the_transformer_of_the_same_grid_is_the_single_one(fields: dict[str, Any]) -> None:
    single = small_config(**fields, token_grids=(4,))
    state = published_state(single)
    cascade = DynamicVisionTransformer(small_config(**fields, **NO_REUSE))
    start_from_single(cascade, state)
    found = logits(cascade)
    np.testing.assert_array_equal(found[2], logits(reference(single, state))[0])
    assert not np.array_equal(found[1], found[2])


@pytest.mark.parametrize("preset", ["small_t2t", "small_patch"])
def test_a_start_copies_what_it_can_and_leaves_reuse_fresh(preset: str) -> None:
    config = SMALL_PRESETS[preset]
    state = published_state(SMALL_PRESETS[f"{preset}_single"])
    cascade = DynamicVisionTransformer(config)
    cascade.build()
    before = state_of(cascade)
    start_from_single(cascade, state)
    after = state_of(cascade)
    for name, value in after.items():
        if ".feature_reuse." in name or ".relationship_reuse." in name:
            np.testing.assert_array_equal(value, before[name], err_msg=name)
    reused = config.feature_reuse_dim
    for k in range(3):
        for i in range(config.depth):
            block, theirs = f"transformers.{k}.blocks.{i}", f"blocks.{i}"
            np.testing.assert_array_equal(after[f"{block}.attention.qkv.kernel"], state[f"{theirs}.attn.qkv.weight"].T)
            wider = reused if k else 0
            gamma, beta = after[f"{block}.norm2.gamma"], after[f"{block}.norm2.beta"]
            np.testing.assert_array_equal(gamma, [*state[f"{theirs}.norm2.weight"], *[1.0] * wider])
            np.testing.assert_array_equal(beta, [*state[f"{theirs}.norm2.bias"], *[0.0] * wider])
            kernel = after[f"{block}.mlp.fc1.kernel"]
            np.testing.assert_array_equal(kernel[: config.dim], state[f"{theirs}.mlp.fc1.weight"].T)
            assert not kernel[config.dim :].any()
            assert len(kernel) == config.dim + wider
        np.testing.assert_array_equal(after[f"transformers.{k}.head.kernel"], state["head.weight"].T)
        np.testing.assert_array_equal(after[f"transformers.{k}.position.class_token"], state["cls_token"])


def test_a_plain_image_gives_every_transformer_the_same_patches() -> None:
    cascade = DynamicVisionTransformer(small_config())
    start_from_single(cascade, published_state(SMALL_PRESETS["small_patch_single"]))
    plain = np.ones((1, 28, 28, 3), np.float32) * np.float32([0.3, -1.0, 2.0])
    tokens = [
        transformer.embedding(plain).numpy().reshape(1, g, g, -1)
        for transformer, g in zip(cascade.transformers, (2, 3, 4), strict=True)
    ]
    np.testing.assert_allclose(tokens[0][:, 0, 0], tokens[2][:, 0, 0], atol=1e-5)
    np.testing.assert_allclose(tokens[1][:, 1, 1], tokens[2][:, 0, 0], atol=1e-5)  # the others see padding


def test_learned_positions_are_resized_over_the_grid() -> None:
    state = published_state(SMALL_PRESETS["small_patch_single"])
    rows = np.repeat(np.arange(4, dtype=np.float32), 4)
    state["pos_embed"][0, 1:, 0], state["pos_embed"][0, 1:, 1] = rows, 5.0
    cascade = DynamicVisionTransformer(small_config())
    start_from_single(cascade, state)
    for transformer, grid in zip(cascade.transformers, (2, 3, 4), strict=True):
        positions = transformer.position.positions.numpy()[0]
        np.testing.assert_array_equal(positions[0], state["pos_embed"][0, 0])
        np.testing.assert_allclose(positions[1:, 1], 5.0, rtol=1e-5)
        found = positions[1:, 0].reshape(grid, grid)
        np.testing.assert_allclose(found, np.repeat(found[:, :1], grid, 1), atol=1e-5)  # across, nothing changes
        assert np.all(np.diff(found[:, 0]) > 0)
        assert found.mean() == pytest.approx(1.5, abs=1e-4)


def test_the_first_performers_patches_are_resized_by_row_and_column() -> None:
    state = published_state(SMALL_PRESETS["small_t2t_single"])
    side = 3  # pixels of the finest grid's first patches
    gamma = np.tile(np.float32([1.0, 2.0, 3.0])[:, None], (1, side * side))  # published order: channel, row, column
    state["tokens_to_token.attention1.norm1.weight"] = gamma.reshape(-1)
    cascade = DynamicVisionTransformer(small_config(**T2T))
    start_from_single(cascade, state)
    kernel = (
        state["tokens_to_token.attention1.kqv.weight"].reshape(-1, 3, side * side).sum(-1).T
    )  # (3, 3 performer_dim)
    for transformer, patch in zip(cascade.transformers, (7, 5, 3), strict=True):
        first = transformer.embedding.performers[0]
        found = first.norm1.gamma.numpy().reshape(patch, patch, 3)
        np.testing.assert_allclose(found, np.broadcast_to([1.0, 2.0, 3.0], found.shape), rtol=1e-5)
        sums = first.kqv.kernel.numpy().reshape(patch * patch, 3, -1).sum(0)
        np.testing.assert_allclose(sums, kernel, atol=1e-5)


@pytest.mark.parametrize(("source", "target"), [(16, 32), (16, 23), (7, 14), (7, 11), (14, 10), (14, 7)])
def test_bicubic_resizing_keeps_straight_lines_straight(source: int, target: int) -> None:
    matrix = bicubic_matrix(source, target)
    np.testing.assert_allclose(matrix.sum(1), 1.0, atol=1e-6)
    line = (np.arange(source) + 0.5) / source
    inner = slice(target // 4, -(target // 4))  # the edges have nothing beyond them
    np.testing.assert_allclose((matrix @ line)[inner], ((np.arange(target) + 0.5) / target)[inner], atol=1e-2)


def test_a_start_must_be_exactly_the_single_transformer() -> None:
    cascade = DynamicVisionTransformer(small_config())
    cascade.build()
    before = state_of(cascade)
    state = published_state(SMALL_PRESETS["small_patch_single"])
    for wrong in (
        without("norm.bias")(state),
        {**state, "head_dist.weight": np.zeros((7, 16), np.float32)},
        {**state, "head.bias": np.full(7, np.inf, np.float32)},
        published_state(small_config(token_grids=(2,))),
    ):
        with pytest.raises(ValueError, match=r"^deit\.pth"):
            start_from_single(cascade, wrong, "deit.pth")
    after = state_of(cascade)
    assert all(np.array_equal(before[name], after[name]) for name in before)
