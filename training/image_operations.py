"""The operations of RandAugment on one picture, uint8 (H, W, 3) -> the same, each with the pixels that Pillow gives.

Those of a table or of whole numbers are Pillow's to the bit, as are the four that blend; the five that move pixels are
within one grey level, as they interpolate in float32 where Pillow does in float64.
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

_LEVELS = 256
_GREY = (19595, 38470, 7471)  # of red, green and blue in Pillow's grey, in 65536ths


def autocontrast(pixels: tf.Tensor) -> tf.Tensor:
    """Each channel stretched to 0..255 (ImageOps.autocontrast); one of a single level stays."""
    low, high = (tf.cast(end(pixels, (0, 1)), tf.float64)[:, None] for end in (tf.reduce_min, tf.reduce_max))
    levels = tf.range(_LEVELS, dtype=tf.float64)
    scale = tf.math.divide_no_nan(tf.constant(255.0, tf.float64), high - low)
    stretched = tf.clip_by_value(levels * scale + -low * scale, 0.0, 255.0)
    return _look_up(pixels, tf.where(high > low, stretched, levels))


def equalize(pixels: tf.Tensor) -> tf.Tensor:
    """Each channel's levels spread so that all are about as frequent (ImageOps.equalize); one with too few stays."""
    ordinals = tf.cast(pixels, tf.int32) + tf.range(3) * _LEVELS
    histogram = tf.math.bincount(tf.reshape(ordinals, [-1]), minlength=3 * _LEVELS, maxlength=3 * _LEVELS)
    histogram = tf.reshape(histogram, [3, _LEVELS])
    brightest = tf.cast(tf.reduce_max(pixels, (0, 1)), tf.int32)
    of_brightest = tf.gather(histogram, brightest[:, None], batch_dims=1)  # (3, 1)
    step = (tf.reduce_sum(histogram, 1, keepdims=True) - of_brightest) // 255
    spread = (tf.cumsum(histogram, 1, exclusive=True) + step // 2) // tf.maximum(step, 1)
    return _look_up(pixels, tf.where(step > 0, tf.minimum(spread, 255), tf.range(_LEVELS)))


def invert(pixels: tf.Tensor) -> tf.Tensor:
    """Negative (ImageOps.invert)."""
    return 255 - pixels


def posterize(pixels: tf.Tensor, bits: Any) -> tf.Tensor:
    """Only the `bits` highest bits of each value kept, 0 to 8 (ImageOps.posterize); 0 is black."""
    mask = _LEVELS - tf.bitwise.left_shift(1, 8 - tf.cast(bits, tf.int32))
    return tf.bitwise.bitwise_and(pixels, tf.cast(mask, tf.uint8))


def solarize(pixels: tf.Tensor, threshold: Any) -> tf.Tensor:
    """Values from `threshold` on, 0 to 256, turned negative (ImageOps.solarize)."""
    return tf.where(tf.cast(pixels, tf.int32) < tf.cast(threshold, tf.int32), pixels, 255 - pixels)


def solarize_add(pixels: tf.Tensor, amount: Any) -> tf.Tensor:
    """Values below 128 raised by `amount`, 0 to 255, at most to 255 (Cubuk et al., 2019, arXiv 1909.13719)."""
    values = tf.cast(pixels, tf.int32)
    raised = tf.minimum(values + tf.cast(amount, tf.int32), 255)
    return tf.cast(tf.where(values < 128, raised, values), tf.uint8)


def color(pixels: tf.Tensor, factor: Any) -> tf.Tensor:
    """From grey at 0 through the picture at 1 to stronger colours (ImageEnhance.Color)."""
    return _blend(_grey(pixels), pixels, factor)


def contrast(pixels: tf.Tensor, factor: Any) -> tf.Tensor:
    """From its mean grey at 0 through the picture at 1 to stronger contrast (ImageEnhance.Contrast)."""
    grey = _grey(pixels)
    mean = tf.cast(tf.reduce_sum(tf.cast(grey, tf.int64)), tf.float64) / tf.cast(tf.size(grey), tf.float64)
    return _blend(tf.floor(mean + 0.5), pixels, factor)


def brightness(pixels: tf.Tensor, factor: Any) -> tf.Tensor:
    """From black at 0 through the picture at 1 to brighter (ImageEnhance.Brightness)."""
    return _blend(0.0, pixels, factor)


def sharpness(pixels: tf.Tensor, factor: Any) -> tf.Tensor:
    """From blurred by a 3 x 3 kernel at 0 through the picture at 1 to sharper (ImageEnhance.Sharpness)."""
    kernel = tf.reshape(tf.constant([1, 1, 1, 1, 5, 1, 1, 1, 1], tf.float32), [3, 3, 1, 1])
    sums = tf.nn.depthwise_conv2d(
        tf.cast(pixels[None], tf.float32), tf.tile(kernel, [1, 1, 3, 1]), [1, 1, 1, 1], padding="SAME"
    )[0]
    # Pillow leaves the outermost pixels as they are, and all of a picture smaller than the kernel.
    height, width = tf.unstack(tf.shape(pixels)[:2])
    rows, columns = tf.range(height)[:, None, None], tf.range(width)[None, :, None]
    inner = (rows > 0) & (rows < height - 1) & (columns > 0) & (columns < width - 1)
    return _blend(tf.where(inner, tf.floor(sums / 13.0 + 0.5), tf.cast(pixels, tf.float32)), pixels, factor)


def shear_x(pixels: tf.Tensor, factor: Any, fill: tuple[int, int, int], bicubic: Any) -> tf.Tensor:
    """Every row moved to the left by `factor` pixels per row (Image.transform); for `fill`, `bicubic` see `affine`."""
    return affine(pixels, (1.0, factor, 0.0, 0.0, 1.0, 0.0), fill, bicubic)


def shear_y(pixels: tf.Tensor, factor: Any, fill: tuple[int, int, int], bicubic: Any) -> tf.Tensor:
    """Every column moved up by `factor` pixels per column (Image.transform)."""
    return affine(pixels, (1.0, 0.0, 0.0, factor, 1.0, 0.0), fill, bicubic)


def translate_x(pixels: tf.Tensor, share: Any, fill: tuple[int, int, int], bicubic: Any) -> tf.Tensor:
    """Moved to the left by that share of its width (Image.transform)."""
    distance = share * tf.cast(tf.shape(pixels)[1], tf.float64)
    return affine(pixels, (1.0, 0.0, distance, 0.0, 1.0, 0.0), fill, bicubic)


def translate_y(pixels: tf.Tensor, share: Any, fill: tuple[int, int, int], bicubic: Any) -> tf.Tensor:
    """Moved up by that share of its height (Image.transform)."""
    distance = share * tf.cast(tf.shape(pixels)[0], tf.float64)
    return affine(pixels, (1.0, 0.0, 0.0, 0.0, 1.0, distance), fill, bicubic)


def rotate(pixels: tf.Tensor, degrees: Any, fill: tuple[int, int, int], bicubic: Any) -> tf.Tensor:
    """Turned counter-clockwise about its middle (Image.rotate)."""
    angle = tf.cast(degrees, tf.float64) * (math.pi / 180)
    cosine, sine = tf.cos(angle), tf.sin(angle)
    middle_y, middle_x = (tf.cast(length, tf.float64) / 2 for length in tf.unstack(tf.shape(pixels)[:2]))
    shift_x = middle_x - (cosine * middle_x - sine * middle_y)
    shift_y = middle_y - (sine * middle_x + cosine * middle_y)
    return affine(pixels, (cosine, -sine, shift_x, sine, cosine, shift_y), fill, bicubic)


def affine(pixels: tf.Tensor, matrix: tuple[Any, ...], fill: tuple[int, int, int], bicubic: Any) -> tf.Tensor:
    """Image.transform with AFFINE, the size kept.

    Args:
        pixels: uint8 (H, W, 3).
        matrix: (a, b, c, d, e, f): the result at x, y is the picture at a x + b y + c, d x + e y + f, in pixels from
            the top left corner.
        fill: the colour of what lies outside the picture.
        bicubic: bool, a tensor or not: whether to interpolate bicubically rather than bilinearly.
    """
    a, b, c, d, e, f = (tf.cast(entry, tf.float64) for entry in matrix)
    height, width = tf.unstack(tf.shape(pixels)[:2])
    x = tf.range(width, dtype=tf.float64)[None, :] + 0.5
    y = tf.range(height, dtype=tf.float64)[:, None] + 0.5
    source_x, source_y = a * x + b * y + c, d * x + e * y + f  # (H, W)
    inside = (source_x >= 0) & (source_x < tf.cast(width, tf.float64))
    inside &= (source_y >= 0) & (source_y < tf.cast(height, tf.float64))

    def bilinear() -> tf.Tensor:
        # TensorFlow counts from the middle of the first pixel.
        shift_x, shift_y = c + 0.5 * (a + b - 1.0), f + 0.5 * (d + e - 1.0)
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=tf.cast(pixels[None], tf.float32),
            transforms=tf.cast(tf.stack([a, b, shift_x, d, e, shift_y, 0.0, 0.0])[None], tf.float32),
            output_shape=tf.stack([height, width]),
            fill_value=0.0,
            interpolation="BILINEAR",
            fill_mode="NEAREST",
        )[0]

    moved = tf.cond(tf.convert_to_tensor(bicubic), lambda: _bicubic(pixels, source_x, source_y), bilinear)
    moved = tf.cast(tf.clip_by_value(moved, 0.0, 255.0), tf.uint8)  # cut off, not rounded, as Pillow does
    return tf.where(inside[..., None], moved, tf.constant(fill, tf.uint8))


