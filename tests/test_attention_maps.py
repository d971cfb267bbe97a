"""Maps of attention and reuse: against plain NumPy loops, and what must hold of any."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import tensorflow as tf

from dvt_tf.attention_maps import reused_attention, reused_features, reused_relationships, rollout
from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.digits import digit_scenes
from dvt_tf.preprocessing import normalise
from dvt_tf.presets import blocks_of
from dvt_tf.vision_transformer import TransformerOutputs
from tests.cascades import TOKENS_TO_TOKEN, random_images, small_cascade

IMAGES = 3


def random_logits(blocks: int = 3, heads: int = 2, grid: int = 3, seed: int = 0) -> list[tf.Tensor]:
    length = 1 + grid**2
    values = 2 * np.random.default_rng(seed).standard_normal((blocks, IMAGES, heads, length, length))
    return list(tf.constant(values, tf.float32))


def softmax(row: np.ndarray) -> np.ndarray:
    powers = np.exp(row.astype(np.float64) - row.max())
    return powers / powers.sum()


def rollout_by_loops(relationships: Sequence[tf.Tensor]) -> np.ndarray:
    maps = []
    for image in range(IMAGES):
        product = np.eye(relationships[0].shape[-1])
        for logits in relationships:
            heads = logits[image].numpy()
            mean = np.mean([[softmax(row) for row in head] for head in heads], axis=0)
            product = (mean + np.eye(len(mean))) / 2 @ product
        patches = product[0, 1:] / product[0, 1:].sum()
        maps.append(patches.reshape((int(np.sqrt(len(patches))),) * 2))
    return np.stack(maps)


def addends_by_block(model: DynamicVisionTransformer, outputs: Sequence[TransformerOutputs]) -> dict[int, np.ndarray]:
    """What the second Transformer adds to its logits, from its own layer."""
    config, reuse = model.config, model.transformers[1].relationship_reuse
    source = [outputs[0].relationships[i] for i in blocks_of(config.relationship_source, config.depth)]
    taking = blocks_of(config.relationship_reuse, config.depth)
    return {block: addend.numpy() for block, addend in zip(taking, reuse(source), strict=True)}


def cascade_and_outputs(**fields: object) -> tuple[DynamicVisionTransformer, list[TransformerOutputs]]:
    model = small_cascade(**{"depth": 3, "token_grids": (2, 3), **fields})
    return model, model.run(tf.constant(random_images(IMAGES)))


def test_rollout_is_that_of_a_plain_loop() -> None:
    logits = random_logits()
    found = rollout(logits)
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, rollout_by_loops(logits), atol=1e-6)


def test_rollout_follows_the_order_of_the_blocks() -> None:
    logits = random_logits()
    assert np.abs(rollout(logits) - rollout(logits[::-1])).max() > 1e-3


def test_rollout_is_a_share_of_each_image() -> None:
    found = rollout([40 * logits for logits in random_logits(blocks=5, grid=4)]).numpy()
    assert found.shape == (IMAGES, 4, 4)
    assert found.min() >= 0
    np.testing.assert_allclose(found.sum((1, 2)), 1, atol=1e-5)


def test_uniform_logits_give_a_uniform_map() -> None:
    np.testing.assert_allclose(rollout([tf.fill((2, 2, 10, 10), 7.0)] * 4), np.full((2, 3, 3), 1 / 9), atol=1e-6)


def test_the_order_of_heads_and_a_rows_constant_change_nothing() -> None:
    logits = random_logits(heads=3)
    permuted = [tf.gather(block, order, axis=1) for block, order in zip(logits, ([2, 0, 1], [1, 0, 2], [0, 2, 1]))]
    np.testing.assert_allclose(rollout(permuted), rollout(logits), atol=1e-6)
    shifted = [block + 5 * tf.random.stateless_uniform((IMAGES, 3, 10, 1), (0, 1)) for block in logits]
    np.testing.assert_allclose(rollout(shifted), rollout(logits), atol=1e-6)


def test_a_patch_that_all_tokens_look_at_is_the_brightest() -> None:
    logits = [tf.tensor_scatter_nd_add(tf.zeros((1, 1, 10, 10)), [[0, 0, i, 6] for i in range(10)], [9.0] * 10)] * 2
    assert int(tf.argmax(tf.reshape(rollout(logits), [-1]))) == 5  # token 0 is the class token
    assert float(rollout(logits)[0, 1, 2]) > 0.9


def test_what_is_no_attention_of_a_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the attention logits of at least one block"):
        rollout([])
    with pytest.raises(ValueError, match="7 tokens beside the class token are not a square grid"):
        rollout([tf.zeros((1, 2, 8, 8))])


@pytest.mark.parametrize("reuse", ["all", "shallow", "deep"])
def test_reused_features_are_those_of_a_plain_loop(reuse: str) -> None:
    model, outputs = cascade_and_outputs(feature_reuse=reuse)
    layers = model.transformers[1].feature_reuse
    assert len(layers) == len(blocks_of(reuse, 3))
    for centred in (False, True):
        expected = np.zeros((IMAGES, 9))
        for layer in layers:
            for image, channels in enumerate(layer(outputs[0].features[:, 1:]).numpy()[:, 1:]):
                mean = channels.mean(0) if centred else 0.0
                expected[image] += [np.sqrt(((token - mean) ** 2).sum()) / len(layers) for token in channels]
        found = reused_features(model.transformers[1], outputs[0], centred=centred)
        assert found.dtype == tf.float32
        np.testing.assert_allclose(found, expected.reshape(IMAGES, 3, 3), rtol=1e-4)


@pytest.mark.parametrize(
    ("reuse", "source"), [("all", "all"), ("shallow", "all"), ("deep", "shallow"), ("all", "deep")]
)
def test_reused_relationships_are_those_of_a_plain_loop(reuse: str, source: str) -> None:
    model, outputs = cascade_and_outputs(relationship_reuse=reuse, relationship_source=source)
    addends = addends_by_block(model, outputs)
    expected, attention = np.zeros(IMAGES), np.zeros((IMAGES, 10))
    for image in range(IMAGES):
        for block, addend in addends.items():
            own = outputs[1].relationships[block].numpy() - addend
            given_squares = own_squares = 0.0
            for head in range(2):
                for token in range(10):
                    for part in (addend, own):
                        row = part[image, head, token]
                        squares = ((row - row.mean()) ** 2).sum()
                        if part is addend:
                            given_squares += squares
                        else:
                            own_squares += squares
                attention[image] += softmax(addend[image, head, 0])
            expected[image] += given_squares / (given_squares + own_squares) / len(addends)
    found = reused_relationships(model.transformers[1], outputs[0], outputs[1])
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert ((found > 0) & (found < 1)).numpy().all()
    patches = attention[:, 1:] / attention[:, 1:].sum(1, keepdims=True)
    given = reused_attention(model.transformers[1], outputs[0])
    assert given.dtype == tf.float32
    np.testing.assert_allclose(given, patches.reshape(IMAGES, 3, 3), atol=1e-6)


@pytest.mark.parametrize("strength", [0.0, 1e4])
def test_the_share_of_relationships_is_nothing_or_nearly_all(strength: float) -> None:
    model, images = small_cascade(token_grids=(2, 3)), tf.constant(random_images(IMAGES))
    reuse = model.transformers[1].relationship_reuse
    reuse.kernel2.assign(strength * reuse.kernel2)
    upstream, outputs = model.run(images)
    share = reused_relationships(model.transformers[1], upstream, outputs).numpy()
    np.testing.assert_allclose(share, 0.0 if strength == 0 else 1.0, atol=1e-3)


def test_nothing_is_told_where_nothing_is_reused() -> None:
    model, outputs = cascade_and_outputs(feature_reuse="none")
    assert reused_features(model.transformers[1], outputs[0]) is None
    assert reused_attention(model.transformers[1], outputs[0]) is not None
    model, outputs = cascade_and_outputs(relationship_reuse="none")
    assert reused_features(model.transformers[1], outputs[0]) is not None
    assert reused_relationships(model.transformers[1], outputs[0], outputs[1]) is None
    assert reused_attention(model.transformers[1], outputs[0]) is None
    first = model.transformers[0]  # has no upstream
    assert reused_features(first, outputs[0]) is None
    assert reused_relationships(first, outputs[0], outputs[0]) is None


@pytest.mark.parametrize("fields", [{"token_grids": (2, 3)}, TOKENS_TO_TOKEN], ids=["patch", "tokens_to_token"])
def test_a_graph_of_any_batch_gives_what_eager_gives(fields: dict) -> None:
    model = small_cascade(**fields)

    def maps(images: tf.Tensor) -> tuple[tf.Tensor, ...]:
        upstream, outputs = model.run(images)
        second = model.transformers[1]
        return (
            rollout(upstream.relationships),
            rollout(outputs.relationships),
            reused_features(second, upstream),
            reused_attention(second, upstream),
            reused_relationships(second, upstream, outputs),
        )

    images = tf.constant(random_images(IMAGES))
    eager = maps(images)
    assert [tuple(part.shape) for part in eager] == [(3, 2, 2), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3,)]
    graph = tf.function(maps, input_signature=[tf.TensorSpec((None, 28, 28, 3), tf.float32)], autograph=False)
    for expected, found in zip(eager, graph(images), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_an_images_maps_do_not_depend_on_its_neighbours() -> None:
    model, outputs = cascade_and_outputs()
    alone = model.run(tf.constant(random_images(IMAGES)[1:2]))
    second = model.transformers[1]
    np.testing.assert_allclose(rollout(alone[1].relationships)[0], rollout(outputs[1].relationships)[1], atol=1e-5)
    np.testing.assert_allclose(reused_features(second, alone[0])[0], reused_features(second, outputs[0])[1], rtol=1e-4)
    np.testing.assert_allclose(
        reused_relationships(second, *alone)[0], reused_relationships(second, *outputs)[1], rtol=1e-4
    )


def test_maps_are_float32_under_mixed_precision() -> None:
    model = small_cascade(dtype="mixed_bfloat16")
    outputs = model.run(tf.constant(random_images(IMAGES)))
    for upstream, own, transformer in zip(outputs, outputs[1:], model.transformers[1:]):
        for found in (
            rollout(own.relationships),
            reused_features(transformer, upstream),
            reused_attention(transformer, upstream),
            reused_relationships(transformer, upstream, own),
        ):
            assert found.dtype == tf.float32
            assert np.isfinite(found).all()


def test_the_bundled_model_looks_at_the_digit() -> None:
    model = DynamicVisionTransformer.from_preset("dvt_tiny_digits")
    scenes = digit_scenes("test", size=24)
    outputs = model.run(normalise(scenes.images, model.card))
    inside = np.zeros((24, 112, 112), bool)
    for mask, (top, left, bottom, right) in zip(inside, scenes.box.clip(0, 112).astype(int)):
        mask[top:bottom, left:right] = True
    for k, (own, grid) in enumerate(zip(outputs, (7, 10, 14))):
        maps = {"rollout": rollout(own.relationships)}
        if k + 1 < len(outputs):
            following = model.transformers[k + 1]
            maps["features"] = reused_features(following, own, centred=True)
            maps["attention"] = reused_attention(following, own)
            share = reused_relationships(following, own, outputs[k + 1]).numpy()
            assert 0.05 < share.min() <= share.max() < 0.6
        for name, found in maps.items():
            assert np.isfinite(found).all(), name
            assert found.shape[1:] == (grid, grid) if name == "rollout" else found.shape[1] > grid
            # The mean over the digit's square against the mean over all, an even map's.
            fine = tf.image.resize(found[..., None], (112, 112), "nearest")[..., 0].numpy()
            ratio = [fine[i][inside[i]].mean() / fine[i].mean() for i in range(24)]
            assert np.median(ratio) > 1.2, (name, k)
