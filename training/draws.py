"""Stateless draws for augmentation: pure functions of a seed, in the graph, alike under both generations of Keras."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

_ALGORITHM = "philox"


def sub_seed(seed: tf.Tensor, purpose: int | tf.Tensor) -> tf.Tensor:
    """A seed (2,) int32 of its own for each purpose, a whole number: draws from different purposes are independent."""
    return tf.random.experimental.stateless_fold_in(seed, purpose, alg=_ALGORITHM)


def uniform(seed: tf.Tensor, low: Any, high: Any, shape: tuple[int, ...] = ()) -> tf.Tensor:
    """float64 of that shape, uniform from low up to high."""
    unit = tf.random.stateless_uniform(shape, seed, dtype=tf.float64, alg=_ALGORITHM)
    return low + unit * (high - low)


def normal(seed: tf.Tensor, shape: Any = (), dtype: tf.DType = tf.float64) -> tf.Tensor:
    """Standard normal values of that shape."""
    return tf.random.stateless_normal(shape, seed, dtype=dtype, alg=_ALGORITHM)


def chance(seed: tf.Tensor, probability: float) -> tf.Tensor:
    """bool (): True with that probability, exactly never for 0 and always for 1."""
    return uniform(seed, 0.0, 1.0) < probability


def whole_number(seed: tf.Tensor, count: int | tf.Tensor) -> tf.Tensor:
    """int64 (): one of 0, 1, ..., count - 1, each as likely; `count` is at least 1 and below 2^31."""
    return tf.cast(tf.floor(uniform(seed, 0.0, tf.cast(count, tf.float64))), tf.int64)


def beta(seed: tf.Tensor, alpha: float) -> tf.Tensor:
    """float64 (): from the symmetric distribution Beta(alpha, alpha), alpha above 0."""
    # Two gamma variates' share of their sum; TensorFlow has no stateless beta.
    pair = tf.random.stateless_gamma((2,), seed, tf.constant(alpha, tf.float64), dtype=tf.float64)
    return tf.math.divide_no_nan(pair[0], tf.reduce_sum(pair))


def first_that_fits(fits: tf.Tensor, values: tf.Tensor, otherwise: tf.Tensor) -> tf.Tensor:
    """Of attempts, `fits` bool (N,) and `values` (N,): the first that fits, or `otherwise` () if none does."""
    return tf.concat([tf.boolean_mask(values, fits), otherwise[None]], 0)[0]
