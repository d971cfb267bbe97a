"""The edge where files come in: paths and Pillow images to the bytes that `preprocessing` decodes in the graph.

What the graph reads goes through byte for byte; whatever else Pillow reads (WebP, TIFF, palette BMP, ...) becomes a PNG
of the same pixels. A file's kind is told from its contents, never from its name. Colour profiles are ignored.
"""

from __future__ import annotations

import contextlib
import functools
import io
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from dvt_tf import preprocessing
from dvt_tf.tracing import TracedLater

# Endings that a folder is searched for; a path given by name may end as it likes.
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".avif"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico", ".jp2", ".dib"}
)

# How the files begin that the graph decodes whatever their kind; of BMP it decodes the common kinds.
_JPEG = b"\xff\xd8\xff"
GRAPH_FORMATS = (_JPEG, b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")

# What Pillow raises for a file it cannot read; SyntaxError is how its PNG reader reports a broken chunk. Its readers
# trust what they read in some places, whence the rest.
_PILLOW_ERRORS = (
    *(OSError, ValueError, SyntaxError, EOFError, TypeError, LookupError, ArithmeticError, AttributeError),
    *(RuntimeError, MemoryError, struct.error, zlib.error),
)


class ImageError(ValueError):
    """A file or picture that is no image we can read. The message names it and says what is wrong."""


def read_image_bytes(source: str | Path | BinaryIO) -> bytes:
    """Read one image file, a path or a file open for reading bytes -> bytes that `preprocessing` decodes.

    Raises:
        FileNotFoundError: there is no such path.
        ImageError: a folder, an empty or unreadable file, no image, a truncated or damaged one, or one of more than
            `preprocessing.MAX_PIXELS` pixels.
    """
    if isinstance(source, str | Path):
        name = str(source)
        path = Path(source)
        if path.is_dir():
            raise ImageError(f"{name}: is a folder, not an image file")
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise FileNotFoundError(f"{name}: no such file") from None
        except (OSError, ValueError) as error:  # ValueError: a name with a null byte in it
            raise ImageError(f"{name}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    else:
        name = str(getattr(source, "name", "the image"))
        data = source.read()
    return to_graph_bytes(data, name)


def to_graph_bytes(data: bytes, name: str = "the image") -> bytes:
    """A whole image file's contents -> bytes that `preprocessing` decodes: the same, or a PNG of the same pixels.

    Raises:
        ImageError: as `read_image_bytes` does; `name` is what the message calls it.
    """
    if not data:
        raise ImageError(f"{name}: is empty, not an image")
    if data.startswith(_JPEG):
        # libjpeg writes what it thinks of a damaged file straight to stderr when TensorFlow runs it, and not when
        # Pillow does.
        with _pillow_errors_named(name), _open(data) as image:
            _check_size(image.size, name)
            image.load()
    if _graph_decodes(data):
        return data
    with _pillow_errors_named(name), _open(data) as image:
        _check_size(image.size, name)
        # Of its own formats the graph's word is final, so that the server takes the same files; of BMP it reads the
        # common kinds alone.
        if data.startswith(GRAPH_FORMATS):
            raise ImageError(f"{name}: is a damaged or truncated {image.format} file")
        return image_bytes_from_pil(image, name)


def image_bytes_from_pil(image: Image.Image, name: str = "the image") -> bytes:
    """A Pillow image of any mode -> PNG bytes with the same pixels, upright by its EXIF orientation.

    Sixteen-bit greys keep their bits. Modes wider than that have no range of their own: `I` is taken as 16-bit
    (0..65535), `F` as 0..1, 0..255 or 0..65535, the smallest of them that holds all its values.

    Raises:
        ImageError: no pixels or more than `preprocessing.MAX_PIXELS`, values outside those ranges, a truncated file
            behind the image, or a mode Pillow cannot turn into RGB; `name` is what the message calls it.
    """
    _check_size(image.size, name)
    buffer = io.BytesIO()
    with _pillow_errors_named(name):
        plain = _plain_mode(ImageOps.exif_transpose(image), name)
        # Without the metadata, which is done with; and quickly, as nobody keeps the file.
        plain.save(buffer, "PNG", compress_level=1, exif=b"", icc_profile=None)
    return buffer.getvalue()


def list_image_files(paths: Iterable[str | Path]) -> list[Path]:
    """Expand folders (not their subfolders) into the image files in them, by name; files named stay as they are.

    Raises:
        FileNotFoundError: a path that does not exist.
        ImageError: a folder with no image file in it.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(entry for entry in path.iterdir() if entry.is_file() and is_image_name(entry))
            if not found:
                raise ImageError(f"{path}: the folder holds no image file ({', '.join(sorted(IMAGE_SUFFIXES))})")
            files += found
        elif path.exists():
            files.append(path)
        else:
            raise FileNotFoundError(f"{path}: no such file or folder")
    return files


def is_image_name(path: Path) -> bool:
    """Whether a name found in a folder is that of an image: a known ending, and not hidden."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def _open(data: bytes) -> Image.Image:
    """Pillow's view of a file, by every reader but that of EPS, which would have Ghostscript run the file."""
    return Image.open(io.BytesIO(data), formats=_pillow_formats())


@functools.cache
def _pillow_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(kind for kind in Image.ID if kind != "EPS")


@contextlib.contextmanager
def _pillow_errors_named(name: str) -> Iterator[None]:
    """Whatever Pillow says of a file, as one ImageError that names it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # odd metadata: nothing to tell the person who brought the file
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            yield
        except ImageError:
            raise
        except Image.UnidentifiedImageError:
            raise ImageError(f"{name}: is not an image, or a damaged or truncated one") from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise ImageError(_too_large(name)) from None
        except _PILLOW_ERRORS as error:
            detail = (str(error).strip().splitlines() or [type(error).__name__])[0]
            detail = "" if "truncated" in detail.lower() else f" ({detail})"
            raise ImageError(f"{name}: is a damaged or truncated image{detail}") from error


def _is_readable(image_bytes: tf.Tensor) -> tf.Tensor:
    pixels, readable = preprocessing.decode_image(image_bytes)
    return readable & (tf.size(pixels) > 0)  # so that decoding is part of the answer


_readable_in_graph = TracedLater(_is_readable, [tf.TensorSpec([], tf.string)], eager_calls=8)


def _graph_decodes(data: bytes) -> bool:
    """The graph's own verdict on a file, so that what is let in here is what gives a valid row there."""
    try:
        with tf.device("/CPU:0"):
            return bool(_readable_in_graph(tf.constant(data)))
    except tf.errors.InvalidArgumentError:  # what TensorFlow's decoders say of a damaged file
        return False


def _plain_mode(image: Image.Image, name: str) -> Image.Image:
    """A mode that PNG stores and the graph reads: 8-bit grey, RGB and RGBA, or 16-bit grey."""
    if image.mode.startswith("I;16"):
        return Image.fromarray(np.asarray(image).astype(np.uint16))
    if image.mode in ("I", "F"):
        return _sixteen_bit_grey(np.asarray(image), name)
    if image.mode == "La":  # grey times alpha, which Pillow turns into nothing else
        image = image.convert("LA")
    if image.mode in ("P", "PA", "LA", "RGBa", "RGBA") or "transparency" in image.info:
        return image.convert("RGBA")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _sixteen_bit_grey(values: np.ndarray, name: str) -> Image.Image:
    """Whole or real numbers (H, W) -> a 16-bit grey image, scaled and never clipped."""
    lowest, highest = float(values.min()), float(values.max())
    if not (lowest >= 0 and highest <= 65535):  # NaN fails this too
        raise ImageError(f"{name}: has grey values from {lowest:g} to {highest:g}; they can be read from 0 to 65535")
    full = 65535.0
    if values.dtype.kind == "f" and highest <= 255:
        full = 1.0 if highest <= 1 else 255.0
    return Image.fromarray(np.round(values.astype(np.float64) * (65535 / full)).astype(np.uint16))


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width * height > preprocessing.MAX_PIXELS:
        raise ImageError(_too_large(name, f"{width} x {height} pixels"))
    if width < 1 or height < 1:
        raise ImageError(f"{name}: has no pixels ({width} x {height})")


def _too_large(name: str, size: str = "far too many pixels") -> str:
    return f"{name}: has {size}; the limit is {preprocessing.MAX_PIXELS // 1_000_000} million"
