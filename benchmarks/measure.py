"""Timing that the benchmarks share: interleaved rounds, paired ratios, and the machine's own limit."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import tensorflow as tf

from dvt_tf.cascade import DynamicVisionTransformer, find_preset
from dvt_tf.processor import available_cores, vector_extensions

ROOFLINE_SIDE = 2048


class Middle(NamedTuple):
    """The median of the rounds, and the lowest and the highest of them."""

    median: float
    lowest: float
    highest: float

    def show(self, pattern: str = "{:.2f}") -> str:
        """`0.55 (0.53-0.58)`."""
        return f"{pattern} ({pattern}-{pattern})".format(*self)


class Rounds(NamedTuple):
    """The seconds of one run, round by round."""

    seconds: tuple[float, ...]

    @property
    def middle(self) -> Middle:
        """Of the seconds."""
        return _middle(self.seconds)

    def over(self, other: Rounds) -> Middle:
        """Of the ratios to another run of the same rounds: what disturbed a round disturbed both."""
        return _middle([own / its for own, its in zip(self.seconds, other.seconds, strict=True)])

    def rate(self, amount: float) -> Middle:
        """Of `amount` a second."""
        return _middle([amount / seconds for seconds in self.seconds])


def _middle(values: Sequence[float]) -> Middle:
    return Middle(statistics.median(values), min(values), max(values))


def interleaved(
    runs: Mapping[Any, Callable[[], Any]], rounds: int, warm_up: int = 2, repeats: int = 1
) -> dict[Any, Rounds]:
    """The rounds of each, one after another in every round.

    Args:
        runs: by name; a `tf.Tensor` that one returns is waited for.
        rounds: that are kept. warm_up: rounds before them, at least one, as tracing is not timed.
        repeats: calls in a row that a round times together, for runs that are over in a millisecond.
    """
    taken: dict[Any, list[float]] = {key: [] for key in runs}
    for turn in range(warm_up + rounds):
        for key, run in runs.items():
            start = time.perf_counter()
            for _ in range(repeats):
                result = run()
                if isinstance(result, tf.Tensor):
                    result.numpy()
            if turn >= warm_up:
                taken[key].append((time.perf_counter() - start) / repeats)
    return {key: Rounds(tuple(seconds)) for key, seconds in taken.items()}


def matmul(dtype: tf.DType) -> Callable[[], tf.Tensor]:
    """One matmul of `ROOFLINE_SIDE` cubed, the roofline; the result is one number, so that nothing else is timed."""
    side = (ROOFLINE_SIDE, ROOFLINE_SIDE)
    factor = tf.Variable(tf.cast(tf.random.stateless_normal(side, (0, 1)), dtype))
    run = tf.function(lambda: tf.matmul(factor, factor)[0, 0], autograph=False)
    return lambda: tf.cast(run(), tf.float32)


def share_of_roofline(macs: float, run: Rounds, roofline: Rounds) -> Middle:
    """What `macs` multiply-adds would take at the rate of `matmul` in the same round, over what they took."""
    return roofline.over(Rounds(tuple(seconds * ROOFLINE_SIDE**3 / macs for seconds in run.seconds)))


def load(model: str) -> DynamicVisionTransformer:
    """A model folder or a preset; one whose weights are not bundled is untrained, as time does not depend on them.

    Raises:
        ValueError, FileNotFoundError: no such model, or its weights do not fit.
    """
    preset = find_preset(model)[1]
    return DynamicVisionTransformer.from_preset(model, load_weights=preset is None or preset.bundled)


def machine() -> str:
    """What it was measured on, in a line; no name of a machine."""
    return ", ".join(
        [
            f"{platform.machine()} with {' '.join(vector_extensions()) or 'no vector extensions that are known of'}",
            f"{available_cores()} cores",
            f"TensorFlow {version('tensorflow')}",
            f"Python {platform.python_version()}",
        ]
    )
