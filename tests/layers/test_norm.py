"""LayerNorm against Keras's own: outputs, every gradient, and what it keeps for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from dvt_tf.layers.norm import LayerNorm

WIDTH = 12


def drawn(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Tokens whose mean and deviation differ from one to the next."""
    random = np.random.default_rng(seed)
    return (random.normal(size=shape) * random.uniform(0.1, 3, (*shape[:-1], 1)) + 2).astype(np.float32)


def made(kind: type[keras.layers.Layer], dtype: str = "float32") -> keras.layers.Layer:
    layer = kind(epsilon=1e-6, dtype=dtype)
    layer.build((None, None, WIDTH))
    layer.gamma.assign(np.linspace(-0.5, 1.5, WIDTH))
    layer.beta.assign(np.linspace(-1, 1, WIDTH))
    return layer


def outputs_and_gradients(layer: keras.layers.Layer, tokens: tf.Tensor, upstream: tf.Tensor) -> list[tf.Tensor]:
    """The output, and the gradients of input, scale and shift."""
    with tf.GradientTape() as tape:
        tape.watch(tokens)
        outputs = layer(tokens)
    return [outputs, *tape.gradient(outputs, [tokens, *layer.trainable_weights], upstream)]


@pytest.mark.parametrize("shape", [(2, 5, WIDTH), (1, 1, WIDTH), (3, 50, WIDTH)], ids=str)
@pytest.mark.parametrize("wrapped", [lambda step: step, tf.function], ids=["eager", "graph"])
def test_outputs_and_gradients_are_those_of_keras(
    shape: tuple[int, ...], wrapped: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> None:
    tokens, upstream = tf.constant(drawn(shape, 1)), tf.constant(drawn(shape, 2))
    expected = outputs_and_gradients(made(keras.layers.LayerNormalization), tokens, upstream)
    layer = made(LayerNorm)
    found = wrapped(lambda *given: outputs_and_gradients(layer, *given))(tokens, upstream)
    for own, keras_own in zip(found, expected, strict=True):
        np.testing.assert_allclose(own, keras_own, rtol=1e-4, atol=1e-4)


def test_any_number_of_rows_goes_through_one_graph() -> None:
    layer, other = made(LayerNorm), made(keras.layers.LayerNormalization)
    unknown = tf.TensorSpec((None, 3, WIDTH))
    step = tf.function(lambda *given: outputs_and_gradients(layer, *given), [unknown, unknown])
    for rows in (1, 4, 2):
        given = [tf.constant(drawn((rows, 3, WIDTH), seed)) for seed in (1, 2)]
        for own, expected in zip(step(*given), outputs_and_gradients(other, *given), strict=True):
            np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-4)


def test_an_even_token_is_finite() -> None:
    tokens = tf.fill((1, 2, WIDTH), 3.0)
    outputs, *gradients = outputs_and_gradients(made(LayerNorm), tokens, tf.ones_like(tokens))
    np.testing.assert_allclose(outputs[0, 0], np.linspace(-1, 1, WIDTH), atol=1e-6)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_half_precision_enters_as_float32_and_gets_its_gradient_in_its_own() -> None:
    tokens, layer = tf.cast(drawn((2, 3, WIDTH), 1), tf.bfloat16), made(LayerNorm)
    outputs, own, *_ = outputs_and_gradients(layer, tokens, tf.ones((2, 3, WIDTH)))
    assert (outputs.dtype, own.dtype) == (tf.float32, tf.bfloat16)


@pytest.mark.parametrize("more", [{"axis": 1}, {"center": False}, {"scale": False}], ids=str)
def test_what_it_does_not_do_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"over the last axis alone .*with scale and center"):
        LayerNorm(**more).build((None, WIDTH, WIDTH))


def test_it_computes_in_half_precision_where_it_is_told_to() -> None:
    layer = made(LayerNorm, "mixed_bfloat16")
    outputs, *gradients = outputs_and_gradients(
        layer, tf.cast(drawn((2, 3, WIDTH), 1), tf.bfloat16), tf.ones((2, 3, WIDTH), tf.bfloat16)
    )
    assert outputs.dtype == tf.bfloat16
    assert [gradient.dtype for gradient in gradients] == [tf.bfloat16, tf.float32, tf.float32]
    np.testing.assert_allclose(gradients[2], np.full(WIDTH, 6.0))


def test_its_configuration_and_weights_are_those_of_keras() -> None:
    layer = made(LayerNorm)
    assert layer.get_config().keys() == made(keras.layers.LayerNormalization).get_config().keys()
    again = LayerNorm.from_config(layer.get_config())
    again.build((None, None, WIDTH))
    again.set_weights(layer.get_weights())
    tokens = drawn((2, 3, WIDTH), 1)
    np.testing.assert_array_equal(again(tokens), layer(tokens))


def test_nothing_but_its_input_is_kept_for_the_gradient() -> None:
    """What the backward pass takes from the forward pass, of the tokens' size."""
    layer = made(LayerNorm)

    @tf.function
    def step(tokens: tf.Tensor) -> list[tf.Tensor]:
        return outputs_and_gradients(layer, tokens, tf.ones_like(tokens))

    graph = step.get_concrete_function(tf.TensorSpec((2, 3, WIDTH))).graph
    compiled = [one for one in graph.get_operations() if "PartitionedCall" in one.type and "gradients" in str(one)]
    assert len(compiled) == 1
    inputs = [one.op.type for one in compiled[0].inputs if one.shape.rank == 3]
    assert sorted(inputs) in (["OnesLike", "Placeholder"], ["Const", "Placeholder"])
