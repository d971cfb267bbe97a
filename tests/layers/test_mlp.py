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


def test_the_gradient_in_bfloat16_is_the_float32_one_rounded() -> None:
    """It is computed in float32: rounding at every step would move it by more than one unit."""
    points = tf.cast(tf.linspace(-4.0, 4.0, 161), tf.bfloat16)
    with tf.GradientTape() as tape:
        tape.watch(points)
        total = tf.reduce_sum(gelu(points))
    found = tape.gradient(total, points)
    assert found.dtype == tf.bfloat16
    exact = tf.cast(points, tf.float32).numpy().astype(np.float64)
    expected = tf.cast(norm.cdf(exact) + exact * norm.pdf(exact), tf.bfloat16)
    np.testing.assert_allclose(tf.cast(found, tf.float32), tf.cast(expected, tf.float32), rtol=2**-7, atol=1e-6)


def test_the_gradient_is_one_compiled_function_and_the_forward_pass_is_not() -> None:
    """Servers without XLA run the forward pass."""

    def both(inputs: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = gelu(inputs)
        return tape.gradient(outputs, inputs)

    spec = tf.TensorSpec((None, 3, 4))
    graph = tf.function(both, autograph=False).get_concrete_function(spec)
    assert graph.structured_outputs.shape.as_list() == [None, 3, 4]
    compiled = [node for node in graph.graph.get_operations() if "_XlaMustCompile" in node.node_def.attr]
    assert [node.node_def.attr["_XlaMustCompile"].b for node in compiled if "Call" in node.type] == [True]
    forward = tf.function(gelu, autograph=False).get_concrete_function(spec)
    assert not [node for node in forward.graph.get_operations() if "_XlaMustCompile" in node.node_def.attr]


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
