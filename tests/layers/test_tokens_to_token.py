"""Tokens-to-token: the soft split against loops, the performer against its formula, shapes and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf

from dvt_tf.checkpoints import named_weights
from dvt_tf.layers import Performer, PositiveRandomFeatures, TokensToToken
from dvt_tf.layers.tokens_to_token import soft_split, soft_split_sides
from dvt_tf.presets import FIRST_SOFT_SPLITS, tokens_to_token_splits


def split_by_loops(maps: np.ndarray, kernel: int, stride: int, padding: int) -> np.ndarray:
    batch, size, _, channels = maps.shape
    padded = np.zeros((batch, size + 2 * padding, size + 2 * padding, channels), maps.dtype)
    padded[:, padding : padding + size, padding : padding + size] = maps
    starts = range(0, size + 2 * padding - kernel + 1, stride)
    rows = [padded[:, y : y + kernel, x : x + kernel].reshape(batch, -1) for y in starts for x in starts]
    return np.stack(rows, 1)


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(3, 14),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 8),
    padding=st.integers(0, 5),
    channels=st.integers(1, 3),
)
def test_a_soft_split_cuts_overlapping_patches(
    size: int, kernel: int, stride: int, padding: int, channels: int
) -> None:
    kernel = min(kernel, size + 2 * padding)
    maps = np.random.default_rng(size).standard_normal((2, size, size, channels)).astype(np.float32)
    expected = split_by_loops(maps, kernel, stride, padding)
    (side,) = soft_split_sides(size, [(kernel, stride, padding)])
    assert expected.shape[1] == side**2
    np.testing.assert_array_equal(soft_split(tf.constant(maps), kernel, stride, padding), expected)


def test_the_gradient_of_a_soft_split_counts_how_often_a_value_is_used() -> None:
    maps = tf.ones((1, 9, 9, 2))
    with tf.GradientTape() as tape:
        tape.watch(maps)
        total = tf.reduce_sum(soft_split(maps, 3, 2, 1))
    used = np.array([1 if i % 2 == 0 else 2 for i in range(9)])  # kernel 3 at stride 2: odd places lie in two windows
    expected = np.repeat(np.outer(used, used)[None, :, :, None], 2, -1)
    np.testing.assert_array_equal(tape.gradient(total, maps), expected)


@pytest.mark.parametrize(("image_size", "grid"), list(FIRST_SOFT_SPLITS))
def test_the_known_splits_end_at_the_grid_and_see_every_pixel(image_size: int, grid: int) -> None:
    splits = tokens_to_token_splits(image_size, grid)
    assert soft_split_sides(image_size, splits)[-1] == grid
    reach, step, start = 1, 1, 0  # what the last split's tokens see, in pixels
    for kernel, stride, padding in splits:
        start -= padding * step
        reach += (kernel - 1) * step
        step *= stride
    assert start <= 0
    assert start + (grid - 1) * step + reach >= image_size


def test_published_splits() -> None:
    assert [tokens_to_token_splits(224, grid)[0] for grid in (7, 10, 14)] == [(14, 8, 3), (11, 6, 5), (7, 4, 2)]
    assert soft_split_sides(224, tokens_to_token_splits(224, 10)) == [38, 19, 10]


def randomised(layer: Any, seed: int = 0) -> dict[str, np.ndarray]:
    random, state = np.random.default_rng(seed), {}
    for name, weight in named_weights(layer):
        shape = tuple(weight.shape)
        value = random.standard_normal(shape) / np.sqrt(shape[0] if "kernel" in name else 4)
        value = 1 + 0.3 * value if name.endswith("gamma") else value
        weight.assign(value.astype(np.float32))
        state[name] = np.asarray(weight.numpy(), np.float64)
    return state


def norm(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, epsilon: float) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon) * gamma + beta


def test_a_performer_is_its_formula() -> None:
    layer = Performer(dim=6, random_features=5, norm_epsilon=1e-3)
    layer.build((None, 7, 10))
    w = randomised(layer)
    patches = np.random.default_rng(1).standard_normal((2, 7, 10))
    entering = norm(patches, w["norm1.gamma"], w["norm1.beta"], 1e-3)
    keys, queries, values = np.split(entering @ w["kqv.kernel"] + w["kqv.bias"], 3, -1)

    def positive(x: np.ndarray) -> np.ndarray:
        return np.exp(x @ w["features.frequencies"].T - (x**2).sum(-1, keepdims=True) / 2) / np.sqrt(5)

    # Attention with the kernel f(q) . f(k) in the place of softmax, written out pair by pair.
    kernel = positive(queries) @ positive(keys).swapaxes(1, 2)  # (B, N, N)
    attended = kernel @ values / (kernel.sum(-1, keepdims=True) + 1e-8)
    tokens = values + attended @ w["projection.kernel"] + w["projection.bias"]
    hidden = norm(tokens, w["norm2.gamma"], w["norm2.beta"], 1e-3) @ w["mlp.fc1.kernel"] + w["mlp.fc1.bias"]
    hidden = hidden * 0.5 * (1 + erf(hidden / np.sqrt(2)))
    expected = tokens + hidden @ w["mlp.fc2.kernel"] + w["mlp.fc2.bias"]
    np.testing.assert_allclose(layer(tf.constant(patches, tf.float32)), expected, rtol=1e-4, atol=1e-4)


def test_random_features_approach_softmax_attention() -> None:
    # What they are for (Choromanski et al., 2021, lemma 1): many of them give exp(q . k) on average.
    layer = PositiveRandomFeatures(4096)
    layer.build((None, None, 4))
    layer.frequencies.assign(np.random.default_rng(0).standard_normal((4096, 4)).astype(np.float32))
    vectors = 0.5 * np.random.default_rng(1).standard_normal((1, 6, 4)).astype(np.float32)
    features = layer(tf.constant(vectors)).numpy()[0]
    np.testing.assert_allclose(features @ features.T, np.exp(vectors[0] @ vectors[0].T), rtol=0.1)


def test_the_random_features_start_orthogonal_and_are_never_trained() -> None:
    layer = Performer(dim=64, random_features=32)
    layer.build((None, 3, 5))
    rows = layer.features.frequencies.numpy()
    np.testing.assert_allclose(rows @ rows.T, 32 * np.eye(32), atol=1e-3)
    assert all("frequencies" not in weight.name for weight in layer.trainable_weights)
    assert sum("frequencies" in weight.name for weight in layer.weights) == 1


def test_dropout_follows_its_seed_alone() -> None:
    layer = Performer(dim=8, random_features=4, dropout_rate=0.5)
    layer.build((None, 9, 5))
    patches = tf.random.stateless_normal((2, 9, 5), (0, 0))
    plain = layer(patches).numpy()
    first = layer(patches, seed=tf.constant([1, 2])).numpy()
    np.testing.assert_array_equal(layer(patches, seed=tf.constant([1, 2])), first)
    assert np.abs(first - plain).max() > 1e-3
    assert np.abs(layer(patches, seed=tf.constant([1, 3])).numpy() - first).max() > 1e-3
    np.testing.assert_array_equal(layer(patches), plain)


def embedding(dtype: str | None = None) -> TokensToToken:
    layer = TokensToToken(
        28, tokens_to_token_splits(28, 3), dim=6, performer_dim=8, random_features=4, dropout_rate=0.5, dtype=dtype
    )
    layer.build((None, 28, 28, 3))
    return layer


def test_an_image_becomes_tokens_and_every_trained_weight_has_a_gradient() -> None:
    layer = embedding()
    randomised(layer)
    images = tf.random.stateless_normal((2, 28, 28, 3), (0, 0))
    with tf.GradientTape() as tape:
        tokens = layer(images, seed=tf.constant([0, 0]))
        loss = tf.reduce_sum(tf.square(tokens))
    assert tokens.shape == (2, 9, 6)
    weights = {name: weight for name, weight in named_weights(layer) if not name.endswith("frequencies")}
    assert len(weights) == len(layer.trainable_weights)
    variables = [weight if isinstance(weight, tf.Variable) else weight.value for weight in weights.values()]
    for name, gradient in zip(weights, tape.gradient(loss, variables), strict=True):
        assert gradient is not None, name
        assert np.abs(gradient).max() > 1e-7, name


def test_bfloat16_keeps_close() -> None:
    plain, mixed = embedding(), embedding("mixed_bfloat16")
    randomised(plain)
    randomised(mixed)
    images = tf.random.stateless_normal((2, 28, 28, 3), (0, 0))
    expected = plain(images).numpy()
    got = mixed(images)
    assert got.dtype == tf.bfloat16
    np.testing.assert_allclose(tf.cast(got, tf.float32), expected, atol=0.1 * np.abs(expected).max())
