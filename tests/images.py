"""Pictures and image files for the tests, made on the spot with Pillow and NumPy."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

SIZE = 32


def card(interpolation: str = "bilinear", image_size: int = SIZE, short_side: int | None = None) -> dict[str, Any]:
    """A card with nothing but preprocessing."""
    return {
        "preprocessing": {
            "image_size": image_size,
            "resize_short_side": short_side or image_size,
            "interpolation": interpolation,
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        }
    }


def file_bytes(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The picture as a file of that kind."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@functools.cache
def photo(index: int = 0) -> Image.Image:
    """One of scikit-learn's sample photos (china.jpg, flower.jpg), 640 x 427, RGB."""
    from sklearn.datasets import load_sample_images

    return Image.fromarray(load_sample_images().images[index])


@functools.cache
def picture(width: int = 47, height: int = 34) -> Image.Image:
    """A small photo, RGB, with nothing symmetric about it."""
    return photo().resize((width, height), Image.Resampling.BILINEAR)


@functools.cache
def see_through(width: int = 47, height: int = 34) -> Image.Image:
    """`picture` with every degree of transparency, RGBA."""
    image = picture(width, height).copy()
    image.putalpha(Image.linear_gradient("L").resize((width, height)))
    return image


def on_white(image: Image.Image) -> np.ndarray:
    """The reference for transparency: uint8-scaled floats (H, W, 3), unrounded."""
    rgba = np.asarray(image.convert("RGBA"), np.float64)
    alpha = rgba[..., 3:] / 255
    return rgba[..., :3] * alpha + 255 * (1 - alpha)


def png_file(width: int, height: int, depth: int, colour: int, rows: list[bytes], chunks: bytes = b"") -> bytes:
    """A PNG of any kind, Pillow's writer having only some: `rows` are packed samples, `chunks` go before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    body = png_chunk(b"IHDR", header) + chunks + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """One chunk of a PNG with its length and checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def exif(orientation: int) -> Image.Exif:
    """EXIF data with that orientation among other entries."""
    data = Image.Exif()
    data[0x010F] = "Maker"
    data[0x0112] = orientation
    data[0x0131] = "Software"
    return data


def declares(kind: str, width: int, height: int) -> bytes:
    """A small file whose header promises a picture of that size."""
    if kind == "PNG":
        return png_file(width, height, 8, 2, [b"\0" * 30])
    small = bytearray(file_bytes(picture(), kind))
    if kind == "BMP":
        small[18:26] = struct.pack("<ii", width, height)
    elif kind == "GIF":
        small[6:10] = struct.pack("<HH", width, height)
    elif kind == "JPEG":
        frame = next(at for at in range(len(small)) if small[at] == 0xFF and small[at + 1] in (0xC0, 0xC2))
        small[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(small)


def resized_like_pillow(image: Image.Image, size: int, short_side: int, interpolation: str) -> np.ndarray:
    """Pillow's resize of the short side and the centre crop, as torchvision does it: float64 (size, size, 3)."""
    width, height = image.size
    short = min(width, height)
    width, height = short_side * width // short, short_side * height // short
    image = image.resize((width, height), Image.Resampling[interpolation.upper()])
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)), np.float64)


@functools.cache
def graph_files() -> dict[str, bytes]:
    """Every kind of file that the graph decodes, by what it is: its bytes."""
    rgb, grey = picture(), picture().convert("L")
    palette = rgb.quantize(40)
    seen_through = palette.getpixel((20, 10))
    return {
        "jpeg": file_bytes(rgb, "JPEG"),
        "jpeg progressive": file_bytes(rgb, "JPEG", progressive=True, quality=95),
        "jpeg 4:4:4": file_bytes(rgb, "JPEG", subsampling=0),
        "jpeg restarts": file_bytes(rgb, "JPEG", restart_marker_rows=1),
        "jpeg grey": file_bytes(grey, "JPEG"),
        "jpeg cmyk": file_bytes(rgb.convert("CMYK"), "JPEG"),
        "png": file_bytes(rgb, "PNG"),
        "png grey": file_bytes(grey, "PNG"),
        "png 1 bit": file_bytes(grey.convert("1"), "PNG"),
        "png palette": file_bytes(palette, "PNG"),
        "png 4-bit palette": file_bytes(rgb.quantize(13), "PNG", bits=4),
        "png palette with transparent colour": file_bytes(palette, "PNG", transparency=seen_through),
        "png grey with transparent colour": file_bytes(grey, "PNG", transparency=grey.getpixel((5, 5))),
        "png rgb with transparent colour": file_bytes(rgb, "PNG", transparency=rgb.getpixel((5, 5))),
        "png rgba": file_bytes(see_through(), "PNG"),
        "png grey alpha": file_bytes(see_through().convert("LA"), "PNG"),
        "bmp 24": file_bytes(rgb, "BMP"),
        "bmp 32": file_bytes(see_through(), "BMP"),
        "bmp grey": file_bytes(grey, "BMP"),
        "bmp palette": file_bytes(palette, "BMP"),
        "gif": file_bytes(rgb, "GIF"),
        "gif with transparent colour": file_bytes(palette, "GIF", transparency=seen_through),
        "gif interlaced": file_bytes(palette, "GIF", interlace=1),
    }
