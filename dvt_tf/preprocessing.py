"""Image files to model input, in the graph: one definition for training, commands, page and server.

Three steps, each public: `decode_image` (a file's bytes -> its pixels), `crop_pixels` (those -> the pixels the model
sees) and `normalise` (these -> model input). `decode_and_crop` is the first two for a batch of files, `preprocess` all
three. Everything is TensorFlow, so it runs alike in Python, inside `tf.function` and `tf.data`, and in a SavedModel,
and it gives the pixels that Pillow gives.

What is decoded: JPEG (CMYK too), PNG (all kinds; 16-bit scaled), BMP (8, 24 and 32 bits a pixel, uncompressed) and the
first frame of a GIF. An EXIF orientation (JPEG; PNG where it stands before the pixels) is applied, transparency is laid
on white, grey becomes RGB, colour profiles are ignored. `image_files` turns other formats into PNG.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from dvt_tf import image_header as header
from dvt_tf.tracing import TracedLater

MAX_PIXELS = header.MAX_PIXELS

# How many images are decoded at once: each may hold 64 million pixels, so this bounds memory, not only threads.
_PARALLEL_DECODES = 8
_FEW = 4  # images, for which a graph is not worth tracing the first times

# Kernel of TensorFlow's resize and its radius in pixels; both kernels are the ones Pillow has under these names.
_KERNELS = {"bilinear": ("triangle", 1.0), "bicubic": ("keyscubic", 2.0)}


@dataclass(frozen=True)
class PreprocessingSettings:
    """The `preprocessing` entry of a card: sides in pixels, mean and deviation for pixels scaled to [0, 1]."""

    image_size: int
    resize_short_side: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def from_card(cls, card: Mapping[str, Any]) -> PreprocessingSettings:
        """Read and check a card; raises ValueError naming the entry that is missing or wrong."""
        if "preprocessing" not in card:
            raise ValueError("the card has no 'preprocessing' entry")
        entry = card["preprocessing"]
        missing = [name for name in cls.__dataclass_fields__ if name not in entry]
        if missing:
            raise ValueError(f"the card's preprocessing lacks {', '.join(missing)}")
        settings = cls(
            image_size=_side(entry["image_size"], "image_size"),
            resize_short_side=_side(entry["resize_short_side"], "resize_short_side"),
            interpolation=str(entry["interpolation"]),
            mean=_three(entry["mean"], "mean"),
            std=_three(entry["std"], "std"),
        )
        if settings.interpolation not in _KERNELS:
            raise ValueError(
                f"the card's interpolation is {settings.interpolation!r}; it can be {' or '.join(_KERNELS)}"
            )
        if not 1 <= settings.image_size <= settings.resize_short_side:
            raise ValueError(
                f"the card's resize_short_side ({settings.resize_short_side}) must be at least its "
                f"image_size ({settings.image_size}), and both at least 1"
            )
        if min(settings.std) <= 0:
            raise ValueError(f"the card's std is {settings.std}; each value must be above 0")
        return settings


def preprocess(image_bytes: Any, card: Mapping[str, Any]) -> tuple[tf.Tensor, tf.Tensor]:
    """Decode, resize, crop and normalise a batch of image files.

    Args:
        image_bytes: strings (B,), the files' contents.
        card: a model's card; its `preprocessing` entry is what is applied.

    Returns:
        images: float32 (B, S, S, 3), normalised; zeros where a row is no image that can be read.
        valid: bool (B,). False for a row that is empty, truncated, damaged, of another format, or declares more than
            64 million pixels. Such a row never raises and never changes its neighbours.
    """
    pixels, valid = decode_and_crop(image_bytes, card)
    images = normalise(pixels, card)
    return tf.where(valid[:, None, None, None], images, tf.zeros_like(images)), valid


def decode_and_crop(image_bytes: Any, card: Mapping[str, Any]) -> tuple[tf.Tensor, tf.Tensor]:
    """The very pixels the model sees: strings (B,) -> whole-numbered float32 (B, S, S, 3), 0..255; valid bool (B,)."""
    image_bytes = tf.convert_to_tensor(image_bytes, tf.string)
    if image_bytes.shape.rank not in (None, 1):
        raise ValueError(f"image_bytes must be a batch of strings, shape (B,); got shape {image_bytes.shape}")
    are_few = tf.executing_eagerly() and len(image_bytes) <= _FEW
    return _decode_and_crop_function(PreprocessingSettings.from_card(card))(image_bytes, is_small=are_few)


def _decode_few(image_bytes: tf.Tensor, settings: PreprocessingSettings) -> tuple[tf.Tensor, tf.Tensor]:
    """As the batch function, row by row and without a graph, which takes seconds to trace."""
    rows, valid, shape = [], [], [settings.image_size, settings.image_size, 3]
    for one in image_bytes:
        try:
            with tf.device("/CPU:0"):
                pixels, readable = decode_image(one)
                cropped, is_valid = _resize_and_crop(pixels, settings), bool(readable)
        except tf.errors.InvalidArgumentError:
            is_valid = False
        rows.append(cropped if is_valid else tf.zeros(shape))
        valid.append(is_valid)
    return tf.stack(rows) if rows else tf.zeros([0, *shape]), tf.constant(valid, tf.bool, [len(valid)])


def crop_pixels(pixels: tf.Tensor, card: Mapping[str, Any]) -> tf.Tensor:
    """One picture already decoded, uint8 (H, W, 3) -> the pixels the model sees: float32 (S, S, 3), 0..255."""
    return _resize_and_crop(pixels, PreprocessingSettings.from_card(card))


def normalise(pixels: Any, card: Mapping[str, Any]) -> tf.Tensor:
    """Pixels of 0..255 (any number type, last axis RGB) -> float32 of the same shape: (pixels / 255 - mean) / std."""
    settings = PreprocessingSettings.from_card(card)
    # As one product and one sum, which no graph optimiser rewrites: the same bits in Python and in a SavedModel.
    scale = [1 / (255 * std) for std in settings.std]
    offset = [-mean / std for mean, std in zip(settings.mean, settings.std)]
    return tf.cast(pixels, tf.float32) * tf.constant(scale, tf.float32) + tf.constant(offset, tf.float32)


def resize_window(
    pixels: tf.Tensor, resized: tuple[Any, Any], start: tuple[Any, Any], size: int, interpolation: str
) -> tf.Tensor:
    """A square window of the resized picture, antialiased; black where it reaches over the border.

    Only what is under the window is computed: a picture of 1 x 60,000 needs no more memory than any other.

    Args:
        pixels: uint8 (H, W, 3). resized: height and width that the whole picture would be resized to.
        start: top and left of the window in the resized picture. size: the window's side. interpolation: the kernel.

    Returns:
        float32 (size, size, 3), whole numbers 0..255.
    """
    kernel, radius = _KERNELS[interpolation]
    offsets, lengths, scales, translations = [], [], [], []
    for length, target, begin in zip(tf.unstack(tf.shape(pixels, tf.int64)[:2]), resized, start, strict=True):
        begin = tf.cast(begin, tf.float64)
        scale = tf.cast(target, tf.float64) / tf.cast(length, tf.float64)
        margin = radius * tf.maximum(1.0 / scale, 1.0) + 1
        first = tf.maximum(tf.cast(tf.floor(begin / scale - margin), tf.int64), 0)
        end = tf.minimum(tf.cast(tf.math.ceil((begin + size) / scale + margin), tf.int64), length)
        offsets.append(first)
        lengths.append(end - first)
        scales.append(tf.cast(scale, tf.float32))
        translations.append(tf.cast(tf.cast(first, tf.float64) * scale - begin, tf.float32))
    window = tf.slice(pixels, tf.stack([*offsets, 0]), tf.stack([*lengths, 3]))

    def pass_over(window: tf.Tensor, height: Any, width: Any, scale: list[Any], translation: list[Any]) -> tf.Tensor:
        resized = tf.raw_ops.ScaleAndTranslate(
            images=window,
            size=tf.cast(tf.stack([height, width]), tf.int32),
            scale=tf.stack(scale),
            translation=tf.stack(translation),
            kernel_type=kernel,
            antialias=True,
        )
        return tf.clip_by_value(tf.round(resized), 0.0, 255.0)

    # Across, then down, with whole grey levels in between, as Pillow does it: a bicubic overshoot is cut in each.
    across = pass_over(window[None], lengths[0], size, [1.0, scales[1]], [0.0, translations[1]])
    return tf.ensure_shape(pass_over(across, size, size, [scales[0], 1.0], [translations[0], 0.0])[0], [size, size, 3])


def decode_image(image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """One file, a scalar string -> pixels uint8 (H, W, 3), upright and opaque, and whether it is one we read: bool ().

    A file that its header rules out (another format, too large) gives a black pixel and False, and is never decoded;
    one that proves damaged while being decoded raises tf.errors.InvalidArgumentError, which `decode_and_crop` contains.
    """
    data = tf.io.decode_raw(image_bytes, tf.uint8)
    pixels, readable = tf.case(
        [
            (header.is_jpeg(image_bytes), lambda: _decode_jpeg(image_bytes, data)),
            (header.is_png(image_bytes), lambda: _decode_png(image_bytes, data)),
            (header.is_bmp(image_bytes), lambda: _decode_bmp(data)),
            (header.is_gif(image_bytes), lambda: _decode_gif(image_bytes, data)),
        ],
        default=_unreadable,
    )
    pixels.set_shape([None, None, 3])
    return pixels, readable


def decode_image_or_nothing(
    source: tf.Tensor, read: Callable[[tf.Tensor], tf.Tensor] = tf.identity
) -> tuple[tf.Tensor, tf.Tensor]:
    """`decode_image` that never raises, for `tf.data`: what is damaged too gives a black pixel and False.

    `read` turns `source` into the file's contents; where that fails, there is no image either.
    """
    # An operation that fails is an error that TensorFlow cannot catch but here.
    decode = tf.autograph.experimental.do_not_convert(lambda source: _decode_image_function()(read(source)))
    attempt = tf.data.Dataset.from_tensors(source).map(decode).ignore_errors()
    return attempt.concatenate(tf.data.Dataset.from_tensors(_unreadable())).take(1).get_single_element()


@functools.cache
def _decode_image_function() -> Any:
    """`decode_image`, traced once however often it is used."""
    return tf.function(decode_image, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)


@functools.lru_cache(maxsize=16)
def _decode_and_crop_function(settings: PreprocessingSettings) -> Any:
    """The batch function for these settings, traced once however often it is called."""
    size = settings.image_size

    @tf.autograph.experimental.do_not_convert
    def row(index: tf.Tensor, image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        pixels, readable = decode_image(image_bytes)
        return index, _resize_and_crop(pixels, settings), readable

    def decode_batch(image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.device("/CPU:0"):
            count = tf.size(image_bytes, out_type=tf.int64)
            # A failed decode is an error TensorFlow cannot catch, except here: `ignore_errors` drops that row, and the
            # indices of those that stay say where they belong. One row always stays, so there is always a batch.
            last = tf.data.Dataset.from_tensors((count, tf.zeros([size, size, 3]), False))
            rows = tf.data.Dataset.from_tensor_slices((tf.range(count), image_bytes))
            rows = rows.map(row, num_parallel_calls=_PARALLEL_DECODES, deterministic=False).ignore_errors()
            indices, pixels, readable = rows.concatenate(last).batch(count + 1).get_single_element()
            pixels = tf.where(readable[:, None, None, None], pixels, 0.0)
            shape = tf.stack([count + 1, size, size, 3])
            pixels = tf.scatter_nd(indices[:, None], pixels, shape)[:count]
            valid = tf.scatter_nd(indices[:, None], tf.cast(readable, tf.int32), shape[:1])[:count] > 0
        return tf.ensure_shape(pixels, [None, size, size, 3]), tf.ensure_shape(valid, [None])

    few = functools.partial(_decode_few, settings=settings)
    return TracedLater(decode_batch, [tf.TensorSpec([None], tf.string)], eager_calls=2, eagerly=few)


def _resize_and_crop(pixels: tf.Tensor, settings: PreprocessingSettings) -> tf.Tensor:
    """uint8 (H, W, 3) -> whole-numbered float32 (S, S, 3): short side resized, antialiased, then the centre cut out."""
    height, width = tf.unstack(tf.shape(pixels, tf.int64)[:2])
    short = tf.minimum(height, width)
    high, wide = (settings.resize_short_side * length // short for length in (height, width))
    # Python's and torchvision's rounding of the half pixel: to even.
    top, left = (tf.round(tf.cast(resized - settings.image_size, tf.float64) / 2) for resized in (high, wide))
    return resize_window(pixels, (high, wide), (top, left), settings.image_size, settings.interpolation)


def _unreadable() -> tuple[tf.Tensor, tf.Tensor]:
    return tf.zeros([1, 1, 3], tf.uint8), tf.constant(False)


def _decode_if(readable: tf.Tensor, decode: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Run `decode` (-> uint8 (H, W, 3)) only for a header that allows it."""
    return tf.cond(readable, lambda: (decode(), tf.constant(True)), _unreadable)


