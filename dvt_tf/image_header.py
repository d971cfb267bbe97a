"""What the first bytes of an image file say, read in the graph before anything is decoded: format, size, orientation.

All positions and values are int64. Reading past the end of a file gives zeros, so that a header cut short ends as a
size of zero, a loop that stops, or a block that never closes: never as an error.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

MAX_PIXELS = 64_000_000  # the one limit for the graph, the commands and the page

# More blocks than this before the pixels is no picture that anyone made, and each costs a step of a loop.
_MAX_BLOCKS = 10_000

_EXIF_ORIENTATION = 0x0112


class PngHeader(NamedTuple):
    """Scalars: `complete` is whether the pixels were reached; `has_alpha` is also true of a transparent colour."""

    width: tf.Tensor
    height: tf.Tensor
    bit_depth: tf.Tensor
    has_alpha: tf.Tensor
    orientation: tf.Tensor
    complete: tf.Tensor


class BmpHeader(NamedTuple):
    """Scalars: where the pixels start, how they lie, and whether they are of a kind the graph reads and all there."""

    width: tf.Tensor
    height: tf.Tensor
    bits: tf.Tensor
    offset: tf.Tensor
    row_bytes: tf.Tensor
    bottom_up: tf.Tensor
    has_alpha: tf.Tensor
    palette_start: tf.Tensor
    palette_size: tf.Tensor
    readable: tf.Tensor


class GifHeader(NamedTuple):
    """Scalars: the canvas, the first frame on it, and where the bytes of that frame are; `transparent` is -1 for none.

    The canvas is as large as the file says, or larger where the frame reaches beyond it.
    """

    width: tf.Tensor
    height: tf.Tensor
    left: tf.Tensor
    top: tf.Tensor
    frame_width: tf.Tensor
    frame_height: tf.Tensor
    palette_end: tf.Tensor  # of the canvas's palette, which begins at 13
    frame_start: tf.Tensor
    frame_end: tf.Tensor
    table_start: tf.Tensor  # of the palette the frame uses
    table_size: tf.Tensor
    transparent: tf.Tensor
    complete: tf.Tensor


def is_jpeg(image_bytes: tf.Tensor) -> tf.Tensor:
    """Whether a scalar string begins as a JPEG does."""
    return _starts_with(image_bytes, b"\xff\xd8\xff")


def is_png(image_bytes: tf.Tensor) -> tf.Tensor:
    """Whether a scalar string begins as a PNG does."""
    return _starts_with(image_bytes, b"\x89PNG\r\n\x1a\n")


def is_bmp(image_bytes: tf.Tensor) -> tf.Tensor:
    """Whether a scalar string begins as a BMP does."""
    return _starts_with(image_bytes, b"BM")


def is_gif(image_bytes: tf.Tensor) -> tf.Tensor:
    """Whether a scalar string begins as a GIF does."""
    return _starts_with(image_bytes, b"GIF87a") | _starts_with(image_bytes, b"GIF89a")


def size_allowed(height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """Whether a declared size is a picture, and of at most `MAX_PIXELS`; no product is formed that could overflow."""
    return (height > 0) & (width > 0) & (height <= MAX_PIXELS // tf.maximum(width, 1))


def jpeg_orientation(data: tf.Tensor) -> tf.Tensor:
    """EXIF orientation, 1..8, of a JPEG's bytes uint8 (n,); 1 where there is none or it is damaged."""

    def going_on(position: tf.Tensor, orientation: tf.Tensor, blocks: tf.Tensor) -> tf.Tensor:
        marker = _number(data, position + 1, 1)
        at_pixels = _is(data, position, b"\xff") & (tf.equal(marker, 0xDA) | tf.equal(marker, 0xD9))
        return ~at_pixels & tf.equal(orientation, 0) & (position < _length(data)) & (blocks < _MAX_BLOCKS)

    def segment(position: tf.Tensor, orientation: tf.Tensor, blocks: tf.Tensor) -> tuple[tf.Tensor, ...]:
        marker = _number(data, position + 1, 1)
        is_exif = tf.equal(marker, 0xE1) & _is(data, position, b"\xff") & _is(data, position + 4, b"Exif\0\0")
        orientation = tf.cond(is_exif, lambda: _exif_orientation(data, position + 10), lambda: orientation)
        # As libjpeg does: whatever is no marker is stepped over; some markers stand alone; the rest carry a length.
        no_marker = ~_is(data, position, b"\xff") | tf.equal(marker, 0xFF)
        alone = tf.equal(marker, 0) | tf.equal(marker, 1) | ((marker >= 0xD0) & (marker <= 0xD8))
        length = 2 + tf.maximum(_number(data, position + 2, 2), 2)
        step = tf.where(no_marker, tf.constant(1, tf.int64), tf.where(alone, tf.constant(2, tf.int64), length))
        return position + step, orientation, blocks + 1

    start = (tf.constant(2, tf.int64), tf.constant(0, tf.int64), tf.constant(0))
    _, orientation, _ = tf.while_loop(going_on, segment, start)
    return tf.maximum(orientation, 1)


