"""The matmul that rounds bfloat16: against float64, either way of computing it, and that a cascade has no other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.layers import matmul as module
from dvt_tf.layers.matmul import matmul
from tests.cascades import random_images, small_config
from tests.checkpoint_files import T2T

SHAPES = [((300, 40), (40, 50)), ((3, 2, 31, 64), (3, 2, 64, 20)), ((9, 20), (4, 20, 30))]


@pytest.fixture(params=["as here", "as where it is cut off"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "as here":
        monkeypatch.setattr(module, "rounds_bfloat16", lambda: False)


def drawn(shape: tuple[int, ...], seed: int) -> tf.Tensor:
    """Of one sign, so that sums lose nothing."""
    return tf.cast(tf.random.stateless_uniform(shape, (seed, 0), 0.5, 2), tf.bfloat16)


def exact(tensor: tf.Tensor) -> np.ndarray:
    return np.asarray(tf.cast(tensor, tf.float64))


def assert_rounded(found: tf.Tensor, expected: np.ndarray) -> None:
    """To the nearest, and so too large as often as too small."""
    assert found.dtype == tf.bfloat16
    half_step = 2.0 ** (np.floor(np.log2(expected)) - 8)  # seven bits behind the leading one
    wrong = exact(found) - expected
    assert np.abs(wrong / half_step).max() < 1.001  # float32's own rounding
    assert abs((wrong / expected).mean()) < 3e-4  # cut off it is 28e-4


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("in_function", [True, False], ids=["in a function", "eager"])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_results_are_those_of_float64_rounded(shapes: tuple[tuple[int, ...], ...], in_function: bool) -> None:
    a, b = drawn(shapes[0], 1), drawn(shapes[1], 2)
    expected = exact(a) @ exact(b)
    multiply = tf.function(matmul) if in_function else matmul
    assert_rounded(multiply(a, b), expected)
    transposed = multiply(tf.linalg.matrix_transpose(a), tf.linalg.matrix_transpose(b), True, True)
    assert_rounded(transposed, expected)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("shapes", SHAPES[:2], ids=str)
def test_gradients_are_those_of_float64_rounded(shapes: tuple[tuple[int, ...], ...]) -> None:
    a, b = drawn(shapes[0], 1), drawn(shapes[1], 2)
    upstream = drawn((*shapes[0][:-1], shapes[1][-1]), 3)

    @tf.function
    def gradients() -> Any:
        with tf.GradientTape() as tape:
            tape.watch([a, b])
            product = matmul(a, b)
        return tape.gradient(product, [a, b], upstream)

    to_a, to_b = gradients()
    assert_rounded(to_a, exact(upstream) @ exact(b).swapaxes(-1, -2))
    assert_rounded(to_b, exact(a).swapaxes(-1, -2) @ exact(upstream))


@pytest.mark.parametrize("dtype", [tf.float32, tf.float16, tf.float64])
def test_other_dtypes_are_left_to_tensorflow(dtype: tf.DType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "rounds_bfloat16", lambda: False)
    a, b = tf.cast(drawn((7, 5), 1), dtype), tf.cast(drawn((5, 3), 2), dtype)
    np.testing.assert_array_equal(matmul(a, b), tf.matmul(a, b))


def training_graph(cascade: DynamicVisionTransformer) -> Any:
    """Forward and backward."""
    weights = [weight if isinstance(weight, tf.Variable) else weight.value for weight in cascade.trainable_weights]

    @tf.function
    def step(images: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.add_n([tf.reduce_sum(out) for out in cascade(images, training=True).values()])
        return tape.gradient(loss, weights, unconnected_gradients="zero")

    return step.get_concrete_function(tf.constant(random_images(2))).graph.as_graph_def()


@pytest.mark.parametrize("fields", [{}, T2T], ids=["patches", "tokens to token"])
def test_a_cascade_has_no_other(fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is cut off, no matmul of bfloat16 is left in a training step."""
    found: dict[bool, tuple[int, int]] = {}
    for rounds in (True, False):
        monkeypatch.setattr(module, "rounds_bfloat16", lambda rounds=rounds: rounds)
        cascade = DynamicVisionTransformer(small_config(**fields), dtype="mixed_bfloat16")
        cascade.build()
        graph = training_graph(cascade)
        nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
        matmuls = [node for node in nodes if "MatMul" in node.op]
        found[rounds] = (len(matmuls), sum(node.attr["T"].type == tf.bfloat16.as_datatype_enum for node in matmuls))
    assert found[True][1] > 100
    assert found[False] == (found[True][0], 0)
