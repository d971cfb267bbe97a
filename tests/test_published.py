"""The published names and layouts, read into a cascade strictly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.checkpoints import named_weights, state_of
from dvt_tf.published import load_published_weights, published_weight
from tests.cascades import random_images, small_cascade, small_config


def published_state(model: DynamicVisionTransformer) -> dict[str, np.ndarray]:
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
        state[published_weight(name, shape, model.config).name] = random.standard_normal(shape).astype(np.float32)
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