def _bicubic(pixels: tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """The picture at points x, y (H, W), float64 pixels, by Pillow's cubic of transformations, a = -1 -> (H, W, 3)."""
    around = tf.range(-1, 3)

    def neighbours(place: tf.Tensor, length: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        before = tf.floor(place - 0.5)
        taps = tf.clip_by_value(tf.cast(before, tf.int32)[..., None] + around, 0, length - 1)
        return taps, tf.cast(place - 0.5 - before, tf.float32)[..., None]

    def cubic(values: tf.Tensor, way: tf.Tensor) -> tf.Tensor:
        # In this form, not as a weighted sum: equal values give themselves, without rounding.
        first, second, third, fourth = tf.unstack(values, axis=2)
        slope, bend = third - first, 2.0 * (first - second) + third - fourth
        return second + way * (slope + way * (bend + way * (second - first + fourth - third)))

    height, width = tf.unstack(tf.shape(pixels)[:2])
    columns, across = neighbours(x, width)  # (H, W, 4), (H, W, 1)
    rows, down = neighbours(y, height)
    flat = tf.reshape(tf.cast(pixels, tf.float32), [-1, 3])
    lines = [tf.gather(flat, row[..., None] * width + columns) for row in tf.unstack(rows, axis=2)]  # (H, W, 4, 3) each
    return cubic(tf.stack([cubic(line, across) for line in lines], 2), down)


def _look_up(pixels: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
    """Each channel's values replaced by those of its row of the table (3, 256), cut off to whole numbers."""
    ordinals = tf.cast(pixels, tf.int32) + tf.range(3) * _LEVELS
    return tf.gather(tf.reshape(tf.cast(table, tf.uint8), [-1]), ordinals)


def _grey(pixels: tf.Tensor) -> tf.Tensor:
    """Pillow's grey of RGB: float32 (H, W, 1), whole numbers."""
    weighted = tf.reduce_sum(tf.cast(pixels, tf.int32) * tf.constant(_GREY), -1, keepdims=True)
    return tf.cast(tf.bitwise.right_shift(weighted + 2**15, 16), tf.float32)


def _blend(start: Any, pixels: tf.Tensor, factor: Any) -> tf.Tensor:
    """Image.blend: from `start`, whole numbers that broadcast to the picture, at 0 to the picture at 1 and beyond."""
    start = tf.cast(start, tf.float32)
    mixed = start + tf.cast(factor, tf.float32) * (tf.cast(pixels, tf.float32) - start)
    return tf.cast(tf.clip_by_value(mixed, 0.0, 255.0), tf.uint8)
