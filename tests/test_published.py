"""The published names and layouts, read into a cascade strictly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.checkpoints import named_weights, state_of
from dvt_tf.layers.position_embedding import sinusoid_table
from dvt_tf.published import PUBLISHED_TRANSFORMERS, load_published_weights, published_weight
from tests.cascades import random_images, small_cascade, small_config

T2T: dict[str, Any] = {
    "embedding": "tokens_to_token",
    "position_embedding": "sinusoid",
    "performer_dim": 5,
    "performer_features": 4,
}


def published_state(
    model: DynamicVisionTransformer, transformers: tuple[str, ...] = PUBLISHED_TRANSFORMERS
) -> dict[str, np.ndarray]:
    """Random arrays of the published names and layouts, from the layouts' own rules."""
    random = np.random.default_rng(7)
    state = {}
    for name, weight in named_weights(model):
        shape: tuple[int, ...] = tuple(weight.shape)
        if name.endswith("embedding.kernel"):
            shape = (shape[3], shape[2], *shape[:2])
        elif "relationship_reuse.kernel" in name:
            shape = (*shape, 1, 1)
        elif "relationship_reuse.bias" in name:
            shape = shape[:1]
        elif name.endswith("kernel"):
            shape = shape[::-1]
        published = published_weight(name, shape, model.config, transformers).name
        state[published] = random.standard_normal(shape).astype(np.float32)
    if model.config.position_embedding == "sinusoid":
        for transformer, grid in zip(transformers, model.config.token_grids, strict=False):
            name = f"{transformer}.pos_embed" if transformer else "pos_embed"
            state[name] = sinusoid_table(1 + grid**2, model.config.dim)[None]
    return state


def test_published_layouts_are_turned_into_ours() -> None:
    model = small_cascade(token_grids=(2, 3))
    state = published_state(model)
    load_published_weights(model, state)
    second = model.transformers[1]
    np.testing.assert_array_equal(
        second.embedding.kernel.numpy(), state["less_token.patch_embed.proj.weight"].transpose(2, 3, 1, 0)
    )
    np.testing.assert_array_equal(
        second.blocks[1].attention.qkv.kernel.numpy(), state["less_token.blocks.1.attn.qkv.weight"].T
    )
    np.testing.assert_array_equal(
        second.relationship_reuse.kernel1.numpy(), state["less_token.relation_reuse_conv.0.weight"][:, :, 0, 0]
    )
    np.testing.assert_array_equal(
        second.relationship_reuse.bias2.numpy()[:, 0], state["less_token.relation_reuse_conv.2.bias"]
    )
    np.testing.assert_array_equal(second.norm.gamma.numpy(), state["less_token.norm.weight"])
    np.testing.assert_array_equal(model.transformers[0].head.kernel.numpy(), state["less_less_token.head.weight"].T)
    assert not any(name.startswith("normal_token") for name in state)


@pytest.mark.parametrize(("choice", "blocks"), [("shallow", (0, 1)), ("deep", (2, 3, 4)), ("all", (0, 1, 2, 3, 4))])
def test_published_feature_reuse_is_named_by_its_block(choice: str, blocks: tuple[int, ...]) -> None:
    model = small_cascade(depth=5, token_grids=(2, 3), feature_reuse=choice, relationship_reuse="none")
    state = published_state(model)
    named = {name.split(".")[2] for name in state if "feature_resuse_mlp" in name}
    assert named == {str(block) for block in blocks}
    load_published_weights(model, state)
    for reuse, block in zip(model.transformers[1].feature_reuse, blocks, strict=True):
        prefix = f"less_token.blocks.{block}.feature_resuse_mlp"
        np.testing.assert_array_equal(reuse.norm.gamma.numpy(), state[f"{prefix}.0.weight"])
        np.testing.assert_array_equal(reuse.mlp.fc1.kernel.numpy(), state[f"{prefix}.1.fc1.weight"].T)
        np.testing.assert_array_equal(reuse.mlp.fc2.bias.numpy(), state[f"{prefix}.1.fc2.bias"])
    # The block of that number is the one that uses it: its own attention stays, the next one's moves.
    images = tf.constant(random_images(1))
    before = model.run(images)[1].relationships
    first = f"less_token.blocks.{blocks[0]}.feature_resuse_mlp.1.fc2.bias"
    load_published_weights(model, {**state, first: state[first] + np.float32([3, -2, 1, 2, -1])})
    changed = [bool(np.any(a != b)) for a, b in zip(before, model.run(images)[1].relationships)]
    assert changed == [i > blocks[0] for i in range(5)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("less_token.norm.bias"), r"1 missing \(less_token\.norm\.bias\)"),
        (lambda state: state.update({"module.head": np.zeros(2)}), r"1 unexpected \(module\.head\)"),
        (
            lambda state: state.update({"less_token.head.weight": np.zeros((8, 16))}),
            r"less_token\.head\.weight is \(8, 16\) and should be \(7, 16\)",
        ),
        (
            lambda state: state.update({"less_token.head.weight": np.zeros((16, 7))}),
            r"less_token\.head\.weight is \(16, 7\) and should be \(7, 16\)",
        ),
        (lambda state: state.update({"less_token.head.bias": np.full(7, np.nan)}), "not finite"),
    ],
    ids=["missing", "extra", "shape", "transposed", "nan"],
)
def test_a_published_state_that_does_not_fit_changes_nothing(change: Any, message: str) -> None:
    model = small_cascade(token_grids=(2, 3))
    state, before = published_state(model), state_of(model)
    change(state)
    with pytest.raises(ValueError, match=message):
        load_published_weights(model, state)
    after = state_of(model)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_model_without_one_reuse_has_the_same_names_less_those() -> None:
    full = set(published_state(small_cascade(token_grids=(2, 3))))
    without = set(published_state(small_cascade(token_grids=(2, 3), relationship_reuse="none")))
    assert full - without == {name for name in full if "relation_reuse_conv" in name}
    assert without < full


