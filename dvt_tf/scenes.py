"""What the embedded data sets share: scenes of 112x112 pixels with one object to name, and how they are drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

SCENE_SIZE = 112
MIN_SIZE, MAX_SIZE = 18.0, 100.0  # pixels, the side of the square that holds the object
SCENES = {"train": 2000, "val": 2000, "calibration": 4000, "test": 4000}  # fixed scenes of each split
_BATCH = 200  # fixed scenes drawn at once; part of the definition of the data


class Scenes(NamedTuple):
    """Scenes with what makes each easy or hard.

    images: (N, 112, 112, 3) uint8. labels: (N,) int32. object_size: (N,) float32, pixels. clutter: (N,) float32 in
    [0, 1], the share of the most clutter there can be. source: (N,) int32, what the object was made of, where several
    are of one. box: (N, 4) float32 pixels, top, left, bottom, right of the object's square before it is turned.
    """

    images: np.ndarray
    labels: np.ndarray
    object_size: np.ndarray
    clutter: np.ndarray
    source: np.ndarray
    box: np.ndarray


class EmbeddedData(NamedTuple):
    """A data set that is drawn, as `datasets` and training use it.

    class_names: in the order of the labels.
    split_scenes: (split, size or None for all, seed) -> the fixed scenes of a split.
    sources: split -> the `source` of all its scenes, (N,) int32; None where each scene stands for itself.
    training_labels: () -> (M,) int32, the label of each object that training draws from.
    draw: (which (B,) int32 of those objects, seed (2,) int32, smallest size in pixels, most clutter) -> `pixels`
        (B, 112, 112, 3) float32, whole numbers 0..255, `object_size` (B,), `clutter` (B,), `box` (B, 4), in the graph.
    """

    class_names: tuple[str, ...]
    split_scenes: Callable[..., Scenes]
    sources: Callable[[str], np.ndarray | None]
    training_labels: Callable[[], np.ndarray]
    draw: Callable[[tf.Tensor, tf.Tensor, tf.Tensor | float, tf.Tensor | float], Mapping[str, tf.Tensor]]


def fixed_scenes(
    split: str,
    size: int | None,
    seed: int,
    labels: np.ndarray,
    sources: np.ndarray,
    draw: Callable[[tf.Tensor, tf.Tensor], Mapping[str, tf.Tensor]],
) -> Scenes:
    """The fixed scenes of a split: every object about equally often, the same for the same seed.

    Args:
        size: how many; by default all that `SCENES` says. seed: another seed gives other scenes.
        labels, sources: (M,) of the objects that there are. draw: (which (B,) int32, seed (2,) int32) -> the scenes.

    Raises:
        ValueError: no such split, size or seed.
    """
    if split not in SCENES:
        raise ValueError(f"unknown split {split!r}; there are {', '.join(SCENES)}")
    size = SCENES[split] if size is None else size
    if size < 1:
        raise ValueError(f"size must be at least 1, not {size!r}")
    if not 0 <= seed < 2**28:
        raise ValueError(f"seed must be at least 0 and below 2^28, not {seed!r}")
    salt = list(SCENES).index(split)
    parts = []
    for start in range(0, size, _BATCH):
        which = walk(start, min(_BATCH, size - start), len(labels))
        drawn = draw(tf.constant(which, tf.int32), tf.constant([seed * 8 + salt, start], tf.int32))
        parts.append(
            Scenes(
                drawn["pixels"].numpy().astype(np.uint8),
                labels[which],
                drawn["object_size"].numpy(),
                drawn["clutter"].numpy(),
                sources[which],
                drawn["box"].numpy(),
            )
        )
    return Scenes(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def walk(start: int, count: int, objects: int) -> np.ndarray:
    """Which object each scene shows, from a given scene on: 7919 is prime, so that the walk comes to all of them."""
    return (np.arange(start, start + count) * 7919) % objects


class Draws:
    """Independent stateless draws from one seed, one after another; the order is part of the data's definition."""

    def __init__(self, seed: tf.Tensor, batch: tf.Tensor) -> None:
        self._seed = seed
        self._batch = batch
        self._count = 0

    def _next(self) -> tf.Tensor:
        self._count += 1
        return tf.random.experimental.stateless_fold_in(self._seed, self._count, alg="philox")

    def uniform(self, low: tf.Tensor | float, high: tf.Tensor | float, shape: tuple[int, ...] = ()) -> tf.Tensor:
        """(B, *shape) float32, uniform between low and high."""
        unit = tf.random.stateless_uniform((self._batch, *shape), self._next(), alg="philox")
        return low + unit * (high - low)

    def normal(self, shape: tuple[int, ...]) -> tf.Tensor:
        """(B, *shape) float32, standard normal."""
        return tf.random.stateless_normal((self._batch, *shape), self._next(), alg="philox")


def gradient(rng: Draws) -> tf.Tensor:
    """(B, S, S, 3): a smooth field from 4x4 random values, from none to strong."""
    coarse = rng.normal((4, 4, 3)) * rng.uniform(0.0, 0.12)[:, None, None, None]
    place = (np.arange(SCENE_SIZE) + 0.5) / SCENE_SIZE * 3
    spread = np.exp(-0.5 * ((place[:, None] - np.arange(4)[None]) / 0.6) ** 2)
    spread = tf.constant(spread / spread.sum(1, keepdims=True), tf.float32)  # (S, 4)
    return tf.einsum("yi,bijc,xj->byxc", spread, coarse, spread)


def place(stamps: tf.Tensor, size: tf.Tensor, top: tf.Tensor, left: tf.Tensor) -> tf.Tensor:
    """Puts stamps (B, F, P, P) of `size` pixels (B, F) at `top`, `left` (B, F) into one plane (B, S, S), clipped to 1.

    Linear interpolation, with the kernel widened where a stamp shrinks; separable, so a plane is one matmul.
    """
    samples = stamps.shape[-1]
    step = (size / samples)[..., None]  # (B, F, 1) pixels per sample
    reach = tf.maximum(step, 1.0)[..., None]
    pixels = tf.range(SCENE_SIZE, dtype=tf.float32) + 0.5

    def spread(start: tf.Tensor) -> tf.Tensor:
        centres = start[..., None] + (tf.range(samples, dtype=tf.float32) + 0.5) * step  # (B, F, P)
        weights = tf.nn.relu(1.0 - tf.abs(centres[..., None] - pixels) / reach)  # (B, F, P, S)
        return weights * tf.minimum(step, 1.0)[..., None]

    across = tf.matmul(stamps, spread(left))  # (B, F, P, S)
    down = spread(top)  # (B, F, P, S)
    merged = (-1, stamps.shape[1] * samples, SCENE_SIZE)
    plane = tf.matmul(tf.reshape(down, merged), tf.reshape(across, merged), transpose_a=True)
    return tf.clip_by_value(plane, 0.0, 1.0)
