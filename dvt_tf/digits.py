"""Handwritten digits in cluttered scenes: the embedded data, where small digits need fine tokens and large ones do not.

The handwriting is scikit-learn's `load_digits` (1,797 digits of the UCI Optical Recognition set, 8x8, 17 grey levels),
split once by source digit, so that no handwriting is in two splits. Each is placed in a 112x112 RGB scene in the spirit
of cluttered MNIST (Mnih et al., 2014, arXiv 1406.6247). A scene is a pure function of its seed (`dvt_tf.scenes`).
"""

from __future__ import annotations

import functools
import math

import numpy as np
import tensorflow as tf

from dvt_tf.class_names import DIGITS as CLASS_NAMES
from dvt_tf.scenes import (
    MAX_SIZE,
    MIN_SIZE,
    SCENE_SIZE,
    SCENES,
    Draws,
    EmbeddedData,
    Scenes,
    fixed_scenes,
    gradient,
    place,
    walk,
)

SPLITS = {"train": 1097, "val": 200, "calibration": 250, "test": 250}  # source digits
SPLIT_SEED = 2105  # of the split of source digits, fixed for good
GLYPH = 32  # samples a side at which a digit is shaped before it is placed
FRAGMENT = 16  # likewise for a fragment of clutter
MAX_FRAGMENTS = 8


