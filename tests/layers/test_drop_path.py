"""Stochastic depth: a pure function of its seed, right on average, and nothing without one."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from dvt_tf.layers import DropPath


def seed(value: int) -> tf.Tensor:
    return tf.constant([value, 1], tf.int32)


def test_without_a_seed_or_a_rate_nothing_happens() -> None:
    branch = tf.random.stateless_normal((4, 3, 2), (0, 0))
    np.testing.assert_array_equal(DropPath(0.7)(branch), branch)
    np.testing.assert_array_equal(DropPath(0.7)(branch, seed=None), branch)
    np.testing.assert_array_equal(DropPath(0.0)(branch, seed=seed(1)), branch)


def test_a_whole_example_is_dropped_or_scaled() -> None:
    branch = tf.random.stateless_normal((64, 3, 2), (0, 0))
    result = DropPath(0.5)(branch, seed=seed(1)).numpy()
    dropped = (result == 0).all((1, 2))
    assert 0 < dropped.sum() < 64
    np.testing.assert_array_equal(result[~dropped], 2 * branch.numpy()[~dropped])


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.8])
def test_the_branch_is_kept_on_average(rate: float) -> None:
    count = 20_000
    result = DropPath(rate)(tf.ones((count, 1, 1)), seed=seed(3)).numpy().ravel()
    deviation = np.sqrt(rate / (1 - rate) / count)  # of the mean of 0 or 1 / (1 - rate)
    assert abs(result.mean() - 1.0) < 5 * deviation
    assert abs((result == 0).mean() - rate) < 0.02


def test_the_same_seed_drops_the_same_examples_and_another_others() -> None:
    layer, branch = DropPath(0.5), tf.ones((256, 1, 1))
    first = layer(branch, seed=seed(7)).numpy()
    layer(branch, seed=seed(8))  # leaves no state behind
    np.testing.assert_array_equal(layer(branch, seed=seed(7)), first)
    np.testing.assert_array_equal(DropPath(0.5)(branch, seed=seed(7)), first)
    np.testing.assert_array_equal(tf.function(lambda: layer(branch, seed=seed(7)))(), first)
    assert (layer(branch, seed=seed(8)).numpy() != first).mean() > 0.3


def test_it_keeps_the_dtype_of_the_branch() -> None:
    result = DropPath(0.5, dtype="mixed_bfloat16")(tf.ones((8, 1, 1), tf.bfloat16), seed=seed(2))
    assert result.dtype == tf.bfloat16
    assert set(tf.cast(result, tf.float32).numpy().ravel()) <= {0.0, 2.0}


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
def test_a_rate_out_of_range_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="DropPath rate"):
        DropPath(rate)
