"""One Transformer of the cascade: what it hands on, which blocks take part in reuse, and in which dtype."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from dvt_tf.presets import blocks_of
from dvt_tf.vision_transformer import VisionTransformer
from tests.cascades import random_images, small_cascade, small_config


def test_what_is_handed_on_has_the_stated_shapes() -> None:
    model = small_cascade()
    for outputs, grid in zip(model.run(tf.constant(random_images(2))), (2, 3, 4)):
        length = 1 + grid**2
        assert outputs.logits.shape == (2, 7)
        assert outputs.features.shape == outputs.tokens.shape == outputs.normalised.shape == (2, length, 16)
        assert [tuple(logits.shape) for logits in outputs.relationships] == [(2, 2, length, length)] * 2
        assert {part.dtype for part in tf.nest.flatten(outputs)} == {tf.float32}


def test_a_downstream_transformer_asks_for_its_upstream() -> None:
    transformer = small_cascade().transformers[1]
    with pytest.raises(ValueError, match="Transformer 2 of the cascade reuses its upstream's outputs and got none"):
        transformer(tf.zeros((1, 28, 28, 3)))


@pytest.mark.parametrize("choice", ["none", "shallow", "deep", "all"])
def test_only_blocks_that_take_part_have_reuse_weights_and_wide_mlps(choice: str) -> None:
    model = small_cascade(depth=3, token_grids=(2, 3), feature_reuse=choice, relationship_reuse=choice)
    first, second = model.transformers
    taking_part = set(blocks_of(choice, 3))
    for i, block in enumerate(second.blocks):
        assert block.mlp.fc1.kernel.shape[0] == 16 + (5 if i in taking_part else 0)
    assert {block.mlp.fc1.kernel.shape[0] for block in first.blocks} == {16}
    assert not first.feature_reuse
    assert first.relationship_reuse is None
    assert len(second.feature_reuse) == len(taking_part)
    assert (second.relationship_reuse is None) == (choice == "none")
    if taking_part:
        # The hidden width stays three times all of the upstream's maps.
        assert tuple(second.relationship_reuse.kernel1.shape) == (3 * 3 * 2, 3 * 2)
        assert tuple(second.relationship_reuse.kernel2.shape) == (len(taking_part) * 2, 3 * 3 * 2)


@pytest.mark.parametrize(("choice", "first_changed"), [("shallow", 0), ("deep", 2)])
def test_relationships_reach_the_blocks_they_are_for(choice: str, first_changed: int) -> None:
    fields = {"depth": 4, "token_grids": (2, 3), "feature_reuse": "none", "relationship_reuse": choice}
    model, images = small_cascade(**fields), tf.constant(random_images(1))
    before = model.run(images)[1]
    reuse = model.transformers[1].relationship_reuse
    reuse.kernel2.assign(0.0 * reuse.kernel2)
    changed = [bool(np.any(a != b)) for a, b in zip(before.relationships, model.run(images)[1].relationships)]
    assert changed == [i >= first_changed for i in range(4)]


@pytest.mark.parametrize(("source", "silent"), [("shallow", (2, 3)), ("deep", (0, 1))])
def test_only_the_source_blocks_give_their_logits(source: str, silent: tuple[int, ...]) -> None:
    model = small_cascade(depth=4, token_grids=(2, 3), feature_reuse="none", relationship_source=source)
    images = tf.constant(random_images(1))
    first = model.transformers[0](images)
    expected = model.transformers[1](images, upstream=first).logits
    for i in range(4):
        given = list(first.relationships)
        given[i] = given[i] + tf.random.stateless_normal(given[i].shape, (0, i))
        logits = model.transformers[1](images, upstream=first._replace(relationships=given)).logits
        assert bool(np.allclose(logits, expected, atol=1e-7)) == (i in silent)


@pytest.mark.parametrize("block", [0, 1, 2])
def test_features_enter_in_the_block_that_owns_them(block: int) -> None:
    model, images = small_cascade(depth=4, token_grids=(2, 3), relationship_reuse="none"), tf.constant(random_images(1))
    before = model.run(images)[1].relationships
    model.transformers[1].feature_reuse[block].mlp.fc2.bias.assign([3.0, -2.0, 1.0, 2.0, -1.0])
    after = model.run(images)[1].relationships
    # A block's features enter after its attention, so its own logits stay and the next one's move.
    assert [bool(np.any(a != b)) for a, b in zip(before, after)] == [i > block for i in range(4)]


def test_the_class_token_upstream_gives_no_context() -> None:
    model, images = small_cascade(token_grids=(2, 3), relationship_reuse="none"), tf.constant(random_images(1))
    first = model.transformers[0](images)
    expected = model.transformers[1](images, upstream=first).logits
    moved = tf.concat([first.features[:, :1] + 10.0, first.features[:, 1:]], 1)
    logits = model.transformers[1](images, upstream=first._replace(features=moved)).logits
    np.testing.assert_array_equal(logits, expected)
    logits = model.transformers[1](images, upstream=first._replace(features=-first.features)).logits
    assert np.abs(logits - expected).max() > 1e-3


def test_stochastic_depth_grows_from_none_at_the_first_block() -> None:
    transformer = VisionTransformer(small_config(depth=5, drop_path_rate=0.2), 0)
    transformer.build((None, 28, 28, 3))
    np.testing.assert_allclose([block.drop_path_rate for block in transformer.blocks], [0.0, 0.05, 0.1, 0.15, 0.2])


def test_mixed_bfloat16_is_close_and_hands_on_float32() -> None:
    images = tf.constant(random_images(4))
    exact = small_cascade(head=1.0).run(images)
    mixed = small_cascade(head=1.0, dtype="mixed_bfloat16").run(images)
    for a, b in zip(exact, mixed):
        assert {part.dtype for part in tf.nest.flatten(b)} == {tf.float32}
        difference = np.abs(a.logits - b.logits).max()
        assert 0 < difference < 0.15  # the logits' deviation is about 1; bfloat16 has 8 bits