def png_header(data: tf.Tensor) -> PngHeader:
    """Size, depth, transparency and orientation of a PNG's bytes uint8 (n,), from its chunks before the pixels."""

    def going_on(position: tf.Tensor, found: tf.Tensor, orientation: tf.Tensor, blocks: tf.Tensor) -> tf.Tensor:
        return ~_is(data, position + 4, b"IDAT") & (position < _length(data)) & (blocks < _MAX_BLOCKS)

    def chunk(
        position: tf.Tensor, found: tf.Tensor, orientation: tf.Tensor, blocks: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        found |= _is(data, position + 4, b"tRNS")
        is_exif = _is(data, position + 4, b"eXIf") & (orientation < 2)
        orientation = tf.cond(
            is_exif, lambda: tf.maximum(_exif_orientation(data, position + 8), 1), lambda: orientation
        )
        return position + 12 + _number(data, position, 4), found, orientation, blocks + 1

    start = (tf.constant(8, tf.int64), tf.constant(False), tf.constant(1, tf.int64), tf.constant(0))
    position, has_transparency, orientation, _ = tf.while_loop(going_on, chunk, start)
    colour_type = _number(data, 25, 1)
    return PngHeader(
        width=_number(data, 16, 4),
        height=_number(data, 20, 4),
        bit_depth=_number(data, 24, 1),
        has_alpha=tf.equal(colour_type, 4) | tf.equal(colour_type, 6) | has_transparency,
        orientation=orientation,
        complete=_is(data, 12, b"IHDR") & _is(data, position + 4, b"IDAT"),
    )


def bmp_header(data: tf.Tensor) -> BmpHeader:
    """Layout of a BMP's bytes uint8 (n,). Readable: 8 bits with palette, 24, and 32 as BGRX or, with masks, BGRA."""

    def number(at: int, size: int) -> tf.Tensor:
        return _number(data, at, size, little=True)

    info_size = number(14, 4)
    width, signed_height = _signed(number(18, 4)), _signed(number(22, 4))
    bits, compression = number(28, 2), number(30, 4)
    # A fourth byte is alpha only where a mask says so; the masks stand at the same place in all headers that have them.
    masks_bgr = _is(data, 54, b"\0\0\xff\0\0\xff\0\0\xff\0\0\0")
    has_alpha = tf.equal(compression, 3) & (info_size >= 56) & _is(data, 66, b"\0\0\0\xff")
    other_alpha = tf.equal(compression, 3) & (info_size >= 56) & ~_is(data, 66, b"\0\0\0\0") & ~has_alpha
    plain = tf.equal(compression, 0) & (tf.equal(bits, 8) | tf.equal(bits, 24) | tf.equal(bits, 32))
    masked = tf.equal(compression, 3) & tf.equal(bits, 32) & masks_bgr & ~other_alpha
    height = tf.abs(signed_height)
    offset = number(10, 4)
    row_bytes = (bits * width + 31) // 32 * 4
    colours = number(46, 4)
    palette_size = tf.where((colours > 0) & (colours < 256), colours, tf.constant(256, tf.int64))
    enough = (width > 0) & (height > 0) & (row_bytes <= (_length(data) - offset) // tf.maximum(height, 1))
    return BmpHeader(
        width=width,
        height=height,
        bits=bits,
        offset=offset,
        row_bytes=row_bytes,
        bottom_up=signed_height > 0,
        has_alpha=has_alpha,
        palette_start=14 + info_size,
        palette_size=palette_size,
        readable=(info_size >= 40) & (offset >= 54) & (plain | masked) & enough,
    )


def bmp_palette(data: tf.Tensor, bmp: BmpHeader) -> tf.Tensor:
    """The palette of an 8-bit BMP: uint8 (colours, 3), RGB."""
    entries = bmp.palette_start + 4 * tf.range(bmp.palette_size)
    return tf.cast(tf.stack([_number(data, entries + channel, 1) for channel in (2, 1, 0)], axis=-1), tf.uint8)


def gif_header(data: tf.Tensor) -> GifHeader:
    """Canvas and first frame of a GIF's bytes uint8 (n,). Complete: that frame is all there, and something follows."""

    def number(at: Any, size: int) -> tf.Tensor:
        return _number(data, at, size, little=True)

    def table_size(flags: tf.Tensor) -> tf.Tensor:
        exponent = tf.bitwise.bitwise_and(flags, 7) + 1
        return tf.where(flags >= 128, tf.bitwise.left_shift(tf.constant(1, tf.int64), exponent), 0)

    def going_on(position: tf.Tensor, in_extension: tf.Tensor, transparent: tf.Tensor, blocks: tf.Tensor) -> tf.Tensor:
        return (in_extension | _is(data, position, b"\x21")) & (position < _length(data)) & (blocks < _MAX_BLOCKS)

    def block(
        position: tf.Tensor, in_extension: tf.Tensor, transparent: tf.Tensor, blocks: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        is_control = ~in_extension & _is(data, position + 1, b"\xf9")
        flagged = tf.equal(tf.bitwise.bitwise_and(number(position + 3, 1), 1), 1)
        named = tf.where(flagged, number(position + 6, 1), tf.constant(-1, tf.int64))
        # Inside an extension: a block of `size` bytes, or the empty one that ends it.
        size = number(position, 1)
        step = tf.where(in_extension, 1 + size, tf.constant(2, tf.int64))
        return position + step, ~in_extension | (size > 0), tf.where(is_control, named, transparent), blocks + 1

    palette_size = table_size(number(10, 1))
    palette_end = 13 + 3 * palette_size
    start = (palette_end, tf.constant(False), tf.constant(-1, tf.int64), tf.constant(0))
    frame_start, _, transparent, _ = tf.while_loop(going_on, block, start)
    local_size = table_size(number(frame_start + 9, 1))
    blocks_start = frame_start + 10 + 3 * local_size + 1
    is_frame = _is(data, frame_start, b"\x2c") & (blocks_start < _length(data))
    end = tf.cond(is_frame, lambda: _gif_blocks_end(data, blocks_start), lambda: _length(data))
    followed = _is(data, end, b"\x3b") | _is(data, end, b"\x21") | _is(data, end, b"\x2c")
    left, top = number(frame_start + 1, 2), number(frame_start + 3, 2)
    frame_width, frame_height = number(frame_start + 5, 2), number(frame_start + 7, 2)
    return GifHeader(
        width=tf.maximum(number(6, 2), left + frame_width),
        height=tf.maximum(number(8, 2), top + frame_height),
        left=left,
        top=top,
        frame_width=frame_width,
        frame_height=frame_height,
        palette_end=palette_end,
        frame_start=frame_start,
        frame_end=end,
        table_start=tf.where(local_size > 0, frame_start + 10, tf.constant(13, tf.int64)),
        table_size=tf.where(local_size > 0, local_size, palette_size),
        transparent=transparent,
        complete=is_frame & followed & (frame_width > 0) & (frame_height > 0),
    )


def gif_first_frame(image_bytes: tf.Tensor, gif: GifHeader) -> tf.Tensor:
    """A GIF, scalar string -> the same with its first frame alone, at the origin, its transparent colour made white.

    TensorFlow decodes every frame of an animation to give one, and gives black for what is transparent.
    """

    def part(string: tf.Tensor, start: Any, end: tf.Tensor) -> tf.Tensor:
        start = tf.cast(start, tf.int64)
        return tf.strings.substr(string, start, tf.cast(end, tf.int64) - start)

    canvas, frame = part(image_bytes, 0, gif.palette_end), part(image_bytes, gif.frame_start + 5, gif.frame_end)
    single = tf.strings.join([canvas, b"\x2c\0\0\0\0", frame, b"\x3b"])
    # Without the extensions a palette inside the frame lies earlier.
    shift = tf.where(gif.table_start > 13, gif.frame_start - gif.palette_end, tf.constant(0, tf.int64))
    colour = gif.table_start - shift + 3 * gif.transparent

    def whitened() -> tf.Tensor:
        rest = part(single, colour + 3, tf.strings.length(single))
        return tf.strings.join([part(single, 0, colour), b"\xff\xff\xff", rest])

    return tf.cond((gif.transparent >= 0) & (gif.transparent < gif.table_size), whitened, lambda: single)


def _gif_blocks_end(data: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    """Where the chain of blocks from `start` ends: just after its empty block, or the file's end if it has none.

    Every byte points to where the next block would be if one began there; squaring that map a few times follows the
    chain to its end in as many steps as its length has binary digits, where following it block by block takes
    thousands.
    """
    sizes = tf.cast(data[start:], tf.int32)
    count = tf.size(sizes)
    here = tf.range(count)
    following = tf.concat([tf.where(sizes > 0, tf.minimum(here + 1 + sizes, count), here), [count]], axis=0)
    (following,) = tf.while_loop(
        lambda follow: tf.not_equal(follow[follow[0]], follow[0]),
        lambda follow: (tf.gather(follow, follow),),
        (following,),
    )
    return tf.minimum(start + tf.cast(following[0], tf.int64) + 1, _length(data))


def _exif_orientation(data: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    """The orientation in the TIFF structure at `start`: 1..8, or 0 for none."""
    little = _is(data, start, b"II*\0")
    directory = start + _number(data, start + 4, 4, little)
    count = tf.minimum(_number(data, directory, 2, little), 1000)
    entries = directory + 2 + 12 * tf.range(count)
    matching = tf.equal(_number(data, entries, 2, little), _EXIF_ORIENTATION)
    entries = tf.boolean_mask(entries, matching)
    # A short in the entry's value field, as the standard wants; a long, as some programs write.
    is_long = tf.equal(_number(data, entries + 2, 2, little), 4)
    values = tf.where(is_long, _number(data, entries + 8, 4, little), _number(data, entries + 8, 2, little))
    value = tf.reduce_sum(values[:1])
    is_tiff = little | _is(data, start, b"MM\0*")
    return tf.where(is_tiff & (value >= 1) & (value <= 8), value, tf.constant(0, tf.int64))


def _starts_with(image_bytes: tf.Tensor, prefix: bytes) -> tf.Tensor:
    return tf.equal(tf.strings.substr(image_bytes, 0, len(prefix)), prefix)


def _length(data: tf.Tensor) -> tf.Tensor:
    return tf.size(data, out_type=tf.int64)


def _is(data: tf.Tensor, at: Any, expected: bytes) -> tf.Tensor:
    """Whether the bytes at scalar position `at` are these."""
    return tf.reduce_all(tf.equal(_bytes_at(data, at, len(expected)), tf.constant(list(expected), tf.int64)))


def _number(data: tf.Tensor, at: Any, size: int, little: Any = False) -> tf.Tensor:
    """Unsigned whole number of `size` bytes at each of the positions `at`, in their shape."""
    weights = tf.constant([256**power for power in range(size)], tf.int64)
    weights = tf.where(little, weights, tf.reverse(weights, [0]))
    return tf.reduce_sum(_bytes_at(data, at, size) * weights, axis=-1)


def _bytes_at(data: tf.Tensor, at: Any, size: int) -> tf.Tensor:
    """`size` bytes from each position on, int64 (..., size); zeros outside the file."""
    positions = tf.cast(at, tf.int64)[..., None] + tf.range(size, dtype=tf.int64)
    inside = (positions >= 0) & (positions < _length(data))
    found = tf.cast(tf.gather(data, tf.where(inside, positions, 0)), tf.int64)
    return tf.where(inside, found, 0)


def _signed(number: tf.Tensor) -> tf.Tensor:
    """The 32-bit pattern of an unsigned number, read as signed."""
    return tf.where(number >= 2**31, number - 2**32, number)