@functools.cache
def source_digits(split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The handwriting of a split: (M, 8, 8) float32 in [0, 1], labels (M,) int32, index among the 1,797 (M,) int32.

    Raises:
        ValueError: no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; digits has {', '.join(SPLITS)}")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    rest = np.arange(len(data.target))
    chosen = rest
    for name, count in list(SPLITS.items())[::-1]:
        if name == "train":
            chosen = rest
        else:
            rest, chosen = train_test_split(rest, test_size=count, stratify=data.target[rest], random_state=SPLIT_SEED)
        if name == split:
            break
    chosen = np.sort(chosen)
    return (
        (data.images[chosen] / 16.0).astype(np.float32),
        data.target[chosen].astype(np.int32),
        chosen.astype(np.int32),
    )


def digit_scenes(split: str, size: int | None = None, seed: int = 0) -> Scenes:
    """The fixed scenes of a split's handwriting; see `fixed_scenes`."""
    glyphs, labels, index = source_digits(split)
    bank = tf.constant(glyphs)
    return fixed_scenes(split, size, seed, labels, index, lambda which, seed: _draw_fixed(bank, which, seed))


def scene_sources(split: str, size: int | None = None) -> np.ndarray:
    """The `source` of `digit_scenes`, (N,) int32, without drawing them."""
    _, labels, index = source_digits(split)
    return index[walk(0, SCENES[split] if size is None else size, len(labels))]


def _draw_training(
    which: tf.Tensor, seed: tf.Tensor, min_size: tf.Tensor | float, max_clutter: tf.Tensor | float
) -> dict[str, tf.Tensor]:
    return draw_scenes(tf.constant(source_digits("train")[0]), which, seed, min_size, max_clutter)


@tf.function(reduce_retracing=True)
def _draw_fixed(glyphs: tf.Tensor, which: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
    return draw_scenes(glyphs, which, seed)


def draw_scenes(
    glyphs: tf.Tensor,
    which: tf.Tensor,
    seed: tf.Tensor,
    min_size: tf.Tensor | float = MIN_SIZE,
    max_clutter: tf.Tensor | float = 1.0,
    shape_strength: float = 1.0,
) -> dict[str, tf.Tensor]:
    """Draws a batch of scenes, in the graph.

    Args:
        glyphs: (M, 8, 8) float32, the handwriting; fragments of clutter come from it too.
        which: (B,) int32, the digit of each scene.
        seed: (2,) int32; the same seed and batch size give the same scenes.
        min_size: smallest digit, pixels; sizes are log-uniform from it to 100.
        max_clutter: most clutter, 0 to 1.
        shape_strength: strength of the elastic deformation of the digit.

    Returns:
        `pixels`, `object_size`, `clutter` and `box`, as `EmbeddedData.draw`.
    """
    rng = Draws(seed, tf.shape(which)[0])
    digit_size = tf.exp(rng.uniform(math.log(MAX_SIZE), tf.math.log(tf.cast(min_size, tf.float32))))  # (B,)
    top = rng.uniform(0.0, 1.0) * (SCENE_SIZE - digit_size)
    left = rng.uniform(0.0, 1.0) * (SCENE_SIZE - digit_size)

    cluttered = tf.cast(rng.uniform(0.0, 1.0) < 0.8, tf.float32)
    clutter = tf.math.ceil(rng.uniform(0.0, 1.0) * max_clutter * cluttered * MAX_FRAGMENTS) / MAX_FRAGMENTS

    # Brightness: the digit differs from the background by 0.3 to 0.9, either way where there is room.
    background = rng.uniform(0.05, 0.95)
    contrast = rng.uniform(0.3, 0.9)
    lighter = tf.cast(rng.uniform(0.0, 1.0) < 1.0 - background, tf.float32) * 2 - 1
    ink = tf.clip_by_value(background + lighter * contrast, 0.0, 1.0)
    canvas = background[:, None, None, None] + gradient(rng)
    canvas = canvas + rng.uniform(-0.08, 0.08, (3,))[:, None, None, :]

    for alpha in _clutter_alpha(rng, glyphs, clutter):  # (B, S, S)
        # Clutter stands out from the background by 0.4 to 1.0 of what the digit does, often in the same direction.
        strength = rng.uniform(0.4, 1.0) * tf.where(rng.uniform(0.0, 1.0) < 0.75, 1.0, -1.0)
        shade = tf.clip_by_value(background + (ink - background) * strength, 0.0, 1.0)
        colour = shade[:, None] + rng.uniform(-0.1, 0.1, (3,))
        canvas += tf.expand_dims(alpha, -1) * (colour[:, None, None, :] - canvas)

    glyph = _shape_digit(rng, tf.gather(glyphs, which), shape_strength)
    stroke = place(glyph[:, None], digit_size[:, None], top[:, None], left[:, None])  # (B, S, S)
    colour = ink[:, None] + rng.uniform(-0.1, 0.1, (3,))
    canvas += tf.expand_dims(stroke, -1) * (colour[:, None, None, :] - canvas)

    noise = rng.uniform(0.0, 0.08)[:, None, None, None] * rng.normal((SCENE_SIZE, SCENE_SIZE, 1))
    pixels = tf.round(tf.clip_by_value(canvas + noise, 0.0, 1.0) * 255.0)
    box = tf.stack([top, left, top + digit_size, left + digit_size], 1)
    return {"pixels": pixels, "object_size": digit_size, "clutter": clutter, "box": box}


def _sample(glyphs: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Values of 8x8 glyphs (..., 8, 8) at points (..., P) in glyph pixels, smooth, 0 outside -> (..., P)."""
    centres = tf.range(8, dtype=tf.float32) + 0.5

    def kernel(points: tf.Tensor) -> tf.Tensor:
        return tf.exp(-0.5 * tf.square((points[..., None] - centres) / 0.45)) * 0.887  # (..., P, 8), sums to about 1

    return tf.reduce_sum(tf.matmul(kernel(rows), glyphs) * kernel(columns), -1)


def _affine(
    rng: Draws, count: tuple[int, ...], samples: int, angle: float, shear: float, aspect: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Where samples x samples points fall in glyph pixels after a random affine map: rows, columns (B, *count, P)."""
    axis = (np.arange(samples) + 0.5) / samples * 8.0 - 4.0
    y, x = (tf.constant(part.reshape(-1), tf.float32) for part in np.meshgrid(axis, axis, indexing="ij"))
    turn = rng.uniform(-angle, angle, count)[..., None]
    slant = rng.uniform(-shear, shear, count)[..., None]
    stretch = tf.exp(rng.uniform(-aspect, aspect, count))[..., None]
    cosine, sine = tf.cos(turn), tf.sin(turn)
    rows, columns = cosine * y - sine * x, sine * y + cosine * x
    rows, columns = rows * stretch, (columns + slant * rows) / stretch
    # A turned square needs a little more room, or its corners are cut off.
    return rows * 1.1 + 4.0, columns * 1.1 + 4.0


def _shape_digit(rng: Draws, glyphs: tf.Tensor, strength: float) -> tf.Tensor:
    """Digits (B, 8, 8) -> (B, GLYPH, GLYPH) in [0, 1]: turned, sheared, stretched, bent, with another stroke width."""
    rows, columns = _affine(rng, (), GLYPH, angle=math.radians(15), shear=0.2, aspect=0.15)
    axis = (np.arange(GLYPH) + 0.5) / GLYPH * 3
    bend = np.exp(-0.5 * ((axis[:, None] - np.arange(4)[None]) / 0.7) ** 2)
    bend = tf.constant(bend / bend.sum(1, keepdims=True), tf.float32)  # (GLYPH, 4)
    amount = rng.uniform(0.0, 0.45 * strength)[:, None, None, None]
    field = tf.einsum("yi,bijk,xj->bkyx", bend, rng.normal((4, 4, 2)) * amount, bend)
    field = tf.reshape(field, (-1, 2, GLYPH * GLYPH))
    values = _sample(glyphs, rows + field[:, 0], columns + field[:, 1])
    level = rng.uniform(0.42, 0.6)[:, None]  # a low level makes a broad stroke
    crispness = rng.uniform(8.0, 16.0)[:, None]
    paper = tf.sigmoid(-level * crispness)  # what blank paper would get, taken off so that no square shows
    stroke = (tf.sigmoid((values - level) * crispness) - paper) / (1.0 - paper)
    return tf.reshape(tf.nn.relu(stroke), (-1, GLYPH, GLYPH))


def _clutter_alpha(rng: Draws, glyphs: tf.Tensor, clutter: tf.Tensor) -> list[tf.Tensor]:
    """Opacity of two groups of fragments, parts of other digits and strokes: each (B, S, S) in [0, 1]."""
    count = (MAX_FRAGMENTS,)
    which = tf.cast(rng.uniform(0.0, 1.0, count) * tf.cast(tf.shape(glyphs)[0], tf.float32), tf.int32)
    rows, columns = _affine(rng, count, FRAGMENT, angle=math.pi, shear=0.2, aspect=0.2)  # (B, F, P)
    parts = tf.sigmoid((_sample(tf.gather(glyphs, which), rows, columns) - 0.45) * 10.0)
    # Only a window of 3 to 4.5 of the 8 pixels a side remains, so that a fragment is no digit.
    half_height, half_width = rng.uniform(1.5, 2.25, count)[..., None], rng.uniform(1.5, 2.25, count)[..., None]
    middle_row, middle_column = rng.uniform(2.0, 6.0, count)[..., None], rng.uniform(2.0, 6.0, count)[..., None]
    window = _inside(rows, middle_row, half_height) * _inside(columns, middle_column, half_width)
    # A stroke is an arc: points near a circle of random radius, within a window.
    radius = rng.uniform(5.0, 14.0, count)[..., None]
    width = rng.uniform(0.25, 0.6, count)[..., None]
    distance = tf.abs(tf.sqrt(tf.square(rows - 4.0 + radius) + tf.square(columns - 4.0)) - radius)
    stroke = tf.sigmoid((width - distance) * 6.0) * _inside(columns, 4.0, half_width * 1.5)
    is_stroke = tf.cast(rng.uniform(0.0, 1.0, count) < 0.3, tf.float32)[..., None]
    fragments = is_stroke * stroke + (1 - is_stroke) * parts * window
    present = tf.range(MAX_FRAGMENTS, dtype=tf.float32) < clutter[:, None] * MAX_FRAGMENTS  # (B, F)
    fragments *= tf.cast(present, tf.float32)[..., None]
    fragments = tf.reshape(fragments, (-1, MAX_FRAGMENTS, FRAGMENT, FRAGMENT))
    size = tf.exp(rng.uniform(math.log(18.0), math.log(70.0), count))
    top = rng.uniform(-0.3, 1.0, count) * SCENE_SIZE
    left = rng.uniform(-0.3, 1.0, count) * SCENE_SIZE
    half = MAX_FRAGMENTS // 2
    return [place(*(t[:, a : a + half] for t in (fragments, size, top, left))) for a in (0, half)]


def _inside(points: tf.Tensor, middle: tf.Tensor | float, half: tf.Tensor) -> tf.Tensor:
    return tf.sigmoid((half - tf.abs(points - middle)) * 6.0)


DIGITS = EmbeddedData(CLASS_NAMES, digit_scenes, scene_sources, lambda: source_digits("train")[1], _draw_training)
