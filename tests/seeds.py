"""What a stateless draw gives over many seeds, in tf.data as in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf


def over_seeds(draw: Callable[[tf.Tensor], Any], count: int) -> Any:
    """`draw` of a seed (2,) int32 -> its results for `count` seeds, each with a first axis of that length."""

    @tf.autograph.experimental.do_not_convert
    def drawn(number: tf.Tensor) -> Any:
        return draw(tf.stack([11, number]))

    numbers = tf.data.Dataset.range(count, output_type=tf.int32)
    return next(numbers.map(drawn).batch(count).as_numpy_iterator())


def uniform_distance(values: Any, low: float, high: float) -> float:
    """How far values are from uniform between two bounds: the Kolmogorov-Smirnov statistic times the root of the count.

    Above 2 for one in 1,500 sets of uniform values.
    """
    place = (np.sort(np.asarray(values, np.float64)) - low) / (high - low)
    steps = np.arange(len(place) + 1) / len(place)
    return float(np.sqrt(len(place)) * max(np.abs(place - steps[1:]).max(), np.abs(place - steps[:-1]).max()))


def off_by(share: float, probability: float, count: int) -> float:
    """How many standard deviations a share of `count` draws is from its probability."""
    return abs(share - probability) / np.sqrt(probability * (1 - probability) / count)
