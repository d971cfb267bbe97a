"""The exact GELU, its own gradient, and the MLP."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from scipy.special import erf
from scipy.stats import norm

from dvt_tf.layers import MLP
from dvt_tf.layers.mlp import gelu

POINTS = np.concatenate([np.linspace(-12, 12, 481), [-1e-6, 0.0, 1e-6, -40.0, 40.0]])


def test_gelu_is_x_times_the_normal_distribution() -> None:
    values = gelu(tf.constant(POINTS, tf.float32)).numpy()
    np.testing.assert_allclose(values, POINTS * norm.cdf(POINTS), rtol=2e-6, atol=1e-6)
    # The tanh approximation is up to 5e-4 away.
    assert abs(gelu(tf.constant(2.3)).numpy() - 2.3 * norm.cdf(2.3)) < 1e-6


def test_the_gradient_of_gelu_is_its_derivative() -> None:
    points = tf.constant(POINTS, tf.float32)
    scale = tf.linspace(-2.0, 3.0, len(POINTS))
    with tf.GradientTape() as tape:
        tape.watch(points)
        total = tf.reduce_sum(gelu(points) * scale)
    expected = scale.numpy() * (norm.cdf(POINTS) + POINTS * norm.pdf(POINTS))
    np.testing.assert_allclose(tape.gradient(total, points), expected, atol=2e-6)


def test_gelu_in_bfloat16_is_close() -> None:
    points = np.linspace(-3, 3, 61)
    values = gelu(tf.constant(points, tf.bfloat16))
    assert values.dtype == tf.bfloat16
    np.testing.assert_allclose(tf.cast(values, tf.float32), points * norm.cdf(points), atol=0.02)


def test_the_mlp_by_hand() -> None:
    random = np.random.default_rng(0)
    layer = MLP(hidden=7, out=3)
    layer.build((None, None, 5))
    for weight in layer.weights:
        weight.assign(random.standard_normal(weight.shape))
    tokens = random.standard_normal((2, 4, 5))
    hidden = tokens @ layer.fc1.kernel.numpy() + layer.fc1.bias.numpy()
    hidden = hidden * 0.5 * (1 + erf(hidden / np.sqrt(2)))
    expected = hidden @ layer.fc2.kernel.numpy() + layer.fc2.bias.numpy()
    result = layer(tf.constant(tokens, tf.float32))
    assert result.shape == (2, 4, 3)
    np.testing.assert_allclose(result, expected, atol=1e-5)