def _decode_jpeg(image_bytes: tf.Tensor, data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    # libjpeg's own reading of the header, so that the limit is tested on the very size it would decode.
    height, width = tf.unstack(tf.cast(tf.io.extract_jpeg_shape(image_bytes), tf.int64)[:2])

    def decode() -> tf.Tensor:
        # INTEGER_ACCURATE is Pillow's choice; a truncated file is refused, not filled with grey.
        pixels = tf.io.decode_jpeg(image_bytes, channels=3, dct_method="INTEGER_ACCURATE", try_recover_truncated=False)
        return _upright(pixels, header.jpeg_orientation(data))

    return _decode_if(header.size_allowed(height, width), decode)


def _decode_png(image_bytes: tf.Tensor, data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    png = header.png_header(data)

    def decode() -> tf.Tensor:
        # Without transparency, three channels: asked for a fourth, TensorFlow fills it wrongly below 8 bits a sample.
        def eight_bits() -> tf.Tensor:
            return tf.cond(
                png.has_alpha,
                lambda: _on_white(tf.io.decode_png(image_bytes, channels=4)),
                lambda: tf.io.decode_png(image_bytes, channels=3),
            )

        def sixteen_bits() -> tf.Tensor:
            return tf.cond(
                png.has_alpha,
                lambda: _on_white(_to_eight_bits(tf.io.decode_png(image_bytes, channels=4, dtype=tf.uint16))),
                lambda: _to_eight_bits(tf.io.decode_png(image_bytes, channels=3, dtype=tf.uint16)),
            )

        return _upright(tf.cond(tf.equal(png.bit_depth, 16), sixteen_bits, eight_bits), png.orientation)

    return _decode_if(png.complete & header.size_allowed(png.height, png.width), decode)


def _decode_bmp(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    # Read here, not by tf.io.decode_bmp, which takes palette indices for grey levels and every fourth byte for alpha.
    bmp = header.bmp_header(data)

    def decode() -> tf.Tensor:
        rows = data[bmp.offset : bmp.offset + bmp.row_bytes * bmp.height]
        rows = tf.reshape(rows, tf.stack([bmp.height, bmp.row_bytes]))
        channels = bmp.bits // 8
        samples = tf.reshape(rows[:, : bmp.width * channels], tf.stack([bmp.height, bmp.width, channels]))
        samples = tf.cond(bmp.bottom_up, lambda: tf.reverse(samples, [0]), lambda: samples)
        # An index past the end of the palette makes the gather fail: a damaged file.
        return tf.case(
            [
                (
                    tf.equal(bmp.bits, 8),
                    lambda: tf.gather(header.bmp_palette(data, bmp), tf.cast(samples[..., 0], tf.int32)),
                ),
                (bmp.has_alpha, lambda: _on_white(tf.gather(samples, [2, 1, 0, 3], axis=-1))),
            ],
            default=lambda: tf.reverse(samples[..., :3], [-1]),
        )

    return _decode_if(bmp.readable & header.size_allowed(bmp.height, bmp.width), decode)


def _decode_gif(image_bytes: tf.Tensor, data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    gif = header.gif_header(data)

    def decode() -> tf.Tensor:
        pixels = tf.io.decode_gif(header.gif_first_frame(image_bytes, gif))[0]
        # Where the first frame leaves its canvas bare, the canvas is transparent: white.
        below, right = gif.height - gif.top - gif.frame_height, gif.width - gif.left - gif.frame_width
        return tf.pad(pixels, [[gif.top, below], [gif.left, right], [0, 0]], constant_values=255)

    return _decode_if(gif.complete & header.size_allowed(gif.height, gif.width), decode)


def _to_eight_bits(samples: tf.Tensor) -> tf.Tensor:
    """uint16 0..65535 -> uint8 0..255, rounded to nearest (65535 = 255 * 257); in 16 bits, for memory's sake."""
    return tf.cast((tf.minimum(samples, 65407) + 128) // 257, tf.uint8)


def _on_white(pixels: tf.Tensor) -> tf.Tensor:
    """uint8 (H, W, 4) -> (H, W, 3) over a white ground; no step leaves 16 bits: the sum is at most 255 * 255 + 127."""
    alpha = tf.cast(pixels[..., 3:], tf.uint16)
    white = tf.constant(255, tf.uint16)
    return tf.cast((tf.cast(pixels[..., :3], tf.uint16) * alpha + white * (white - alpha) + 127) // white, tf.uint8)


def _upright(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Undo an EXIF orientation 1..8: (H, W, 3) -> (H, W, 3), or (W, H, 3) from 5 on."""

    def is_one_of(*values: int) -> tf.Tensor:
        return tf.reduce_any(tf.equal(orientation, tf.constant(values, orientation.dtype)))

    def turn() -> tf.Tensor:
        turned = tf.cond(is_one_of(5, 6, 7, 8), lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
        turned = tf.cond(is_one_of(2, 3, 6, 7), lambda: tf.reverse(turned, [1]), lambda: turned)
        return tf.cond(is_one_of(3, 4, 7, 8), lambda: tf.reverse(turned, [0]), lambda: turned)

    return tf.cond(is_one_of(1), lambda: pixels, turn)


def _side(value: Any, name: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise ValueError(f"the card's {name} is {value!r}; it must be a number of pixels") from None


def _three(values: Any, name: str) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(value) for value in values)
    except (TypeError, ValueError):
        raise ValueError(f"the card's {name} is {values!r}; it must be three numbers") from None
    return red, green, blue