def test_a_cascade_of_more_transformers_than_were_published_is_refused() -> None:
    model = DynamicVisionTransformer(small_config(token_grids=(2, 3, 4, 5)))
    with pytest.raises(ValueError, match=r"Transformers|exits"):
        load_published_weights(model, {})


def test_patches_of_tokens_to_token_are_reordered() -> None:
    # Published patches run over channel, row, column; ours over row, column, channel.
    model = small_cascade(token_grids=(2, 3), **T2T)
    state = published_state(model)
    load_published_weights(model, state)
    first, second = model.transformers[1].embedding.performers
    prefix = "less_token.tokens_to_token"
    kernel = state[f"{prefix}.attention1.kqv.weight"].reshape(15, 3, 5, 5)  # (out, channel, row, column)
    ours = first.kqv.kernel.numpy().reshape(5, 5, 3, 15)  # (row, column, channel, out)
    assert ours[4, 1, 2, 7] == kernel[7, 2, 4, 1]
    np.testing.assert_array_equal(ours, kernel.transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(
        second.norm1.beta.numpy().reshape(3, 3, 5),
        state[f"{prefix}.attention2.norm1.bias"].reshape(5, 3, 3).transpose(1, 2, 0),
    )
    np.testing.assert_array_equal(
        model.transformers[1].embedding.projection.kernel.numpy().reshape(3, 3, 5, 16),
        state[f"{prefix}.project.weight"].reshape(16, 5, 3, 3).transpose(2, 3, 1, 0),
    )
    np.testing.assert_array_equal(second.features.frequencies.numpy(), state[f"{prefix}.attention2.w"])
    np.testing.assert_array_equal(second.mlp.fc2.kernel.numpy(), state[f"{prefix}.attention2.mlp.2.weight"].T)
    np.testing.assert_array_equal(first.norm2.gamma.numpy(), state[f"{prefix}.attention1.norm2.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table[:, :-1], r"pos_embed is \(1, 9, 16\) and should be \(1, 10, 16\)"),
        (lambda table: table + 1e-2, "less_token.pos_embed is not the fixed sinusoid table"),
        (lambda table: np.concatenate([table[..., 0::2], table[..., 1::2]], -1), "not the fixed sinusoid table"),
    ],
)
def test_a_position_table_that_is_not_the_fixed_one_is_refused(change: Any, message: str) -> None:
    model = small_cascade(token_grids=(2, 3), **T2T)
    state, before = published_state(model), state_of(model)
    state["less_token.pos_embed"] = change(state["less_token.pos_embed"])
    with pytest.raises(ValueError, match=message):
        load_published_weights(model, state)
    after = state_of(model)
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("fields", [{}, T2T], ids=["patch", "tokens-to-token"])
def test_a_transformer_published_alone_has_no_name_before_its_weights(fields: dict[str, Any]) -> None:
    model = small_cascade(token_grids=(3,), **fields)
    state = published_state(model, ("",))
    assert "cls_token" in state
    load_published_weights(model, state)
    alone = model(random_images(2))["exit_1"].numpy()
    # The same weights under the cascade's names are the same model.
    again = small_cascade(seed=1, token_grids=(3,), **fields)
    load_published_weights(again, {f"less_less_token.{name}": array for name, array in state.items()})
    np.testing.assert_array_equal(again(random_images(2))["exit_1"].numpy(), alone)


def test_a_position_table_that_was_averaged_with_the_weights_is_accepted() -> None:
    # Shadow weights of a training hold the fixed table too, and its float32 average with itself drifts.
    model = small_cascade(token_grids=(2, 3), **T2T)
    state = published_state(model)
    exact = state["less_token.pos_embed"]
    kept, added = np.float32(0.99996), np.float32(1 - 0.99996)  # which do not quite sum to 1
    averaged = exact.copy()
    for _ in range(20_000):
        averaged = averaged * kept + exact * added
    assert 1e-5 < np.abs(averaged - exact).max() < 5e-4
    load_published_weights(model, {**state, "less_token.pos_embed": averaged})
