"""Linear against Keras's Dense, biases that learn in half precision, and how kernels start."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.checkpoints import named_weights
from dvt_tf.layers import FeatureReuse, PatchEmbedding
from dvt_tf.layers.linear import Linear
from dvt_tf.presets import LINEAR_INITS
from tests.cascades import random_images, small_config
from tests.checkpoint_files import T2T

IN, OUT = 6, 4


def drawn(shape: tuple[int, ...], seed: int) -> tf.Tensor:
    return tf.random.stateless_normal(shape, (seed, 0))


def made(kind: type[keras.layers.Layer], **more: Any) -> keras.layers.Layer:
    layer = kind(OUT, **more)
    layer.build((None, None, IN))
    for seed, weight in enumerate(layer.trainable_weights):
        weight.assign(drawn(tuple(weight.shape), seed))
    return layer


def outputs_and_gradients(layer: keras.layers.Layer, inputs: tf.Tensor, upstream: tf.Tensor) -> list[tf.Tensor]:
    """The output, and the gradients of the input and of every weight."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs)
    return [outputs, *tape.gradient(outputs, [inputs, *layer.trainable_weights], tf.cast(upstream, outputs.dtype))]


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("shape", [(5, IN), (2, 3, IN), (2, 3, 4, IN)], ids=str)
def test_outputs_and_gradients_are_those_of_dense(shape: tuple[int, ...], use_bias: bool) -> None:
    inputs, upstream = drawn(shape, 5), drawn((*shape[:-1], OUT), 6)
    expected = outputs_and_gradients(made(keras.layers.Dense, use_bias=use_bias), inputs, upstream)
    found = outputs_and_gradients(made(Linear, use_bias=use_bias), inputs, upstream)
    for own, of_keras in zip(found, expected, strict=True):
        np.testing.assert_allclose(own, of_keras, rtol=1e-5, atol=1e-5)


def test_no_dimension_but_the_last_need_be_known() -> None:
    layer, other = made(Linear), made(keras.layers.Dense)
    step = tf.function(layer, [tf.TensorSpec((None, None, IN))])
    for shape in ((2, 3, IN), (1, 7, IN), (2, 0, IN)):
        np.testing.assert_allclose(step(drawn(shape, 3)), other(drawn(shape, 3)), rtol=1e-5, atol=1e-5)
    one = tf.function(layer).get_concrete_function(tf.TensorSpec((8, None, IN)))
    assert one.structured_outputs.shape.as_list() == [8, None, OUT]


def test_its_configuration_is_that_of_dense() -> None:
    assert made(Linear).get_config().keys() == made(keras.layers.Dense).get_config().keys()


def bias_gradient(layer: keras.layers.Layer, bias: Any, inputs: tf.Tensor, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Of the last of a layer's biases, and what it is: the sum of what comes from above, all of one sign."""
    with tf.GradientTape() as tape:
        outputs = layer(inputs)
        upstream = tf.cast(1e-3 * (2 + drawn(tuple(outputs.shape), seed)), outputs.dtype)
    gradient = tape.gradient(outputs, bias, upstream)
    return np.asarray(gradient), np.asarray(tf.cast(upstream, tf.float64)).reshape(-1, outputs.shape[-1]).sum(0)


@pytest.mark.parametrize(("policy", "error"), [("mixed_bfloat16", 0.01), ("mixed_float16", 2e-3), ("float32", 1e-4)])
def test_a_bias_gets_its_whole_gradient_from_many_tokens(policy: str, error: float) -> None:
    """Where sums are in the compute dtype a large part of it is missing."""
    linear = Linear(64, dtype=policy)
    linear.build((None, None, IN))
    found, expected = bias_gradient(linear, linear.bias, drawn((64, 197, IN), 1), 2)
    np.testing.assert_allclose(found, expected, rtol=error)
    patches = PatchEmbedding(64, 16, 32, dtype=policy)
    patches.build((None, 64, 64, 3))
    found, expected = bias_gradient(patches, patches.bias, drawn((48, 64, 64, 3), 3), 4)
    np.testing.assert_allclose(found, expected, rtol=error)


def test_the_first_bias_of_feature_reuse_gets_its_whole_gradient() -> None:
    gradients = {}
    for policy in ("float32", "mixed_bfloat16"):
        reuse = FeatureReuse(14, 7, 8, OUT, dtype=policy)
        reuse.build((None, 14 * 14, IN))
        for seed, weight in enumerate(reuse.trainable_weights):
            weight.assign(drawn(tuple(weight.shape), seed))
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(reuse(drawn((64, 14 * 14, IN), 9)))
        gradients[policy] = np.asarray(tape.gradient(loss, reuse.mlp.fc1.bias))
    largest = np.abs(gradients["float32"]).max()
    np.testing.assert_allclose(gradients["mixed_bfloat16"], gradients["float32"], atol=0.02 * largest)


@pytest.mark.parametrize("fields", [{}, T2T], ids=["patches", "tokens to token"])
@pytest.mark.parametrize("init", LINEAR_INITS)
def test_every_linear_kernel_of_a_cascade_starts_as_the_configuration_says(init: str, fields: dict[str, Any]) -> None:
    cascade = DynamicVisionTransformer(small_config(**fields, linear_init=init, dim=64, feature_reuse_hidden=48))
    cascade.build()
    kernels = {
        name: weight.numpy()
        for name, weight in named_weights(cascade)
        if name.endswith(".kernel") and (fields or ".embedding." not in name)  # a convolution starts in its own way
    }
    parts = ("qkv", "attention.projection", "mlp.fc1", "mlp.fc2", "feature_reuse", "head")
    parts += ("kqv", "performers", "embedding.projection") if fields else ()
    assert all(any(part in name for name in kernels) for part in parts)
    for name, kernel in kernels.items():
        by_width = init == "glorot" and not name.endswith(".head.kernel")
        deviation = math.sqrt(2 / sum(kernel.shape)) if by_width else 0.02
        few = 4 / math.sqrt(kernel.size)  # what a small kernel may be off by
        assert kernel.std() == pytest.approx(deviation, rel=few + 0.02), name
        if by_width:
            bound = np.float32(math.sqrt(6 / sum(kernel.shape)))  # as the kernel has it: it may be drawn
            assert np.abs(kernel).max() <= bound, name


@pytest.mark.parametrize("init", LINEAR_INITS)
def test_the_first_predictions_of_a_cascade_are_near_uniform(init: str) -> None:
    keras.utils.set_random_seed(3)
    cascade = DynamicVisionTransformer(small_config(linear_init=init, dim=64))
    for out in cascade.run(tf.constant(random_images(8))):
        # A token that a LayerNorm gave has a length of 8, so a logit's deviation is 0.16 about nothing.
        assert 0 < np.abs(out.logits).max() < 0.8
