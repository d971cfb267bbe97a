"""Timing that the benchmarks share: interleaved rounds, medians, and the machine's own limit in the same run."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from importlib.metadata import version
from typing import Any

import tensorflow as tf

ROOFLINE_SIDE = 2048


def interleaved(runs: Mapping[Any, Callable[[], tf.Tensor]], rounds: int, warm_up: int = 2) -> dict[Hashable, float]:
    """The median seconds of each, one after another in every round; a run is over when its tensor is there."""
    taken: dict[Hashable, list[float]] = {key: [] for key in runs}
    for turn in range(warm_up + rounds):
        for key, run in runs.items():
            start = time.perf_counter()
            run().numpy()
            if turn >= warm_up:
                taken[key].append(time.perf_counter() - start)
    return {key: statistics.median(times) for key, times in taken.items()}


def matmul(dtype: tf.DType) -> Callable[[], tf.Tensor]:
    """One matmul of `ROOFLINE_SIDE` cubed, the roofline; the result is one number, so that nothing else is timed."""
    side = (ROOFLINE_SIDE, ROOFLINE_SIDE)
    factor = tf.Variable(tf.cast(tf.random.stateless_normal(side, (0, 1)), dtype))
    run = tf.function(lambda: tf.matmul(factor, factor)[0, 0], autograph=False)
    return lambda: tf.cast(run(), tf.float32)


def rate(seconds: float) -> float:
    """Multiply-accumulates a second of that matmul."""
    return ROOFLINE_SIDE**3 / seconds


def machine() -> str:
    """What it was measured on, in a line; no name of a machine."""
    threads = tf.config.threading.get_intra_op_parallelism_threads() or "all"
    python = platform.python_version()
    return f"{platform.machine()}, TensorFlow {version('tensorflow')}, Python {python}, {threads} threads"
