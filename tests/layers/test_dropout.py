"""Dropout of single values: a pure function of its seed, right on average, and nothing without one."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from dvt_tf.layers import StatelessDropout


def seed(value: int) -> tf.Tensor:
    return tf.constant([value, 1], tf.int32)


def test_without_a_seed_or_a_rate_nothing_happens() -> None:
    values = tf.random.stateless_normal((4, 3, 2), (0, 0))
    np.testing.assert_array_equal(StatelessDropout(0.7)(values), values)
    np.testing.assert_array_equal(StatelessDropout(0.0)(values, seed=seed(1)), values)


def test_single_values_are_dropped_or_scaled() -> None:
    values = tf.random.stateless_normal((8, 50, 20), (0, 0)).numpy()
    result = StatelessDropout(0.25)(tf.constant(values), seed=seed(1)).numpy()
    dropped = result == 0
    np.testing.assert_allclose(result[~dropped], values[~dropped] / 0.75, rtol=1e-6)
    # 8,000 draws: five deviations of the share are 0.024. Neither examples, rows nor columns go together.
    for axes in ((0, 1, 2), (1, 2)):
        np.testing.assert_allclose(dropped.mean(axes), 0.25, atol=0.08)
    assert abs(dropped.mean() - 0.25) < 0.025
    assert 0 < dropped.mean(2).std() < 0.2


def test_the_same_seed_drops_the_same_values_and_another_others() -> None:
    layer, values = StatelessDropout(0.5), tf.ones((4, 8, 8))
    first = layer(values, seed=seed(7)).numpy()
    layer(values, seed=seed(8))  # leaves no state behind
    np.testing.assert_array_equal(layer(values, seed=seed(7)), first)
    np.testing.assert_array_equal(tf.function(lambda: layer(values, seed=seed(7)))(), first)
    assert (layer(values, seed=seed(8)).numpy() != first).mean() > 0.3


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_a_rate_out_of_range_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="StatelessDropout rate"):
        StatelessDropout(rate)
