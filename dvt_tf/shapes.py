"""Patterned shapes in scenes like nature's: a second embedded data set, of another kind than handwriting.

Fifteen classes, five outlines times three patterns: coarse tokens tell a large disc from a square, and not whether a
small one is striped or chequered. Around it are blobs with the same patterns and no regular outline. The background is
noise with the spectrum of natural images, whose amplitude falls as one over the frequency (Field, 1987), under uneven
light, with shadows. All is drawn: a scene is a pure function of its seed (`dvt_tf.scenes`), and stands for itself.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from dvt_tf.class_names import OUTLINES, PATTERNS
from dvt_tf.class_names import SHAPES as CLASS_NAMES
from dvt_tf.scenes import MAX_SIZE, MIN_SIZE, SCENE_SIZE, Draws, EmbeddedData, Scenes, fixed_scenes, place

MAX_BLOBS = 6
STAMP, BLOB_STAMP = 48, 24  # samples a side at which the shape, and a blob, are drawn before they are placed
_ANGLES = 360  # at which an outline's radius is tabled
_OCTAVES = (3, 6, 12, 28)  # cells a side of the background's noise
_WAVES = 4  # of a blob's outline
_TURN = math.radians(15.0)  # of a shape at most, either way: turned at will they took many more images to be learned


def shape_scenes(split: str, size: int | None = None, seed: int = 0) -> Scenes:
    """The fixed scenes of a split; see `fixed_scenes`. `source` is the class: each scene stands for itself."""
    classes = np.arange(len(CLASS_NAMES), dtype=np.int32)
    return fixed_scenes(split, size, seed, classes, classes, _draw_fixed)


@tf.function(reduce_retracing=True)
def _draw_fixed(which: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
    return draw_scenes(which, seed)


def draw_scenes(
    which: tf.Tensor, seed: tf.Tensor, min_size: tf.Tensor | float = MIN_SIZE, max_clutter: tf.Tensor | float = 1.0
) -> dict[str, tf.Tensor]:
    """Draws a batch of scenes, in the graph.

    Args:
        which: (B,) int32, the class of each scene.
        seed: (2,) int32; the same seed and batch size give the same scenes, but for a grey level in a few pixels of a
            million, since threads share the work differently.
        min_size: smallest shape, pixels; sizes are log-uniform from it to 100.
        max_clutter: most clutter, 0 to 1.

    Returns:
        `pixels`, `object_size`, `clutter` and `box`, as `EmbeddedData.draw`.
    """
    rng = Draws(seed, tf.shape(which)[0])
    size = tf.exp(rng.uniform(math.log(MAX_SIZE), tf.math.log(tf.cast(min_size, tf.float32))))  # (B,)
    top = rng.uniform(0.0, 1.0) * (SCENE_SIZE - size)
    left = rng.uniform(0.0, 1.0) * (SCENE_SIZE - size)
    cluttered = tf.cast(rng.uniform(0.0, 1.0) < 0.8, tf.float32)
    clutter = tf.math.ceil(rng.uniform(0.0, 1.0) * max_clutter * cluttered * MAX_BLOBS) / MAX_BLOBS

    canvas = _background(rng)
    canvas = _with_blobs(rng, canvas, clutter)

    outline, pattern = which // len(PATTERNS), which % len(PATTERNS)
    rows, columns = _turned(rng, (), STAMP, _TURN)  # (B, P)
    alpha = _inside(rows, columns, tf.gather(tf.constant(_outline_radii(), tf.float32), outline), STAMP)
    marks = _marks(rng, (), rows, columns, pattern)
    canvas = _painted(rng, canvas, alpha[:, None], marks[:, None], size[:, None], top[:, None], left[:, None])

    noise = rng.uniform(0.0, 0.06)[:, None, None, None] * rng.normal((SCENE_SIZE, SCENE_SIZE, 1))
    pixels = tf.round(tf.clip_by_value(canvas + noise, 0.0, 1.0) * 255.0)
    box = tf.stack([top, left, top + size, left + size], 1)
    return {"pixels": pixels, "object_size": size, "clutter": clutter, "box": box}


def _background(rng: Draws) -> tf.Tensor:
    """(B, S, S, 3): a colour, noise of all octaves, and light that falls off to one side."""
    canvas = rng.uniform(0.25, 0.75)[:, None, None, None] + rng.uniform(-0.12, 0.12, (3,))[:, None, None, :]
    strength = rng.uniform(0.03, 0.3)[:, None, None, None]
    for cells in _OCTAVES:
        spread = tf.constant(_spread(cells), tf.float32)  # (S, cells)
        # Mostly grey: the colours of nature go up and down together.
        coarse = rng.normal((cells, cells, 1)) + 0.15 * rng.normal((cells, cells, 3))
        across = tf.einsum("bijc,xj->bixc", coarse, spread)
        canvas += strength * (_OCTAVES[0] / cells) * tf.einsum("yi,bixc->byxc", spread, across)
    ramp = tf.constant((np.arange(SCENE_SIZE) + 0.5) / SCENE_SIZE - 0.5, tf.float32)
    down, right = rng.uniform(-0.4, 0.4), rng.uniform(-0.4, 0.4)
    light = down[:, None, None] * ramp[:, None] + right[:, None, None] * ramp  # (B, S, S)
    return tf.clip_by_value(canvas, 0.05, 0.95) * (1.0 + light[..., None])


def _spread(cells: int) -> np.ndarray:
    """(S, cells): a smooth interpolation of values at evenly spaced points."""
    place = (np.arange(SCENE_SIZE) + 0.5) / SCENE_SIZE * (cells - 1)
    weights = np.exp(-0.5 * ((place[:, None] - np.arange(cells)) / 0.5) ** 2)
    return weights / weights.sum(1, keepdims=True)


def _with_blobs(rng: Draws, canvas: tf.Tensor, clutter: tf.Tensor) -> tf.Tensor:
    """The clutter, in two layers: shapes without a regular outline that have the patterns of the others."""
    count = (MAX_BLOBS,)
    rows, columns = _turned(rng, count, BLOB_STAMP, math.pi)  # (B, F, P)
    angles = tf.constant(np.arange(_ANGLES) / _ANGLES * 2 * math.pi, tf.float32)
    phases = rng.uniform(0.0, 2 * math.pi, (*count, _WAVES))
    order = tf.range(2, _WAVES + 2, dtype=tf.float32)[:, None]  # from an ellipse's on
    heights = rng.uniform(0.2, 0.6, (*count, _WAVES)) / order[:, 0]
    waves = heights[..., None] * tf.sin(order * angles + phases[..., None])  # (B, F, waves, angles)
    radii = 0.55 * (1.0 + tf.reduce_sum(waves, -2))
    alpha = _inside(rows, columns, radii, BLOB_STAMP)
    present = tf.range(MAX_BLOBS, dtype=tf.float32) < clutter[:, None] * MAX_BLOBS  # (B, F)
    alpha *= tf.cast(present, tf.float32)[..., None, None]
    pattern = tf.cast(rng.uniform(0.0, float(len(PATTERNS)), count), tf.int32)
    marks = _marks(rng, count, rows, columns, pattern)
    size = tf.exp(rng.uniform(math.log(18.0), math.log(70.0), count))
    top = rng.uniform(-0.3, 1.0, count) * SCENE_SIZE
    left = rng.uniform(-0.3, 1.0, count) * SCENE_SIZE
    half = MAX_BLOBS // 2
    for a in (0, half):
        own = (part[:, a : a + half] for part in (alpha, marks, size, top, left))
        canvas = _painted(rng, canvas, *own)
    return canvas


def _turned(rng: Draws, count: tuple[int, ...], samples: int, most: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Where samples x samples points lie in an object's own axes, -1 to 1 and turned by at most `most` radians: rows,
    columns (B, *count, P)."""
    axis = (np.arange(samples) + 0.5) / samples * 2 - 1
    y, x = (tf.constant(part.reshape(-1), tf.float32) for part in np.meshgrid(axis, axis, indexing="ij"))
    turn = rng.uniform(-most, most, count)[..., None]
    stretch = tf.exp(rng.uniform(-0.12, 0.12, count))[..., None]
    cosine, sine = tf.cos(turn), tf.sin(turn)
    return (cosine * y - sine * x) * stretch, (sine * y + cosine * x) / stretch


