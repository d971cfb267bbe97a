"""A pre-norm block against its formula, with and without reuse and stochastic depth."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import erf, softmax

from dvt_tf.layers import TransformerBlock

B, N, HEADS, WIDTH, HIDDEN, REUSE = 2, 5, 3, 4, 7, 6
D, EPSILON = HEADS * WIDTH, 1e-3


def random_block(reuse_dim: int, drop_path_rate: float = 0.0) -> TransformerBlock:
    random = np.random.default_rng(0)
    block = TransformerBlock(HEADS, HIDDEN, True, EPSILON, reuse_dim=reuse_dim, drop_path_rate=drop_path_rate)
    block.build((None, N, D))
    for weight in block.weights:
        weight.assign(random.standard_normal(weight.shape) * 0.4)
    return block


def layer_norm(layer: tf.keras.layers.Layer, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + EPSILON)
    return scaled * layer.gamma.numpy() + layer.beta.numpy()


def dense(layer: tf.keras.layers.Layer, x: np.ndarray) -> np.ndarray:
    return x @ layer.kernel.numpy() + layer.bias.numpy()


def branches(
    block: TransformerBlock, tokens: np.ndarray, features: np.ndarray | None, addend: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """The output by formula, in float64, and the logits."""
    qkv = dense(block.attention.qkv, layer_norm(block.norm1, tokens)).reshape(B, N, 3, HEADS, WIDTH)
    query, key, value = (qkv[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
    logits = np.einsum("bhid,bhjd->bhij", query, key) / np.sqrt(WIDTH)
    if addend is not None:
        logits = logits + addend
    mixed = np.einsum("bhij,bhjd->bihd", softmax(logits, -1), value).reshape(B, N, D)
    tokens = tokens + dense(block.attention.projection, mixed)
    entering = tokens if features is None else np.concatenate([tokens, features], -1)
    hidden = dense(block.mlp.fc1, layer_norm(block.norm2, entering))
    return tokens + dense(block.mlp.fc2, hidden * 0.5 * (1 + erf(hidden / np.sqrt(2)))), logits


@pytest.mark.parametrize("reuse_dim", [0, REUSE])
@pytest.mark.parametrize("with_addend", [False, True])
def test_the_block_is_its_formula(reuse_dim: int, with_addend: bool) -> None:
    random = np.random.default_rng(1)
    block = random_block(reuse_dim)
    tokens = random.standard_normal((B, N, D)).astype(np.float32)
    features = random.standard_normal((B, N, reuse_dim)).astype(np.float32) if reuse_dim else None
    addend = random.standard_normal((B, HEADS, N, N)).astype(np.float32) if with_addend else None
    output, logits = block(tf.constant(tokens), features=features, relationship=addend)
    expected, expected_logits = branches(block, tokens.astype(np.float64), features, addend)
    np.testing.assert_allclose(logits, expected_logits, atol=2e-5)
    np.testing.assert_allclose(output, expected, atol=2e-5)


def test_only_the_second_norm_and_first_linear_are_wider_with_reuse() -> None:
    plain, wide = random_block(0), random_block(REUSE)
    assert tuple(plain.norm2.gamma.shape) == (D,)
    assert tuple(wide.norm2.gamma.shape) == (D + REUSE,)
    assert tuple(wide.mlp.fc1.kernel.shape) == (D + REUSE, HIDDEN)
    assert tuple(wide.mlp.fc2.kernel.shape) == tuple(plain.mlp.fc2.kernel.shape) == (HIDDEN, D)
    assert tuple(wide.norm1.gamma.shape) == (D,)


def test_a_block_that_reuses_asks_for_features() -> None:
    with pytest.raises(ValueError, match="reuses 6 channels of upstream features and got none"):
        random_block(REUSE)(tf.zeros((B, N, D)))


def test_stochastic_depth_drops_either_branch_for_whole_examples() -> None:
    count = 400
    block = random_block(0, drop_path_rate=0.5)
    tokens = tf.tile(tf.constant(np.random.default_rng(2).standard_normal((1, N, D)), tf.float32), (count, 1, 1))
    result = block(tokens, seed=tf.constant([3, 4], tf.int32))[0].numpy()
    kinds, counts = np.unique(result.round(3), axis=0, return_counts=True)
    # neither, one, the other, both: about a quarter each, since the two branches are drawn apart
    assert len(kinds) == 4
    assert counts.min() > count / 4 * 0.6
    assert (np.abs(kinds - tokens.numpy()[0]).max((1, 2)) < 2e-3).sum() == 1
    np.testing.assert_array_equal(block(tokens, seed=tf.constant([3, 4], tf.int32))[0], result)


def test_without_a_seed_nothing_is_dropped() -> None:
    tokens = tf.constant(np.random.default_rng(2).standard_normal((B, N, D)), tf.float32)
    expected = random_block(0, drop_path_rate=0.0)(tokens)[0]
    np.testing.assert_array_equal(random_block(0, drop_path_rate=0.9)(tokens)[0], expected)
