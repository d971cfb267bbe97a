"""Random crops of single pictures, resized by Pillow's kernels: of random area and shape, or padded and shifted."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from dvt_tf.preprocessing import resize_window
from training.draws import chance, first_that_fits, sub_seed, uniform, whole_number

INTERPOLATIONS = ("bilinear", "bicubic", "random")
ATTEMPTS = 10  # crops tried before the centre is taken
PADDING_SHARE = 8  # the shifted crop is padded by this part of its side: 28 pixels around 224
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)

_AREA, _SHAPE, _TOP, _LEFT, _INTERPOLATION = range(5)  # what a draw is for


def random_resized_crop(
    pixels: tf.Tensor,
    seed: tf.Tensor,
    size: int,
    scale: tuple[float, float] = SCALE,
    ratio: tuple[float, float] = RATIO,
    interpolation: str = "bicubic",
) -> tf.Tensor:
    """A random part of the picture, resized to a square (Szegedy et al., 2015, arXiv 1409.4842, section 6).

    Args:
        pixels: uint8 (H, W, 3). seed: int32 (2,). size: side of the result, pixels.
        scale: the part's area as a share of the picture's, from and to. ratio: its width / height, from and to.
        interpolation: `bilinear`, `bicubic`, or `random` for one of them, drawn.

    Returns:
        float32 (size, size, 3), whole numbers 0..255: what torchvision's transform of this name gives for that crop.
    """
    height, width = tf.unstack(tf.shape(pixels, tf.int64)[:2])
    top, left, crop_height, crop_width = crop_box(height, width, seed, scale, ratio)
    part = tf.slice(pixels, tf.stack([top, left, 0]), tf.stack([crop_height, crop_width, 3]))
    return _resize_by(interpolation, seed, part, (size, size), (0, 0), size)


def crop_box(
    height: tf.Tensor, width: tf.Tensor, seed: tf.Tensor, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """The part that `random_resized_crop` cuts out of height x width pixels: top, left, height, width, int64 each.

    Ten times an area is drawn uniformly and a ratio log-uniformly; the first part that fits into the picture is placed
    at random. If none fits, it is the largest part in the middle whose ratio is allowed.
    """
    area = tf.cast(height * width, tf.float64) * uniform(sub_seed(seed, _AREA), *scale, (ATTEMPTS,))
    shape = tf.exp(uniform(sub_seed(seed, _SHAPE), math.log(ratio[0]), math.log(ratio[1]), (ATTEMPTS,)))
    widths = tf.cast(tf.round(tf.sqrt(area * shape)), tf.int64)
    heights = tf.cast(tf.round(tf.sqrt(area / shape)), tf.int64)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)

    real_width, real_height = tf.cast(width, tf.float64), tf.cast(height, tf.float64)
    widest = tf.cast(tf.round(real_height * ratio[1]), tf.int64)
    highest = tf.cast(tf.round(real_width / ratio[0]), tf.int64)
    crop_height = first_that_fits(fits, heights, tf.clip_by_value(highest, 1, height))
    crop_width = first_that_fits(fits, widths, tf.clip_by_value(widest, 1, width))

    def place(purpose: int, room: tf.Tensor) -> tf.Tensor:
        return tf.where(tf.reduce_any(fits), whole_number(sub_seed(seed, purpose), room + 1), room // 2)

    return place(_TOP, height - crop_height), place(_LEFT, width - crop_width), crop_height, crop_width


def random_crop(pixels: tf.Tensor, seed: tf.Tensor, size: int, interpolation: str = "bilinear") -> tf.Tensor:
    """The picture resized, framed in black and cut out at random, as small images are fine-tuned on (T2T-ViT, CIFAR).

    Args:
        pixels: uint8 (H, W, 3). seed: int32 (2,). interpolation: as of `random_resized_crop`.
        size: to what the short side is resized, and the side of the result, pixels; an eighth of it is the frame.

    Returns:
        float32 (size, size, 3), whole numbers 0..255.
    """
    height, width = tf.unstack(tf.shape(pixels, tf.int64)[:2])
    short = tf.minimum(height, width)
    frame = size // PADDING_SHARE
    resized, start = [], []
    for purpose, length in ((_TOP, height), (_LEFT, width)):
        resized.append(size * length // short)
        start.append(whole_number(sub_seed(seed, purpose), resized[-1] - size + 2 * frame + 1) - frame)
    return _resize_by(interpolation, seed, pixels, (resized[0], resized[1]), (start[0], start[1]), size)


def _resize_by(
    interpolation: str, seed: tf.Tensor, pixels: tf.Tensor, resized: tuple[Any, Any], start: tuple[Any, Any], size: int
) -> tf.Tensor:
    """`resize_window` with an interpolation that may have to be drawn."""
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation is {interpolation!r}; it can be {', '.join(INTERPOLATIONS)}")
    if interpolation != "random":
        return resize_window(pixels, resized, start, size, interpolation)
    return tf.cond(
        chance(sub_seed(seed, _INTERPOLATION), 0.5),
        lambda: resize_window(pixels, resized, start, size, "bicubic"),
        lambda: resize_window(pixels, resized, start, size, "bilinear"),
    )