def _outline_radii() -> np.ndarray:
    """(outlines, angles): radius of each outline in every direction from upwards on, about 0.9 at most."""
    angle = (np.arange(_ANGLES) + 0.5) / _ANGLES * 2 * math.pi

    def polygon(corners: int, inner: float) -> np.ndarray:
        """Straight lines from corner to corner, through points at `inner` of the radius between them."""
        part = np.abs((angle * corners / (2 * math.pi)) % 1.0 - 0.5) * 2 * math.pi / corners  # from the inner point
        # The line from (inner, 0) to the corner, in polar coordinates.
        corner = np.array([math.cos(math.pi / corners), math.sin(math.pi / corners)])
        along = corner - np.array([inner, 0.0])
        return inner * along[1] / (np.cos(part) * along[1] - np.sin(part) * along[0])

    arm = 0.3  # half the width of a cross
    c, s = np.abs(np.cos(angle)), np.abs(np.sin(angle))
    cross = np.minimum(np.maximum(arm / np.minimum(c, s).clip(1e-9), 0.0), 0.86 / np.maximum(c, s))
    radii = {
        "disc": np.full(_ANGLES, 0.75),
        "square": np.roll(0.9 * polygon(4, math.cos(math.pi / 4)), _ANGLES // 8),  # on a side, not on a corner
        "triangle": 0.9 * polygon(3, math.cos(math.pi / 3)),
        "star": 0.9 * polygon(5, 0.42),
        "cross": cross,
    }
    return np.stack([radii[name] for name in OUTLINES])


def _inside(rows: tf.Tensor, columns: tf.Tensor, radii: tf.Tensor, samples: int) -> tf.Tensor:
    """Points (..., P) and radii (..., angles) -> opacity (..., samples, samples), with a soft edge of a sample."""
    angle = tf.math.atan2(columns, -rows) / (2 * math.pi)  # 0 is upwards
    number = tf.cast(tf.floor((angle % 1.0) * _ANGLES), tf.int32) % _ANGLES
    radius = tf.gather(radii, number, batch_dims=len(radii.shape) - 1)
    distance = radius - tf.sqrt(tf.square(rows) + tf.square(columns))
    opacity = tf.clip_by_value(distance * samples / 2 + 0.5, 0.0, 1.0)
    return tf.reshape(opacity, (*_leading(rows), samples, samples))


def _marks(rng: Draws, count: tuple[int, ...], rows: tf.Tensor, columns: tf.Tensor, pattern: tf.Tensor) -> tf.Tensor:
    """Points (B, *count, P), patterns (B, *count) -> share of the second colour, (B, *count, samples, samples)."""
    waves = rng.uniform(3.0, 4.5, count)[..., None] * math.pi  # half as many repeats from edge to edge
    shift, other = (rng.uniform(0.0, 2 * math.pi, count)[..., None] for _ in range(2))
    across, along = tf.sin(rows * waves + shift), tf.sin(columns * waves + other)
    patterns = tf.stack([across * 3.0, across * along * 6.0, (across + along - 0.9) * 4.0], -2)  # (..., patterns, P)
    chosen = tf.gather(patterns, pattern[..., None], batch_dims=len(pattern.shape))[..., 0, :]
    samples = math.isqrt(rows.shape[-1])
    return tf.reshape(tf.sigmoid(chosen * 2.0), (*_leading(rows), samples, samples))


def _painted(
    rng: Draws,
    canvas: tf.Tensor,
    alpha: tf.Tensor,
    marks: tf.Tensor,
    size: tf.Tensor,
    top: tf.Tensor,
    left: tf.Tensor,
) -> tf.Tensor:
    """Paints a layer of objects (B, F, samples, samples) over their shadow: two colours for all of the layer."""
    shadow = place(alpha, size, top + 0.06 * size, left + 0.06 * size)  # (B, S, S)
    canvas *= 1.0 - rng.uniform(0.0, 0.5)[:, None, None, None] * shadow[..., None]
    opacity = place(alpha, size, top, left)
    second = place(alpha * marks, size, top, left)
    bright = rng.uniform(0.1, 0.9)
    contrast = rng.uniform(0.25, 0.7) * tf.where(rng.uniform(0.0, 1.0) < 1.0 - bright, 1.0, -1.0)
    colours = [
        tf.clip_by_value(shade[:, None] + rng.uniform(-0.15, 0.15, (3,)), 0.0, 1.0)[:, None, None, :]
        for shade in (bright, bright + contrast)
    ]
    paint = (opacity - second)[..., None] * colours[0] + second[..., None] * colours[1]
    return canvas * (1.0 - opacity[..., None]) + paint


def _leading(points: tf.Tensor) -> tuple[int, ...]:
    return (-1, *points.shape[1:-1])


SHAPES = EmbeddedData(
    CLASS_NAMES,
    shape_scenes,
    lambda split: None,
    lambda: np.arange(len(CLASS_NAMES), dtype=np.int32),
    draw_scenes,
)
